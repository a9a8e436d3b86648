package wire

import "vitastor/internal/meta"

// The checks a server makes on decoded requests, in the order in which a mixed
// cluster may observe them. Each returns OK or the Retval of the reply. Sizes
// of blocks, granules and objects come from checked configuration: not zero.

// Check is the first check of READ, WRITE, DELETE and SCRUB: alignment and
// length (§6.1). It goes before any look at the pool; then come pool and PG
// (EPIPE), and then CheckObject.
func (r *Rw) Check(granularityBytes uint32) Retval {
	if r.Offset%uint64(granularityBytes) != 0 || r.Len%granularityBytes != 0 || r.Len > MaxIOBytes {
		return EINVAL
	}
	return OK
}

// CheckObject is the last check of READ, WRITE, DELETE and SCRUB: the range
// must end inside the object it begins in. objectBytes is the block size times
// the data chunks of the pool.
func (r *Rw) CheckObject(objectBytes uint64) Retval {
	if r.Offset%objectBytes+uint64(r.Len) > objectBytes {
		return EINVAL
	}
	return OK
}

// Check checks SEC_READ, SEC_WRITE and SEC_WRITE_STABLE (§7.1): an aligned
// range inside the block, and a bitmap that is whole or absent. A read may
// have anything in attr_len.
func (r *SecRw) Check(blockBytes, granularityBytes uint32) Retval {
	end := uint64(r.Offset) + uint64(r.Len)
	if r.Offset%granularityBytes != 0 || r.Len%granularityBytes != 0 || r.Len > MaxIOBytes ||
		r.Offset >= blockBytes || end > uint64(blockBytes) {
		return EINVAL
	}
	if r.Op != OpSecRead && r.AttrLen != 0 &&
		r.AttrLen != uint32(meta.BitmapBytes(blockBytes, granularityBytes)) {
		return EINVAL
	}
	return OK
}

// Check checks a listing of a secondary (§7.8). Whether the index is sharded
// like this (EAGAIN) is the store's matter.
func (r *SecList) Check() Retval {
	pool := r.Min.Inode.Pool()
	if pool == 0 || pool != r.Max.Inode.Pool() || r.PGCount == 0 ||
		r.PG == 0 || uint32(r.PG) > r.PGCount || r.PGStripeBytes < MinPGStripeBytes {
		return EINVAL
	}
	return OK
}

// CheckPrimary checks a listing with ListPrimary (§7.8). pgCount and
// pgStripeBytes are those of the pool of r.Min.Inode; 0, 0 for an unknown one.
// Whether we are the primary (EPIPE) is checked after it.
func (r *SecList) CheckPrimary(pgCount uint32, pgStripeBytes uint64) Retval {
	if r.PG == 0 || r.Min.Inode != r.Max.Inode || r.Min.Inode.Pool() == 0 || r.StableLimit != 0 ||
		pgCount == 0 || r.PGCount != 0 && r.PGCount != pgCount ||
		r.PGStripeBytes != 0 && r.PGStripeBytes != pgStripeBytes {
		return EINVAL
	}
	return OK
}

// Check checks a SEC_LOCK of a connection that announced itself as owner, 0 =
// it did not (§8). Compat: pool 65536 passes; no such pool can exist, so ENOENT
// follows.
func (r *SecLock) Check(owner meta.OSDNum) Retval {
	if owner == 0 || r.Flags != LockAcquire && r.Flags != LockRelease ||
		r.Pool > uint64(meta.MaxPoolID)+1 || r.PG == 0 || r.PG > 1<<32-1 {
		return EINVAL
	}
	return OK
}
