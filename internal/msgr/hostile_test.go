package msgr

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// raw makes a packet with anything in it.
func raw(magic, id, op uint64, fields ...any) []byte {
	b := binary.LittleEndian.AppendUint64(nil, magic)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = binary.LittleEndian.AppendUint64(b, op)
	for _, f := range fields {
		b, _ = binary.Append(b, binary.LittleEndian, f)
	}
	return append(b, make([]byte, wire.PacketBytes-len(b))...)
}

// TestBadRequests: what an accepting OSD closes the connection for.
func TestBadRequests(t *testing.T) {
	const q, r = wire.RequestMagic, wire.ReplyMagic
	for _, c := range []struct {
		name   string
		bytes  [][]byte
		reason string
	}{
		{"magic", [][]byte{raw(q^1, 1, 13)}, "unknown magic number 5245432503b1d72b"},
		{"HTTP", [][]byte{[]byte("GET / HTTP/1.1\r\n" + strings.Repeat("x", 200))}, "unknown magic"},
		{"reply nobody asked for", [][]byte{raw(r, 1, 13, int64(0))}, "reply to request 1 (SYNC), which was not made"},
		{"gap", [][]byte{showConfig(1, checkSequencing), raw(q, 3, 13)}, "request 3 (SYNC) came where 2 was expected"},
		{"repeated id", [][]byte{showConfig(1, checkSequencing), raw(q, 1, 13)}, "request 1 (SYNC) came where 2"},
		{"gap in PINGs", [][]byte{showConfig(1, checkSequencing), raw(q, 2, 15), raw(q, 4, 15)}, "request 4 (PING) came where 3"},
		{"gap after refused request", [][]byte{showConfig(1, checkSequencing), raw(q, 2, 99), raw(q, 4, 13)}, "came where 3"},
		{"JSON of 2^40 bytes", [][]byte{raw(q, 1, 10, uint64(1)<<40)}, "announces a payload of 0+1099511627776 bytes"},
		{"list of 2^31 bytes", [][]byte{raw(q, 1, 5, uint64(1)<<31)}, "announces a payload"},
		{"list of 2^64-1 bytes", [][]byte{raw(q, 1, 16, ^uint64(0))}, "announces a payload"},
		{"WRITE of 2^31 bytes", [][]byte{raw(q, 1, 12, uint64(0), uint64(0), uint32(1)<<31)}, "announces a payload"},
		{"SEC_WRITE of 2^31 bytes in two parts", [][]byte{raw(q, 1, 2, uint64(0), uint64(0), uint64(0), uint32(0), uint32(1)<<30, uint32(1)<<30)}, "announces a payload"},
		{"end inside a packet", [][]byte{raw(q, 1, 13)[:100], nil}, "connection lost: EOF"},
		{"end inside a payload", [][]byte{raw(q, 1, 5, uint64(2400)), make([]byte, 100), nil}, "connection lost: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, cut := range []func(int) int{nil, func(int) int { return 1 }, func(n int) int { return min(n, 100) }} {
				w := newFakeWorld()
				w.cut = cut
				server := newNode(t, &w.env, Options{OSD: 1})
				server.serve = func(r *Request) { r.Fail(wire.OK) }
				p := w.dialRaw(server.addr)
				for _, b := range c.bytes {
					if b == nil {
						p.s.Close()
					} else {
						p.send(b)
					}
					w.run()
				}
				wantReason(t, server.reason, c.reason)
				must(t, server.usedBytes() == 0 && server.m.conns.count == 0, "something is left")
			}
		})
	}
}

// TestRefusedRequests: what is answered with EINVAL, after the payload, with
// the connection intact.
func TestRefusedRequests(t *testing.T) {
	const q = wire.RequestMagic
	for _, c := range []struct {
		name    string
		packet  []byte
		payload int
	}{
		{"opcode 0", raw(q, 2, 0), 0},
		{"opcode 20", raw(q, 2, 20), 0},
		{"opcode 2^64-1", raw(q, 2, ^uint64(0)), 0},
		{"TEST_SYNC_STAB_ALL", raw(q, 2, 8), 0},
		{"WRITE of 64 MiB + 1", raw(q, 2, 12, uint64(0), uint64(0), uint32(64<<20+1)), 64<<20 + 1},
		{"READ of 64 MiB + 1", raw(q, 2, 11, uint64(0), uint64(0), uint32(64<<20+1)), 0},
		{"SEC_READ of 4 GiB", raw(q, 2, 1, uint64(0), uint64(0), uint64(0), uint32(0), ^uint32(0)), 0},
		{"SEC_WRITE with a bitmap of 64 KiB + 1", raw(q, 2, 2, uint64(0), uint64(0), uint64(0), uint32(0), uint32(0), uint32(64<<10+1)), 64<<10 + 1},
		{"SHOW_CONFIG with 64 KiB + 1", raw(q, 2, 10, uint64(64<<10+1)), 64<<10 + 1},
		{"list of 32 MiB + 1", raw(q, 2, 6, uint64(32<<20+1)), 32<<20 + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFakeWorld()
			server := newNode(t, &w.env, Options{OSD: 1})
			p := w.dialRaw(server.addr)
			p.send(showConfig(1, checkSequencing))
			w.run()
			p.received = nil
			p.send(c.packet)
			w.run()
			must(t, server.usedBytes() == 0, "%d bytes for a payload that is not wanted", server.usedBytes())
			must(t, c.payload == 0 || len(p.received) == 0, "answered before the payload has come")
			p.send(make([]byte, c.payload), raw(q, 3, 15))
			w.run()
			must(t, len(p.received) == 2*wire.PacketBytes && p.reason == nil, "received %d bytes, %v", len(p.received), p.reason)
			rep := (*wire.Packet)(p.received)
			want := binary.LittleEndian.Uint64(c.packet[16:24])
			must(t, rep.Kind() == wire.KindReply && rep.ID() == 2 && uint64(rep.Op()) == want && rep.Retval() == wire.EINVAL, "%v", rep)
			must(t, (*wire.Packet)(p.received[wire.PacketBytes:]).Op() == wire.OpPing, "PING after it")
		})
	}
}

// TestBadReplies: what a connecting OSD closes the connection for, once ready.
func TestBadReplies(t *testing.T) {
	const q, r = wire.RequestMagic, wire.ReplyMagic
	read := func() *Op {
		op := &Op{Attr: make([]byte, 4), Body: [][]byte{make([]byte, 4096)}}
		(&wire.Rw{Op: wire.OpRead, Len: 4096}).Encode(&op.Packet)
		return op
	}
	list := func() *Op {
		op := &Op{Body: [][]byte{make([]byte, 4096)}, Grow: func(op *Op, n int) bool { return n < 1<<20 }}
		(&wire.SecList{}).Encode(&op.Packet)
		return op
	}
	for _, c := range []struct {
		name   string
		op     func() *Op
		bytes  []byte
		reason string
	}{
		{"magic", read, raw(r+1, 2, 11), "unknown magic"},
		{"unknown id", read, raw(r, 3, 11, int64(4096)), "reply to request 3 (READ), which was not made"},
		{"id 0", read, raw(r, 0, 11, int64(4096)), "reply to request 0"},
		{"id of the past", read, raw(r, 1, 10, int64(4096)), "reply to request 1"},
		{"other opcode", read, raw(r, 2, 12, int64(4096)), "WRITE reply 2: answers READ request 2"},
		{"short read", read, raw(r, 2, 11, int64(4095)), "retval 4095, expected 4096"},
		{"long read", read, raw(r, 2, 11, int64(8192)), "retval 8192, expected 4096"},
		{"long bitmap", read, raw(r, 2, 11, int64(4096), uint32(5)), "5 bytes of bitmap, expected at most 4"},
		{"error with a bitmap", read, raw(r, 2, 11, int64(-5), uint32(4)), "failed with EIO but announces 4 bytes"},
		{"list for which there is no memory", list, raw(r, 2, 9, int64(1<<20)), "more than was expected"},
		{"list that lies about its memory", list, raw(r, 2, 9, int64(1000)), "more than was expected"},
		{"list of 2^40 items", list, raw(r, 2, 9, int64(1)<<40), "announces a payload"},
		{"list with too many stable items", list, raw(r, 2, 9, int64(1), uint64(2)), "2 of 1 items are stable"},
		{"request", read, raw(q, 1, 13), "unexpected SYNC on a connection made by us"},
		{"end", read, nil, "connection lost: EOF"},
		{"end inside the reply's payload", read, append(raw(r, 2, 11, int64(4096)), 1, 2, 3), "connection lost: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFakeWorld()
			client, p := rawServer(t, w, Options{}, goodConfig(5))
			done, op := 0, c.op()
			op.Done = func(op *Op) {
				done++
				must(t, op.Lost && op.Retval == wire.EPIPE, "%v", op.Retval)
			}
			client.up[5].Submit(op)
			w.run()
			client.m.Unwant(5)
			p.send(c.bytes)
			w.run()
			p.s.Close()
			w.run()
			must(t, done == 1, "op completed %d times", done)
			wantReason(t, client.reason, c.reason)
			must(t, strings.HasPrefix(client.last.String(), "OSD 5 at 127.0.0.1:"), "%v", client.last)
		})
	}
}

// rawServer makes an owner of o that is connected to a raw OSD 5.
func rawServer(t testing.TB, w *fakeWorld, o Options, config wire.ConfigReply) (*node, *rawPeer) {
	p, addr := w.listenRaw(t)
	client := newNode(t, &w.env, o)
	client.m.SetAddresses(5, addrPorts(addr))
	client.m.Want(5)
	w.advance(10)
	hello := (*wire.Packet)(p.received)
	must(t, hello.ID() == 1 && hello.Op() == wire.OpShowConfig, "first request: %v", hello)
	text := config.AppendJSON(nil)
	p.received = nil
	p.send(packet(&wire.StatusReply{ID: 1, Op: wire.OpShowConfig, Retval: wire.Retval(len(text))}), text)
	w.run()
	return client, p
}

func TestHandshakeChecks(t *testing.T) {
	store := &wire.StoreParams{BlockBytes: 131072, GranularityBytes: 4096, Commit: meta.CommitAll}
	for _, c := range []struct {
		name   string
		client bool // works for a client
		osd    bool // works for an OSD
		change func(*wire.ConfigReply)
		reason string
	}{
		{"good", true, true, func(*wire.ConfigReply) {}, ""},
		{"other OSD", false, false, func(c *wire.ConfigReply) { c.OSDNum = 6 }, "peer says it is OSD 6"},
		{"version", false, false, func(c *wire.ConfigReply) { c.ProtocolVersion = 2 }, "protocol version 2"},
		{"commit", true, false, func(c *wire.ConfigReply) { c.ImmediateCommit = "small" }, "immediate_commit"},
		{"block", true, false, func(c *wire.ConfigReply) { c.BlockBytes *= 2 }, "block_size"},
		{"granularity", true, false, func(c *wire.ConfigReply) { c.GranularityBytes = 512 }, "bitmap_granularity"},
		{"nothing said", true, true, func(c *wire.ConfigReply) {
			c.ImmediateCommit, c.BlockBytes, c.GranularityBytes = "", 0, 0
		}, ""},
	} {
		config := goodConfig(5)
		c.change(&config)
		for _, o := range []Options{{}, {OSD: 9, Store: store}} {
			w := newFakeWorld()
			n, _ := rawServer(t, w, o, config)
			want := c.client
			if o.OSD != 0 {
				want = c.osd
			}
			if got := n.m.Conn(5) != nil; got != want {
				t.Errorf("%s: connected %v: %v", c.name, got, n.reason)
			}
			if !want {
				wantReason(t, n.reason, c.reason)
				must(t, n.events[0] == "failed 5", "%v", n.events)
			}
		}
	}
}

func TestBrokenHandshakes(t *testing.T) {
	for _, c := range []struct {
		name   string
		bytes  []byte
		reason string
	}{
		{"failed", packet(&wire.StatusReply{ID: 1, Op: wire.OpShowConfig, Retval: wire.EINVAL}), "SHOW_CONFIG failed with EINVAL"},
		{"empty", packet(&wire.StatusReply{ID: 1, Op: wire.OpShowConfig}), "not a JSON object"},
		{"no object", append(packet(&wire.StatusReply{ID: 1, Op: wire.OpShowConfig, Retval: 4}), "123\x00"...), "not a JSON object"},
		{"too long", packet(&wire.StatusReply{ID: 1, Op: wire.OpShowConfig, Retval: 64<<10 + 1}), "more than was expected"},
		{"silence", nil, "no answer to SHOW_CONFIG"},
	} {
		w := newFakeWorld()
		p, addr := w.listenRaw(t)
		n := newNode(t, &w.env, Options{})
		n.m.SetAddresses(5, addrPorts(addr))
		n.m.Want(5)
		w.advance(10)
		p.send(c.bytes)
		w.advance(11 * time.Second)
		wantReason(t, n.reason, c.reason)
		must(t, n.events[0] == "failed 5", "%v", n.events)
		n.m.Unwant(5)
		w.run()
	}
}

func TestPeerThatAnswersBeforeTheQuestion(t *testing.T) {
	w := newFakeWorld()
	n, p := rawServer(t, w, Options{}, goodConfig(5))
	w.window = 1000 // the request cannot be sent
	done := 0
	op := &Op{Payload: [][]byte{make([]byte, 4096)}, Done: func(*Op) { done++ }}
	(&wire.Rw{Op: wire.OpWrite, Len: 4096}).Encode(&op.Packet)
	n.up[5].Submit(op)
	p.s.PauseRead()
	w.run()
	p.send(packet(&wire.RwReply{ID: 2, Op: wire.OpWrite, Retval: 4096}))
	w.run()
	must(t, done == 0, "the memory is still being sent")
	p.s.ResumeRead()
	w.run()
	must(t, done == 1 && op.Retval == 4096, "done %d: %v", done, op.Retval)
	// The same, but the connection ends before the request was sent.
	n.up[5].Submit(op)
	p.s.PauseRead()
	w.run()
	p.send(packet(&wire.RwReply{ID: 3, Op: wire.OpWrite, Retval: 4096}))
	w.run()
	n.m.Unwant(5)
	n.m.Conn(5).Drop(errUnwanted)
	w.run()
	must(t, done == 2 && op.Retval == 4096 && !op.Lost, "done %d: %v", done, op.Retval)
	must(t, n.events[len(n.events)-1] == "down 5", "%v", n.events)
}

// TestHostileMemory: peers announce as much as they can and send nothing.
func TestHostileMemory(t *testing.T) {
	w := newFakeWorld()
	limits := Limits{ClientPayloadBytes: 70 << 20, PeerPayloadBytes: 70 << 20}
	server := newNode(t, &w.env, Options{OSD: 1, Limits: limits})
	served := 0
	server.serve = func(r *Request) { served++; r.Fail(wire.OK) }
	var hogs []*rawPeer
	for i := range 50 {
		p := w.dialRaw(server.addr)
		if hogs = append(hogs, p); i >= 3 {
			p.send(showConfig(1, `{"osd_num": 66}`))
		}
		w.run()
		switch {
		case i == 0:
			p.send(raw(wire.RequestMagic, 1, 12, uint64(0), uint64(0), uint32(64<<20)))
		case i%2 == 1:
			p.send(raw(wire.RequestMagic, 1, 5, uint64(32<<20)))
		default:
			p.send(raw(wire.RequestMagic, 2, 2, uint64(0), uint64(0), uint64(0), uint32(0), uint32(32<<20), uint32(32<<10)))
		}
	}
	w.run()
	for _, pool := range server.m.Pools()[1:] {
		s := pool.Stats()
		must(t, s.UsedBytes <= s.LimitBytes && s.UsedBytes >= 32<<20, "%+v", s)
	}
	must(t, server.m.Stats().Waits >= 40 && served == 0, "%d connections wait", server.m.Stats().Waits)
	// A client and an OSD that behave get their turn, because the others are
	// dropped when they make no progress. The OSD has to wait for minutes: only
	// our PINGs tell it that we live.
	client := newNode(t, &w.env, Options{})
	osd := newNode(t, &w.env, Options{OSD: 2})
	done := 0
	for _, n := range []*node{client, osd} {
		op := &Op{Payload: [][]byte{make([]byte, 96)}, Done: func(op *Op) {
			done++
			must(t, op.Retval == 0 && !op.Lost, "%v: %v", op.Retval, op.conn.reason)
		}}
		(&wire.SecStab{Op: wire.OpSecStabilize, Len: 96}).Encode(&op.Packet)
		connect(t, w, n, server).Submit(op)
	}
	w.advance(4 * time.Second)
	must(t, done == 0, "the hogs do not hog")
	w.advance(5 * time.Minute)
	must(t, done == 2, "%d of 2 done", done)
	dropped := 0
	for _, p := range hogs {
		if p.reason != nil {
			dropped++
		}
	}
	must(t, dropped >= 45, "%d hogs dropped", dropped)
}

func addrPorts[T any](a ...T) []T { return a }
