package secondary

import (
	"encoding/binary"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// FuzzRequest sends one request with arbitrary fields and payload to an OSD
// with some objects: it answers or drops the connection, and nothing is left
// over.
func FuzzRequest(f *testing.F) {
	id := oid(2, 1, 0)
	for _, m := range []wire.Message{
		&wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: newest, Len: 8192},
		&wire.SecRw{Op: wire.OpSecWrite, Chunk: id, Version: 9, Offset: 4096, Len: 4096, AttrLen: 4, Flags: 1},
		&wire.SecRw{Op: wire.OpSecWriteStable, Chunk: oid(1, 1, 0), Version: 9, Len: 4096},
		&wire.SecStab{Op: wire.OpSecStabilize, Len: 50}, &wire.SecStab{Op: wire.OpSecRollback, Len: 24, Flags: 1},
		&wire.SecDel{Chunk: id, Flags: 2}, &wire.SecSync{}, &wire.SecReadBmp{Len: 48},
		&wire.SecLock{Flags: 1, Pool: 1, PG: 1}, &wire.SecList{PG: 1, PGCount: 1, PGStripeBytes: 2 * blockBytes, Min: id, Max: id},
		&wire.Rw{Op: wire.OpRead, Len: 4096}, &wire.HeaderOnly{Op: 8}, &wire.HeaderOnly{Op: 77},
	} {
		var p wire.Packet
		m.Encode(&p)
		f.Add(uint64(p.Op()), p[24:], []byte(wire.ObjectList(nil).Append(at(id, 5)).Append(at(id, 1))))
	}
	f.Fuzz(func(t *testing.T, op uint64, fields, payload []byte) {
		r := newRig(t, 1)
		r.peer(1).fill(4)
		x := r.raw(t)
		var p wire.Packet
		(&wire.HeaderOnly{ID: 1, Op: wire.Op(op)}).Encode(&p)
		copy(p[24:], fields)
		pl, err := wire.RequestPayload(&p)
		if err == nil && pl.Bytes() > 1<<20 {
			return
		}
		body := make([]byte, pl.Bytes())
		copy(body, payload)
		if len(body) == 0 {
			body = payload // bytes that do not belong to it: the next request, most probably nonsense
		}
		x.node.Do(func(*env.Env) {
			x.s.Send(&env.SendOp{Parts: [][]byte{p[:], body}, Done: func(*env.SendOp, error) {}})
		})
		r.w.RunUntil(func() bool { return len(x.got) >= wire.PacketBytes || x.end != nil }, time.Minute)
		switch {
		case len(x.got) >= wire.PacketBytes:
			if binary.LittleEndian.Uint64(x.got[16:]) != op {
				t.Errorf("reply to another opcode: %x", x.got[:32])
			}
		case x.end == nil:
			t.Error("neither a reply nor the end of the connection")
		}
		x.node.Do(func(*env.Env) { x.s.Close() })
		r.idle()
	})
}
