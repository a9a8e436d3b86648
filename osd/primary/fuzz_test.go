package primary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// FuzzServe sends arbitrary packets with primary opcodes to an OSD. Each gets an
// answer, nothing breaks, and an honest client is served afterwards.
func FuzzServe(f *testing.F) {
	add := func(q wire.Message) {
		var p wire.Packet
		q.Encode(&p)
		f.Add(p[16:])
	}
	for _, op := range []wire.Op{wire.OpRead, wire.OpWrite, wire.OpDelete, wire.OpScrub} {
		add(&wire.Rw{Op: op, Inode: inode(1), Offset: 4096, Len: 8192})
		add(&wire.Rw{Op: op, Inode: inode(2), Offset: 4096, Len: 2*testBlock - 4096, Version: 1})
		add(&wire.Rw{Op: op, Inode: inode(2), Offset: 1<<63 - 4096, Len: 4096, MetaRevision: 1})
	}
	add(&wire.HeaderOnly{Op: wire.OpSync})
	add(&wire.Describe{Pool: 1})
	add(&wire.SecList{PG: 1, PGCount: 1, Min: meta.ObjectID{Inode: inode(1)}, Max: meta.ObjectID{Inode: inode(1), Stripe: 1 << 40}, Flags: wire.ListPrimary})
	f.Fuzz(func(t *testing.T, fields []byte) {
		r := newRig(t, 1, meta.CommitNone, 3)
		r.pool(1, meta.Replicated, 0, 1, 2, 3)
		r.pool(2, meta.EC, 1, 1, 2, 3)
		u := r.user(1)
		a := pattern(2*testBlock, 1)
		u.write(2, 0, a)
		for len(fields) >= 8 {
			c := &call{data: make([]byte, 1<<20)}
			(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&c.Packet)
			n := copy(c.Packet[16:], fields)
			fields = fields[n:]
			pl, err := wire.RequestPayload(&c.Packet)
			if op := c.Packet.Op(); err != nil || pl.Bytes() > 1<<20 || op < wire.OpRead || op == wire.OpPing || op == wire.OpSecReadBmp || op == wire.OpSecLock {
				continue
			}
			c.Attr, c.Body = make([]byte, 4096), [][]byte{c.data}
			c.Payload = [][]byte{make([]byte, pl.Bytes())}
			c.Done = func(*msgr.Op) { c.done = true }
			c.Grow = func(op *msgr.Op, n int) bool { op.Body = [][]byte{make([]byte, n)}; return n < 1<<27 }
			u.node.Do(func(*env.Env) { u.up.Submit(&c.Op) })
			u.wait(c)
			if c.Lost {
				t.Fatalf("%v: no answer", c.Packet.String())
			}
		}
		u.write(2, 0, a)
		u.read(2, 0, a)
		u.write(1, 0, a[:testBlock])
		u.read(1, 0, a[:testBlock])
		u.sync()
		r.w.RunFor(time.Second)
		r.idle()
	})
}
