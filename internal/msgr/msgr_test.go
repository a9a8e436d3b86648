package msgr

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// echoOSD keeps one object of a MiB: WRITE stores, READ returns.
type echoOSD struct{ object [1 << 20]byte }

func (o *echoOSD) serve(r *Request) {
	var rw wire.Rw
	rw.Decode(&r.Packet)
	switch r.Op() {
	case wire.OpWrite:
		at := int(rw.Offset)
		for _, b := range r.Body {
			at += copy(o.object[at:], b)
		}
		(&wire.RwReply{Op: r.Op(), Retval: wire.Retval(rw.Len), Version: 7}).Encode(&r.Reply)
	case wire.OpRead:
		at := int(rw.Offset)
		for _, b := range r.Body {
			at += copy(b, o.object[at:])
		}
		(&wire.RwReply{Op: r.Op(), Retval: wire.Retval(rw.Len), BitmapLen: 4, Version: 7}).Encode(&r.Reply)
		r.ReplyParts = append(append(r.ReplyParts, []byte("bits")), r.Body...)
	default:
		r.Fail(wire.OK)
		return
	}
	r.Finish()
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return b
}

func TestRequestsAndReplies(t *testing.T) {
	w := newFakeWorld()
	osd := &echoOSD{}
	client, server, c := pairOf(t, w, osd.serve)
	must(t, c.Config().BlockBytes == 131072 && c.OSD() == 1 && !c.Incoming() && c.Ready(), "%+v", c.Info())
	for _, n := range []int{0, 4096, 64 << 10, 300 << 10, 1 << 20} {
		data, got, done := pattern(n, 3), make([]byte, n), 0
		write := &Op{Payload: [][]byte{data[:n/3], data[n/3:]}, Done: func(op *Op) {
			done++
			must(t, op.Retval == wire.Retval(n) && !op.Lost, "WRITE %d: %v", n, op.Retval)
		}}
		(&wire.Rw{Op: wire.OpWrite, Len: uint32(n)}).Encode(&write.Packet)
		read := &Op{Attr: make([]byte, 8), Body: [][]byte{got[:n/2], got[n/2:]}, Done: func(op *Op) {
			done++
			must(t, op.Retval == wire.Retval(n) && op.AttrBytes == 4 && op.BodyBytes == n, "READ %d: %+v", n, op)
			must(t, bytes.Equal(got, data) && string(op.Attr[:4]) == "bits", "READ %d: wrong data", n)
			var rep wire.RwReply
			rep.Decode(&op.Reply)
			must(t, rep.Version == 7, "version %v", rep.Version)
		}}
		(&wire.Rw{Op: wire.OpRead, Len: uint32(n)}).Encode(&read.Packet)
		sync := &Op{Done: func(op *Op) { done++ }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&sync.Packet)
		for range 3 { // ops are reusable
			done = 0
			c.Submit(write)
			c.Submit(read)
			c.Submit(sync)
			must(t, done == 0, "Done inside Submit")
			w.run()
			must(t, done == 3, "%d of 3 done", done)
		}
	}
	sent, received := client.m.Stats().Sent, server.m.Stats().Received
	for _, op := range []wire.Op{wire.OpWrite, wire.OpRead, wire.OpSync, wire.OpShowConfig} {
		if sent[op].Count != received[op].Count || sent[op].Bytes != received[op].Bytes || sent[op].Count == 0 {
			t.Errorf("%v: sent %+v, received %+v", op, sent[op], received[op])
		}
	}
	must(t, server.usedBytes() == 0, "%d bytes leaked", server.usedBytes())
}

func TestRepliesInAnyOrder(t *testing.T) {
	w := newFakeWorld()
	var held []*Request
	_, _, c := pairOf(t, w, func(r *Request) { held = append(held, r) })
	var order []uint64
	for i := range 9 {
		op := &Op{Done: func(op *Op) {
			var rep wire.SecDelReply
			rep.Decode(&op.Reply)
			must(t, rep.Version == meta.Version(i), "reply of another request: %d for %d", rep.Version, i)
			order = append(order, uint64(i))
		}}
		(&wire.SecDel{Version: meta.Version(i)}).Encode(&op.Packet)
		c.Submit(op)
	}
	w.run()
	must(t, len(held) == 9, "%d requests arrived", len(held))
	for _, i := range []int{8, 0, 3, 7, 1, 2, 6, 5, 4} {
		var del wire.SecDel
		del.Decode(&held[i].Packet)
		must(t, del.ID == uint64(i)+2, "ids are not contiguous: %d", del.ID)
		(&wire.SecDelReply{Version: del.Version}).Encode(&held[i].Reply)
		held[i].Finish()
		w.run()
	}
	must(t, len(order) == 9 && order[0] == 8 && order[8] == 4, "order %v", order)
}

func TestListsGrowAndErrorsHaveNoPayload(t *testing.T) {
	w := newFakeWorld()
	list := wire.ObjectList(nil)
	for i := range 100_000 { // 2.4 MB
		list = list.Append(meta.ObjectVersion{Version: meta.Version(i)})
	}
	fail := wire.OK
	_, server, c := pairOf(t, w, func(r *Request) {
		switch {
		case fail.Failed():
			r.Fail(fail)
		case r.Op() == wire.OpSecStabilize:
			at := 0
			for _, b := range r.Body {
				part := wire.ObjectList(b)
				must(t, len(b)%wire.ObjectItemBytes == 0, "an item is cut")
				for i := range part.Len() {
					must(t, part.At(i).Version == meta.Version(at), "item %d", at)
					at++
				}
			}
			must(t, at == list.Len(), "%d items", at)
			r.Fail(wire.OK)
		default:
			(&wire.SecListReply{Retval: wire.Retval(list.Len()), StableCount: 5}).Encode(&r.Reply)
			r.ReplyParts = append(r.ReplyParts, list)
			r.Finish()
		}
	})
	grown := 0
	ls := &Op{Grow: func(op *Op, n int) bool {
		grown++
		op.Body = [][]byte{make([]byte, 1<<20), make([]byte, n-1<<20)}
		return true
	}, Done: func(op *Op) {}}
	req := wire.PeeringList(meta.PG{Pool: 1, Num: 1}, 1, 1<<20)
	req.Encode(&ls.Packet)
	c.Submit(ls)
	w.run()
	got := append(append([]byte(nil), ls.Body[0]...), ls.Body[1]...)
	must(t, grown == 1 && ls.Retval == 100_000 && bytes.Equal(got, list), "retval %v, grown %d", ls.Retval, grown)
	stab := &Op{Payload: [][]byte{list}, Done: func(op *Op) {}}
	(&wire.SecStab{Op: wire.OpSecStabilize, Len: uint64(len(list))}).Encode(&stab.Packet)
	c.Submit(stab)
	w.run()
	must(t, stab.Retval == wire.OK && !stab.Lost, "SEC_STABILIZE %v", stab.Retval)
	fail = wire.EAGAIN
	c.Submit(ls)
	w.run()
	must(t, ls.Retval == wire.EAGAIN && !ls.Lost && ls.BodyBytes == 0 && grown == 1, "%v", ls.Retval)
	must(t, server.usedBytes() == 0, "memory leaked")
}

func TestDisconnectLosesOpsOnce(t *testing.T) {
	for _, who := range []string{"client", "server", "submit after"} {
		w := newFakeWorld()
		w.window = 100_000 // so that some requests are not sent yet
		var held []*Request
		client, server, c := pairOf(t, w, func(r *Request) { held = append(held, r) })
		client.m.limits.OpsPerConn = 8
		done := map[int]int{}
		for i := range 12 { // replied, sent, being sent, waiting
			op := &Op{Payload: [][]byte{make([]byte, 20_000)}, Done: func(op *Op) {
				done[i]++
				must(t, op.Lost == (i > 0) && (op.Retval == wire.EPIPE) == (i > 0), "op %d: %v", i, op.Retval)
			}}
			(&wire.Rw{Op: wire.OpWrite, Len: 20_000}).Encode(&op.Packet)
			c.Submit(op)
			if i == 0 {
				w.run()
				(&wire.RwReply{Op: wire.OpWrite, Retval: 20_000}).Encode(&held[0].Reply)
				held[0].Finish()
				w.run()
				held[0] = nil
				server.m.conns.head.stream.(*fakeStream).paused = true
			}
		}
		w.run()
		client.m.Unwant(1)
		switch who {
		case "server":
			server.m.Connections(func(c *Conn) { c.Drop(errUnwanted) })
		default:
			c.Drop(errUnwanted)
		}
		must(t, len(done) == 1, "Done inside Drop")
		server.m.Connections(func(c *Conn) { c.stream.(*fakeStream).paused = false })
		must(t, !c.Ready() == (who != "server"), "state")
		w.run()
		if who == "submit after" {
			late := &Op{Done: func(op *Op) { done[99]++; must(t, op.Lost, "late op %v", op.Retval) }}
			(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&late.Packet)
			c.Submit(late)
			must(t, done[99] == 0, "Done inside Submit")
			w.run()
			must(t, done[99] == 1, "late op not completed")
		}
		for i := range 12 {
			must(t, done[i] == 1, "%s: op %d completed %d times", who, i, done[i])
		}
		must(t, client.events[len(client.events)-1] == "down 1" && server.last != nil, "%v", client.events)
		for _, r := range held[1:] { // finishing them later does no harm
			finished := 0
			r.Sent = func(*Request) { finished++ }
			r.Fail(wire.EIO)
			must(t, finished == 0, "Sent inside Finish")
			w.run()
			must(t, finished == 1, "Sent called %d times", finished)
		}
		must(t, server.usedBytes() == 0 && server.m.clients.used == 0, "%s: memory leaked", who)
	}
}

// dropper drops the connection in every callback.
type dropper struct{ *node }

func (d dropper) Connected(c *Conn) {
	d.node.Connected(c)
	op := &Op{Done: func(op *Op) { c.Drop(errUnwanted) }}
	(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
	if c.Submit(op); len(d.events)%2 == 1 {
		c.Drop(errUnwanted)
	}
}

func (d dropper) Disconnected(c *Conn, reason error) {
	d.node.Disconnected(c, reason)
	c.Drop(errUnwanted)
	d.m.Unwant(c.OSD())
	d.m.Want(c.OSD())
}

func TestDropInsideCallbacks(t *testing.T) {
	w := newFakeWorld()
	var held []*Request
	client, server, c := pairOf(t, w, func(r *Request) {
		held = append(held, r)
		r.Conn.Drop(errUnwanted)
		if len(held)%2 == 0 {
			r.Fail(wire.OK)
		}
	})
	client.m.handler = dropper{client}
	c.Drop(errUnwanted)
	w.advance(time.Minute)
	must(t, len(client.events) > 20, "%v", client.events)
	client.m.Forget(1)
	server.serve = func(r *Request) { r.Fail(wire.OK) }
	for i, r := range held {
		if i%2 == 0 {
			r.Fail(wire.OK)
		}
	}
	w.advance(time.Minute)
	must(t, client.m.conns.count == 0 && server.m.conns.count == 0 && server.usedBytes() == 0 && server.m.clients.used == 0, "something is left")
}

func TestOpsBeyondTheLimitWait(t *testing.T) {
	w := newFakeWorld()
	var held []*Request
	client, _, c := pairOf(t, w, func(r *Request) { held = append(held, r) })
	client.m.limits.OpsPerConn = 3
	done := 0
	for range 10 {
		op := &Op{Done: func(*Op) { done++ }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
		c.Submit(op)
	}
	for i := range 10 {
		w.run()
		must(t, len(held) == min(i+3, 10), "%d requests after %d replies", len(held), i)
		held[i].Fail(wire.OK)
	}
	w.run()
	must(t, done == 10, "%d done", done)
}

func TestTimeouts(t *testing.T) {
	w := newFakeWorld()
	client, _, c := pairOf(t, w, func(r *Request) {})
	client.m.limits.OpsPerConn = 1
	var got [2]*Op
	for i := range got {
		op := &Op{Timeout: time.Duration(3-i) * time.Second, Done: func(op *Op) { got[i] = op }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
		c.Submit(op)
	}
	w.advance(2500 * time.Millisecond)
	must(t, got[0] == nil && got[1] != nil && got[1].Retval == wire.ETIMEDOUT && got[1].Lost && c.Ready(), "waiting op")
	w.advance(time.Second)
	must(t, got[0] != nil && got[0].Retval == wire.EPIPE && got[0].Lost, "sent op")
	wantReason(t, client.reason, "SYNC was not answered within 3s")
}

func TestIdentityAndRepeatedShowConfig(t *testing.T) {
	w := newFakeWorld()
	server := newNode(t, &w.env, Options{OSD: 1})
	server.serve = func(r *Request) { r.Fail(wire.Retval(r.Conn.OSD())) }
	p := w.dialRaw(server.addr)
	sync := func(id uint64) wire.Retval {
		p.received = nil
		p.send(packet(&wire.HeaderOnly{ID: id, Op: wire.OpSync}))
		w.run()
		if len(p.received) != wire.PacketBytes {
			return -9999
		}
		return (*wire.Packet)(p.received).Retval()
	}
	must(t, sync(77) == 0 && sync(5) == 0, "without SHOW_CONFIG any ids are legal")
	for i, c := range []struct {
		text string
		osd  wire.Retval
	}{{"", 0}, {`{"osd_num": 42}`, 42}, {"junk", 0}, {`{"osd_num": "7", "features": {"check_sequencing": true}}`, 7}} {
		id := uint64(10 * (i + 1))
		p.received = nil
		p.send(showConfig(id, c.text))
		w.run()
		rep := (*wire.Packet)(p.received)
		must(t, rep.ID() == id && int(rep.Retval()) == len(p.received)-wire.PacketBytes && p.received[len(p.received)-1] == 0, "reply %v", rep)
		config, err := wire.ParseConfigReply(p.received[wire.PacketBytes:])
		must(t, err == nil && config == goodConfig(1), "%+v %v", config, err)
		must(t, sync(id+1) == c.osd, "identity after %q", c.text)
	}
	must(t, sync(42) == 7, "next id after the repeated SHOW_CONFIG and one SYNC")
	must(t, sync(44) == -9999 && p.reason != nil, "a gap was accepted")
	wantReason(t, server.reason, "request 44 (SYNC) came where 43 was expected")
	must(t, strings.Contains(server.last.String(), "OSD 7 at 127.0.0.1:"), "%v", server.last)
}

func TestMisuseIsAnInvariant(t *testing.T) {
	w := newFakeWorld()
	var held *Request
	_, _, c := pairOf(t, w, func(r *Request) { held = r })
	op := &Op{Done: func(*Op) {}}
	t.Log(violation(t, func() { c.Submit(op) })) // no packet
	(&wire.Rw{Op: wire.OpWrite, Len: 5}).Encode(&op.Packet)
	t.Log(violation(t, func() { c.Submit(op) })) // no payload
	(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
	c.Submit(op)
	t.Log(violation(t, func() { c.Submit(op) })) // twice
	w.run()
	t.Log(violation(t, held.Finish)) // no reply
	(&wire.StatusReply{Op: wire.OpDelete}).Encode(&held.Reply)
	t.Log(violation(t, held.Finish)) // other opcode
	(&wire.StatusReply{Op: wire.OpSync}).Encode(&held.Reply)
	held.ReplyParts = append(held.ReplyParts, []byte("x"))
	t.Log(violation(t, held.Finish)) // payload not announced
	held.Fail(wire.OK)
	t.Log(violation(t, held.Finish)) // twice
	w.run()
}

func TestSlowOps(t *testing.T) {
	w := newFakeWorld()
	var held []*Request
	client, server, c := pairOf(t, w, func(r *Request) { held = append(held, r) })
	client.m.limits.OpsPerConn = 1
	for range 2 {
		op := &Op{Done: func(*Op) {}}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
		c.Submit(op)
		w.advance(2 * time.Second)
	}
	var seen []string
	collect := func(o SlowOp) {
		seen = append(seen, o.State)
		must(t, o.Packet.Op() == wire.OpSync && o.Age >= time.Second, "%+v", o)
	}
	client.m.SlowOps(3*time.Second, collect)
	server.m.SlowOps(time.Second, collect)
	client.m.SlowOps(time.Second, collect)
	client.m.SlowOps(time.Hour, collect)
	must(t, strings.Join(seen, ",") == "sent,executing,sent,waiting to be sent", "%v", seen)
}

func TestOptionsAreChecked(t *testing.T) {
	w := newFakeWorld()
	h := &node{t: t}
	for name, o := range map[string]Options{
		"no handler":    {},
		"little memory": {Handler: h, Limits: Limits{ClientPayloadBytes: 64 << 20}},
		"long lists":    {Handler: h, Limits: Limits{ListBytes: 512 << 20}},
		"negative":      {Handler: h, Limits: Limits{OpsPerConn: -1}},
	} {
		if _, err := New(&w.env, o); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Log(err)
		}
	}
	m, err := New(&w.env, Options{Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Listen(netip.AddrPortFrom(localhost, 0)); err == nil {
		t.Error("listens without ShowConfig")
	}
}

func TestConnectionLimit(t *testing.T) {
	w := newFakeWorld()
	server := newNode(t, &w.env, Options{OSD: 1, Limits: Limits{Connections: 2}})
	var peers [3]*rawPeer
	for i := range peers {
		peers[i] = w.dialRaw(server.addr)
		w.run()
	}
	must(t, peers[1].reason == nil && peers[2].reason != nil && server.m.Stats().Refused == 1, "limit not kept")
	peers[0].s.Close()
	w.run()
	again := w.dialRaw(server.addr)
	w.run()
	must(t, again.reason == nil, "place not reused")
}

func TestZeroAllocations(t *testing.T) {
	w := newFakeWorld()
	osd := &echoOSD{}
	_, server, c := pairOf(t, w, osd.serve)
	data, got := pattern(128<<10, 1), make([]byte, 128<<10)
	done := 0
	var ops []*Op
	for range 16 {
		write := &Op{Payload: [][]byte{data}, Done: func(*Op) { done++ }}
		(&wire.Rw{Op: wire.OpWrite, Len: 128 << 10}).Encode(&write.Packet)
		small := &Op{Payload: [][]byte{data[:4096]}, Done: func(*Op) { done++ }}
		(&wire.Rw{Op: wire.OpWrite, Len: 4096}).Encode(&small.Packet)
		read := &Op{Attr: make([]byte, 4), Body: [][]byte{got}, Done: func(*Op) { done++ }}
		(&wire.Rw{Op: wire.OpRead, Len: 128 << 10}).Encode(&read.Packet)
		sync := &Op{Done: func(*Op) { done++ }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&sync.Packet)
		ops = append(ops, write, small, read, sync)
	}
	round := func() {
		for _, op := range ops {
			c.Submit(op)
		}
		w.run()
	}
	osd2 := server.serve
	server.serve = func(r *Request) { // ReplyParts without an allocation
		if r.Op() != wire.OpRead {
			osd2(r)
			return
		}
		(&wire.RwReply{Op: r.Op(), Retval: 128 << 10}).Encode(&r.Reply)
		r.ReplyParts = append(r.ReplyParts, r.Body...)
		r.Finish()
	}
	round()
	round()
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("%v allocations in %d requests and replies", n, len(ops))
	}
	must(t, done == 53*len(ops), "%d done", done)
}

func TestOpTableAgainstMap(t *testing.T) {
	var table opTable
	model := map[uint64]*Op{}
	seed := uint64(1)
	next := func(n uint64) uint64 { seed = seed*6364136223846793005 + 1442695040888963407; return seed >> 33 % n }
	var live []uint64
	id := uint64(0)
	for range 200_000 {
		if next(100) < 52 && len(live) < 900 || len(live) == 0 {
			id += 1 + next(2)*next(2)*next(500)
			model[id] = &Op{}
			table.put(id, model[id])
			live = append(live, id)
		} else {
			i := next(uint64(len(live)))
			x := live[i]
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			op, slot := table.get(x)
			must(t, op == model[x], "lost %d", x)
			table.remove(slot)
			delete(model, x)
			op, _ = table.get(x)
			must(t, op == nil, "%d is still there", x)
		}
		probe := next(id + 2)
		op, _ := table.get(probe)
		must(t, op == model[probe] && table.count == len(model), "probe %d", probe)
	}
}
