package wire

import "vitastor/internal/meta"

// ListFlags are the flags of SEC_LIST.
type ListFlags uint64

// ListPrimary asks a primary for the objects of one image in a PG, instead of
// a secondary for its versions. Servers that know it repeat it in the reply.
const ListPrimary ListFlags = 1

// MinPGStripeBytes is the least pg_stripe_size of a listing.
const MinPGStripeBytes = 4096

// SecList is the request of SEC_LIST (§7.8).
//
//	24        28         32               40          48          56           64           72             76      84
//	| list_pg | pg_count | pg_stripe_size | min_inode | max_inode | min_stripe | max_stripe | stable_limit | flags |
//
// max_stripe 0 on the wire means 2^64-1 and the other way round: Encode and
// Decode translate, Max always is what it says. flags is not aligned.
type SecList struct {
	ID            uint64
	PG            meta.PGNum
	PGCount       uint32 // of the pool
	PGStripeBytes uint64
	// Min and Max are the first and last item of one range of pairs. Roles
	// take part: to reach all roles of an object, Max.Stripe has RoleMask set.
	Min, Max    meta.ObjectID
	StableLimit uint32 // 0 = no limit, and no order
	Flags       ListFlags
}

// PeeringList is the request for everything of a PG.
func PeeringList(pg meta.PG, pgCount uint32, pgStripeBytes uint64) SecList {
	return SecList{
		PG:            pg.Num,
		PGCount:       pgCount,
		PGStripeBytes: pgStripeBytes,
		Min:           meta.ObjectID{Inode: meta.MakeInode(pg.Pool, 0)},
		Max:           meta.ObjectID{Inode: meta.MakeInode(pg.Pool, meta.MaxInodeNumber), Stripe: 1<<64 - 1},
	}
}

// Encode writes the whole packet.
func (r *SecList) Encode(p *Packet) {
	p.startRequest(r.ID, OpSecList)
	le.PutUint32(p[24:28], uint32(r.PG))
	le.PutUint32(p[28:32], r.PGCount)
	le.PutUint64(p[32:40], r.PGStripeBytes)
	le.PutUint64(p[40:48], uint64(r.Min.Inode))
	le.PutUint64(p[48:56], uint64(r.Max.Inode))
	le.PutUint64(p[56:64], r.Min.Stripe)
	le.PutUint64(p[64:72], swapMaxStripe(r.Max.Stripe))
	le.PutUint32(p[72:76], r.StableLimit)
	le.PutUint64(p[76:84], uint64(r.Flags))
}

// Decode reads the fields.
func (r *SecList) Decode(p *Packet) {
	*r = SecList{
		ID:            p.ID(),
		PG:            meta.PGNum(le.Uint32(p[24:28])),
		PGCount:       le.Uint32(p[28:32]),
		PGStripeBytes: le.Uint64(p[32:40]),
		Min:           meta.ObjectID{Inode: meta.Inode(le.Uint64(p[40:48])), Stripe: le.Uint64(p[56:64])},
		Max:           meta.ObjectID{Inode: meta.Inode(le.Uint64(p[48:56])), Stripe: swapMaxStripe(le.Uint64(p[64:72]))},
		StableLimit:   le.Uint32(p[72:76]),
		Flags:         ListFlags(le.Uint64(p[76:84])),
	}
}

// swapMaxStripe exchanges 0 and 2^64-1. Compat: this is how the field is on
// the wire.
func swapMaxStripe(stripe uint64) uint64 {
	if stripe == 0 || stripe == 1<<64-1 {
		return ^stripe
	}
	return stripe
}

// SecListReply announces Retval items (ObjectList) in the payload: first
// StableCount stable versions, then the unstable ones.
//
//	24       32             40      48
//	| retval | stable_count | flags |
type SecListReply struct {
	ID          uint64
	Retval      Retval
	StableCount uint64 // may be stale in an error reply
	Flags       ListFlags
}

// Encode writes the whole packet.
func (r *SecListReply) Encode(p *Packet) {
	p.startReply(r.ID, OpSecList, r.Retval)
	le.PutUint64(p[32:40], r.StableCount)
	le.PutUint64(p[40:48], uint64(r.Flags))
}

// Decode reads the fields.
func (r *SecListReply) Decode(p *Packet) {
	*r = SecListReply{
		ID:          p.ID(),
		Retval:      p.Retval(),
		StableCount: le.Uint64(p[32:40]),
		Flags:       ListFlags(le.Uint64(p[40:48])),
	}
}
