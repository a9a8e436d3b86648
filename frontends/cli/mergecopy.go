package cli

import (
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// blockCopy moves one block of the target at a time: read through TO, then
// write what exists.
//
//	CAS:     version -> read -> write run (version+1) -> write run (+1) ... ; EINTR: again
//	no CAS:  read -> write run -> write run ...
//
// With CAS the version is known before the data: whatever was written in
// between makes the first write fail.
type blockCopy struct {
	j       *mergeJob
	offset  uint64
	op      client.Op
	buf     []byte
	bitmap  meta.Bitmap // of the granules of TO
	version meta.Version
	at      int // granules of the target that are done
	done    func(*failure)
}

// copyMemory bounds the buffers of all blocks in flight.
const copyMemory = 256 << 20

// copy writes all blocks and makes them durable.
func (j *mergeJob) copy(blocks []uint64) error {
	j.shown = j.newProgress()
	defer j.shown.end()
	parallel := max(1, min(j.parallel(), int(copyMemory/j.block)))
	free := make([]*blockCopy, 0, parallel)
	copied := 0
	var failed *failure
	show := func() {
		j.shown.at(uint64(copied), uint64(len(blocks)), fmt.Sprintf("Overwriting blocks: %d/%d", copied, len(blocks)))
	}
	show()
	err := j.conn.each(len(blocks), parallel, func(i int, done func()) {
		if failed != nil {
			j.conn.env.Clock.Arm(later(done), 0)
			return
		}
		var b *blockCopy
		if n := len(free); n > 0 {
			b, free = free[n-1], free[:n-1]
		} else {
			b = &blockCopy{j: j, buf: make([]byte, j.block), bitmap: make(meta.Bitmap, (j.block/j.topGranule+7)/8)}
		}
		b.done = func(f *failure) {
			free = append(free, b)
			if f != nil {
				failed = f
			} else {
				copied++
			}
			show()
			done()
		}
		b.start(blocks[i])
	})
	if err == nil && failed != nil {
		err = failed
	}
	if err != nil {
		return err
	}
	if errno, err := j.conn.do(&client.Op{Kind: client.Sync}); err != nil || errno != 0 {
		return fail(syscall.EIO, "Failed to sync layer %s: %v: repeat the command", j.merge.layer().Name, errno)
	}
	return nil
}

func (b *blockCopy) submit(kind client.Kind, bytes uint64, next func(*client.Op)) {
	b.op.Kind, b.op.Bytes, b.op.Flags, b.op.Done = kind, bytes, 0, next
	b.op.Iov, b.op.Bitmap, b.op.Version = nil, nil, 0
}

func (b *blockCopy) start(offset uint64) {
	b.offset, b.at, b.version = offset, 0, 0
	if !b.j.cas {
		b.read()
		return
	}
	b.submit(client.Read, 0, func(op *client.Op) {
		if op.Err != 0 {
			b.done(b.j.dataError("read", op))
			return
		}
		b.version = op.Version
		b.read()
	})
	b.op.Inode, b.op.Offset = b.j.merge.layer().ID, offset
	b.j.conn.client.Submit(&b.op)
}

func (b *blockCopy) read() {
	b.submit(client.Read, b.j.block, func(op *client.Op) {
		if op.Err != 0 {
			b.done(b.j.dataError("read", op))
			return
		}
		b.write()
	})
	b.op.Inode, b.op.Offset, b.op.Iov, b.op.Bitmap = b.j.merge.to().ID, b.offset, [][]byte{b.buf}, b.bitmap
	b.j.conn.client.Submit(&b.op)
}

// exists tells whether some layer has data in a granule of the target.
func (b *blockCopy) exists(i int) bool {
	g, t := b.j.granule, b.j.topGranule
	return b.bitmap.Any(int(uint64(i)*g/t), int((uint64(i+1)*g+t-1)/t))
}

// write writes the next run of granules.
func (b *blockCopy) write() {
	units := int(b.j.block / b.j.granule)
	for b.at < units && !b.exists(b.at) {
		b.at++
	}
	if b.at == units {
		b.done(nil)
		return
	}
	from := b.at
	for b.at < units && b.exists(b.at) {
		b.at++
	}
	start, end := uint64(from)*b.j.granule, uint64(b.at)*b.j.granule
	b.submit(client.Write, end-start, b.written)
	b.op.Inode, b.op.Offset, b.op.Flags, b.op.Iov = b.j.merge.layer().ID, b.offset+start, client.IgnoreReadonly, [][]byte{b.buf[start:end]}
	if b.j.cas {
		b.op.Version = b.version + 1
	}
	b.j.conn.client.Submit(&b.op)
}

func (b *blockCopy) written(op *client.Op) {
	switch {
	case op.Err == syscall.EINTR && b.j.cas: // somebody has written: look again
		b.start(b.offset)
	case op.Err != 0:
		b.done(b.j.dataError("write", op))
	default:
		b.version = max(op.Version, b.version+1)
		b.write()
	}
}

// later calls f in the next iteration of the loop.
func later(f func()) *env.Timer { return &env.Timer{Fire: f} }
