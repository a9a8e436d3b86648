package msgr

import (
	"testing"
	"time"

	"vitastor/internal/wire"
)

// FuzzIncoming feeds any bytes, cut anywhere, to an OSD. Nothing may panic, all
// memory must come back, and a well-behaved client must be served afterwards.
func FuzzIncoming(f *testing.F) {
	q := wire.RequestMagic
	f.Add([]byte{1, 50, 200}, showConfig(1, checkSequencing))
	f.Add([]byte{0}, append(showConfig(1, `{"osd_num": 3}`), raw(q, 2, 15)...))
	f.Add([]byte{7}, append(raw(q, 1, 12, uint64(5), uint64(0), uint32(300)), make([]byte, 300)...))
	f.Add([]byte{9, 9}, append(raw(q, 1, 2, uint64(5), uint64(0), uint64(1), uint32(0), uint32(100), uint32(90)), make([]byte, 190)...))
	f.Add([]byte{3}, append(raw(q, 1, 5, uint64(48)), make([]byte, 48)...))
	f.Add([]byte{255}, append(raw(q, 1, 11, uint64(5), uint64(0), uint32(70<<20)), raw(q, 2, 13)...))
	f.Add([]byte{16}, append(raw(q, 1, 99), raw(wire.ReplyMagic, 1, 13)...))
	f.Fuzz(func(t *testing.T, cuts, input []byte) {
		w := newFakeWorld()
		w.cut = cutsOf(cuts)
		w.window = 1 << 16
		server := newNode(t, &w.env, Options{OSD: 1, Limits: Limits{ClientRequests: 2, RequestsPerConn: 3}})
		var held []*Request
		p := &rawPeer{}
		server.serve = func(r *Request) {
			if p.reason == nil && len(input)%3 == 0 && len(held) < 2 {
				held = append(held, r) // not answered before the end
				return
			}
			r.Fail(wire.EIO)
		}
		p.s = w.Dial(server.addr, p)
		for i := 0; i < len(input); i += 1000 {
			p.send(input[i:min(i+1000, len(input))])
			w.run()
		}
		w.advance(30 * time.Second)
		p.reason = errUnwanted
		p.s.Close()
		w.advance(time.Second)
		for _, r := range held {
			r.Fail(wire.OK)
		}
		w.advance(30 * time.Second)
		must(t, server.usedBytes() == 0 && server.m.clients.used == 0 && server.m.conns.count == 0, "something is left")
		client := newNode(t, &w.env, Options{})
		done := false
		op := &Op{Done: func(*Op) { done = true }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
		connect(t, w, client, server).Submit(op)
		w.run()
		must(t, done && !op.Lost, "a good client is not served: %v", op.Retval)
	})
}

// FuzzOutgoing feeds any bytes, cut anywhere, as replies to a client with
// requests in flight. Each must complete exactly once.
func FuzzOutgoing(f *testing.F) {
	r := wire.ReplyMagic
	f.Add([]byte{1, 50, 200}, false, append(raw(r, 2, 11, int64(4096), uint32(4)), make([]byte, 4100)...))
	f.Add([]byte{0}, false, append(raw(r, 3, 12, int64(4096)), raw(r, 4, 9, int64(-11))...))
	f.Add([]byte{9}, false, append(raw(r, 4, 9, int64(2), uint64(1)), make([]byte, 48)...))
	f.Add([]byte{0}, false, append(raw(r, 5, 18, int64(1), uint64(32)), make([]byte, 32)...))
	f.Add([]byte{33}, false, raw(wire.RequestMagic, 1, 15))
	f.Add([]byte{0}, true, append(raw(r, 1, 10, int64(13)), "{\"osd_num\":5}"...))
	f.Add([]byte{5}, true, raw(r, 1, 10, int64(-22)))
	f.Fuzz(func(t *testing.T, cuts []byte, handshake bool, input []byte) {
		w := newFakeWorld()
		var client *node
		var p *rawPeer
		if handshake {
			peer, addr := w.listenRaw(t)
			p, client = peer, newNode(t, &w.env, Options{})
			client.m.SetAddresses(5, addrPorts(addr))
			client.m.Want(5)
			w.advance(10)
		} else {
			client, p = rawServer(t, w, Options{}, goodConfig(5))
		}
		w.cut = cutsOf(cuts)
		done := make([]int, 4)
		ops := make([]*Op, 4)
		for i := range ops {
			ops[i] = &Op{Attr: make([]byte, 16), Body: [][]byte{make([]byte, 4096)}, Done: func(*Op) { done[i]++ }}
			switch i {
			case 0:
				(&wire.Rw{Op: wire.OpRead, Len: 4096}).Encode(&ops[i].Packet)
			case 1:
				ops[i].Payload = [][]byte{make([]byte, 4096)}
				(&wire.Rw{Op: wire.OpWrite, Len: 4096}).Encode(&ops[i].Packet)
			case 2:
				(&wire.SecList{}).Encode(&ops[i].Packet)
				ops[i].Grow = func(op *Op, n int) bool { op.Body = [][]byte{make([]byte, min(n, 1<<20))}; return true }
			case 3:
				(&wire.Describe{}).Encode(&ops[i].Packet)
			}
			if c := client.up[5]; c != nil {
				c.Submit(ops[i])
			}
		}
		c := client.up[5]
		p.send(input)
		w.run()
		client.m.Unwant(5)
		p.s.Close()
		w.advance(30 * time.Second)
		for i, n := range done {
			must(t, n == boolNum(c != nil), "op %d completed %d times", i, n)
			must(t, c == nil || ops[i].Lost || !ops[i].Reply.Retval().Failed() || ops[i].BodyBytes == 0, "op %d: error with data", i)
		}
		must(t, client.m.conns.count == 0, "connection left")
	})
}

func boolNum(b bool) int {
	if b {
		return 1
	}
	return 0
}

// cutsOf repeats the wanted sizes of pieces; 0 = all there is.
func cutsOf(sizes []byte) func(int) int {
	i := 0
	return func(n int) int {
		if len(sizes) == 0 || n == 0 {
			return n
		}
		i++
		if size := int(sizes[i%len(sizes)]); size > 0 {
			return min(n, size)
		}
		return n
	}
}
