package msgr

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

// TestPropertySimulated: OSDs and clients send each other random requests over
// the simulated network, with faults. Each Op completes exactly once, with the
// data that belongs to it or Lost; and once the faults are over nothing is lost
// any more.
func TestPropertySimulated(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulate(t, seed) })
	}
}

// simNode is a messenger with a random owner.
type simNode struct {
	*node
	sn      *sim.Node
	e       *env.Env
	rng     *rand.Rand
	targets []meta.OSDNum
	ops     []*simOp
	results map[string]int
	stop    bool
}

type simOp struct {
	Op
	n     *simNode
	timer env.Timer
	busy  bool
	seed  byte
	size  int
}

const simOps = 12

func simulate(t *testing.T, seed uint64) {
	w := sim.NewWorld(seed, sim.Options{Net: sim.NetConfig{Loss: 0.001, GiveUp: 25 * time.Second}})
	results := map[string]int{}
	var nodes []*simNode
	addrs := map[meta.OSDNum]netip.AddrPort{}
	for i := range 5 {
		sn := w.NewNode(fmt.Sprint("n", i))
		n := &simNode{sn: sn, e: sn.Env(), rng: rand.New(rand.NewPCG(seed, uint64(i))), results: results}
		nodes = append(nodes, n)
		sn.Do(func(e *env.Env) {
			o := Options{Limits: Limits{ClientPayloadBytes: 66 << 20, ClientRequests: 10, OpsPerConn: 16, RequestsPerConn: 12}}
			if i < 3 {
				o.OSD = meta.OSDNum(i + 1)
				o.Store = &wire.StoreParams{BlockBytes: 131072, GranularityBytes: 4096}
			}
			n.node = &node{t: t, up: map[meta.OSDNum]*Conn{}}
			o.Handler = n
			o.ShowConfig = func(*Conn, wire.ConfigRequest) wire.ConfigReply { return goodConfig(o.OSD) }
			m, err := New(e, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Free)
			if n.m = m; o.OSD != 0 {
				if n.addr, err = m.Listen(netip.AddrPortFrom(sn.Addr(), 0)); err != nil {
					t.Fatal(err)
				}
				addrs[o.OSD] = n.addr
			}
		})
	}
	for _, n := range nodes {
		n.sn.Do(func(*env.Env) { n.begin(addrs) })
	}
	for range 20 { // faults
		w.RunFor(time.Duration(w.Rand().IntN(4000)) * time.Millisecond)
		a, b := nodes[w.Rand().IntN(5)].sn, nodes[w.Rand().IntN(5)].sn
		if a == b {
			continue
		}
		switch w.Rand().IntN(5) {
		case 0:
			w.Net().Reset(a, b)
		case 1:
			w.Net().Blackhole(a, b)
		case 2:
			w.Net().Cut(a, b)
			w.After(time.Duration(w.Rand().IntN(20))*time.Second, func() { w.Net().Join(a, b) })
		case 3:
			a.Pause()
			w.After(time.Duration(w.Rand().IntN(20))*time.Second, a.Resume)
		}
	}
	w.Net().HealAll()
	w.RunFor(30 * time.Second)
	lost := results["lost"]
	w.RunFor(30 * time.Second)
	if results["lost"] != lost {
		t.Errorf("seed %d: requests are lost without faults", seed)
	}
	for _, n := range nodes {
		n.stop = true
	}
	idle := func() bool {
		for _, n := range nodes {
			for _, op := range n.ops {
				if op.busy {
					return false
				}
			}
		}
		return true
	}
	if !w.RunUntil(idle, time.Minute) {
		t.Errorf("seed %d: some Ops never complete", seed)
	}
	w.RunFor(90 * time.Second) // until servers notice too that blackholed clients are gone
	for i, n := range nodes {
		if used := n.usedBytes(); used != 0 {
			t.Errorf("seed %d: node %d leaked %d bytes", seed, i, used)
		}
		n.sn.Do(func(*env.Env) { n.m.Close() })
	}
	w.RunFor(time.Second)
	for i, n := range nodes {
		if n.m.conns.count != 0 || len(n.m.closing) != 0 {
			t.Errorf("seed %d: node %d has connections after Close", seed, i)
		}
	}
	if results["ok"] < 500 || results["error"] == 0 || seed == 0 && results["lost"] == 0 {
		t.Errorf("seed %d: the test tests nothing: %v", seed, results)
	}
}

// begin wants all other OSDs and starts the Ops.
func (n *simNode) begin(addrs map[meta.OSDNum]netip.AddrPort) {
	for osd := meta.OSDNum(1); osd <= 3; osd++ {
		if osd != n.m.osd {
			n.m.SetAddresses(osd, []netip.AddrPort{addrs[osd]})
			n.m.Want(osd)
			n.targets = append(n.targets, osd)
		}
	}
	for range simOps {
		op := &simOp{n: n}
		op.Op.Done = op.done
		op.timer.Fire = op.start
		n.ops = append(n.ops, op)
		op.start()
	}
}

// start submits a random request, or tries later.
func (op *simOp) start() {
	n := op.n
	c := n.m.Conn(n.targets[n.rng.IntN(len(n.targets))])
	if n.stop {
		return
	}
	if c == nil {
		n.e.Clock.Arm(&op.timer, 100*time.Millisecond)
		return
	}
	op.seed, op.size = byte(n.rng.Uint32()), 4096*n.rng.IntN(20)
	if n.rng.IntN(100) == 0 {
		op.size = 4096 * n.rng.IntN(600)
	}
	op.Payload, op.Attr, op.Body, op.Grow = nil, make([]byte, 16), nil, nil
	switch n.rng.IntN(5) {
	case 0:
		op.fill(wire.OpRead)
		op.Body = randomParts(n.rng, make([]byte, op.size))
	case 1:
		op.fill(wire.OpWrite)
		op.Payload = randomParts(n.rng, pattern(op.size, op.seed))
	case 2:
		bmp := pattern(n.rng.IntN(100), op.seed)
		op.Payload = append([][]byte{bmp}, randomParts(n.rng, pattern(op.size, op.seed))...)
		(&wire.SecRw{Op: wire.OpSecWrite, Version: meta.Version(op.seed), Len: uint32(op.size), AttrLen: uint32(len(bmp))}).Encode(&op.Packet)
	case 3:
		(&wire.SecList{StableLimit: uint32(op.seed)}).Encode(&op.Packet)
		op.Grow = func(o *Op, bytes int) bool { o.Body = randomParts(n.rng, make([]byte, bytes)); return true }
	case 4:
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
	}
	op.busy = true
	c.Submit(&op.Op)
}

func (op *simOp) fill(o wire.Op) {
	(&wire.Rw{Op: o, Offset: uint64(op.seed), Len: uint32(op.size)}).Encode(&op.Packet)
}

func randomParts(rng *rand.Rand, b []byte) (parts [][]byte) {
	for rng.IntN(3) > 0 && len(b) > 0 {
		n := rng.IntN(len(b) + 1)
		parts, b = append(parts, b[:n]), b[n:]
	}
	return append(parts, b)
}

func (op *simOp) done(o *Op) {
	n := op.n
	if !op.busy {
		n.t.Error("completed twice")
	}
	op.busy = false
	switch {
	case o.Lost:
		n.results["lost"]++
	case o.Retval.Failed():
		n.results["error"]++
		if o.BodyBytes != 0 {
			n.t.Error("error with data")
		}
	default:
		n.results["ok"]++
		op.verify()
	}
	n.e.Clock.Arm(&op.timer, time.Duration(n.rng.IntN(1e9))+1)
}

func (op *simOp) verify() {
	want := []byte(nil)
	switch op.Packet.Op() {
	case wire.OpRead:
		want = pattern(op.size, op.seed)
	case wire.OpSecList:
		want = pattern(24*8*int(op.seed), op.seed)
	}
	if got := bytes.Join(op.Body, nil); len(want) != op.BodyBytes || !bytes.Equal(got[:op.BodyBytes], want) {
		op.n.t.Errorf("%v: wrong data", op.Packet.Op())
	}
}

// Serve checks what came and answers after a random time.
func (n *simNode) Serve(r *Request) {
	d := time.Duration(n.rng.IntN(3e6))
	if n.rng.IntN(200) == 0 {
		d = time.Duration(n.rng.IntN(12e9))
	}
	t := &env.Timer{Fire: func() { n.answer(r) }}
	n.e.Clock.Arm(t, d)
}

func (n *simNode) answer(r *Request) {
	if n.rng.IntN(20) == 0 {
		r.Fail(wire.EIO)
		return
	}
	switch r.Op() {
	case wire.OpRead:
		var rw wire.Rw
		rw.Decode(&r.Packet)
		data := pattern(int(rw.Len), byte(rw.Offset))
		at := 0
		for _, b := range r.Body {
			at += copy(b, data[at:])
		}
		(&wire.RwReply{Op: wire.OpRead, Retval: wire.Retval(rw.Len), BitmapLen: 16}).Encode(&r.Reply)
		r.ReplyParts = append(append(r.ReplyParts, make([]byte, 16)), r.Body...)
	case wire.OpWrite:
		var rw wire.Rw
		rw.Decode(&r.Packet)
		n.expect(r, r.Body, pattern(int(rw.Len), byte(rw.Offset)))
		(&wire.RwReply{Op: wire.OpWrite, Retval: wire.Retval(rw.Len)}).Encode(&r.Reply)
	case wire.OpSecWrite:
		var rw wire.SecRw
		rw.Decode(&r.Packet)
		n.expect(r, r.Body, pattern(int(rw.Len), byte(rw.Version)))
		n.expect(r, [][]byte{r.Attr}, pattern(int(rw.AttrLen), byte(rw.Version)))
		(&wire.SecRwReply{Op: wire.OpSecWrite, Retval: wire.Retval(rw.Len)}).Encode(&r.Reply)
	case wire.OpSecList:
		var ls wire.SecList
		ls.Decode(&r.Packet)
		items := 8 * int(ls.StableLimit)
		(&wire.SecListReply{Retval: wire.Retval(items)}).Encode(&r.Reply)
		r.ReplyParts = randomParts(n.rng, pattern(24*items, byte(ls.StableLimit)))
	default:
		r.Fail(wire.OK)
		return
	}
	r.Finish()
}

func (n *simNode) expect(r *Request, got [][]byte, want []byte) {
	if !bytes.Equal(bytes.Join(got, nil), want) {
		n.t.Errorf("%v: wrong data arrived", r.Op())
	}
}

// A request that was on its way when its connection was given up is not
// executed later: by then its owner has repeated it, and gone on.
func TestDroppedRequestsDoNotArriveLater(t *testing.T) {
	w := sim.NewWorld(1, sim.Options{})
	server, client := w.NewNode("server"), w.NewNode("client")
	var s, c *node
	served := 0
	server.Do(func(e *env.Env) {
		s = newNode(t, e, Options{OSD: 1, Store: &wire.StoreParams{BlockBytes: 131072, GranularityBytes: 4096}})
		s.listen(server.Addr())
		s.serve = func(r *Request) { served++; r.Fail(wire.EINVAL) }
	})
	client.Do(func(e *env.Env) {
		c = newNode(t, e, Options{})
		c.m.SetAddresses(1, []netip.AddrPort{s.addr})
		c.m.Want(1)
	})
	if !w.RunUntil(func() bool { return c.up[1] != nil }, time.Second) {
		t.Fatal("not connected")
	}
	w.Net().Cut(server, client)
	op := Op{Done: func(*Op) {}}
	(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
	client.Do(func(*env.Env) { c.up[1].Submit(&op) })
	if !w.RunUntil(func() bool { return op.Lost }, time.Minute) {
		t.Fatal("the cut is not noticed")
	}
	w.Net().HealAll()
	w.RunFor(2 * time.Minute)
	if served != 0 || c.up[1] == nil {
		t.Errorf("%d requests of the old connection were served, connected again: %v", served, c.up[1] != nil)
	}
	server.Do(func(*env.Env) { s.m.Close() })
	client.Do(func(*env.Env) { c.m.Close() })
	w.RunFor(time.Second)
}
