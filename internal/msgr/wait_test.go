package msgr

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/wire"
)

// TestBackPressure: more is sent than fits into memory. It is never used beyond
// the limit, everything is served in the end, PING on other connections is
// answered at once.
func TestBackPressure(t *testing.T) {
	for _, limits := range []Limits{
		{ClientPayloadBytes: 66 << 20}, // memory is the bottleneck
		{ClientRequests: 5},
		{RequestsPerConn: 4},
		{RequestsPerConn: 1, ClientRequests: 1},
	} {
		for seed := range uint64(2) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newFakeWorld()
			w.cut = randomCuts(rng)
			server := newNode(t, &w.env, Options{OSD: 1, Limits: limits})
			var held []*Request
			server.serve = func(r *Request) {
				want := pattern(total(r.Body), byte(r.Packet[32]))
				must(t, slices.Equal(slices.Concat(r.Body...), want), "wrong data")
				held = append(held, r)
			}
			client := newNode(t, &w.env, Options{})
			const n = 120
			done, most := 0, 0
			for i := range n {
				size := 4096 * (1 + rng.IntN(40))
				if i%60 == 7 && limits.ClientPayloadBytes > 0 {
					size = 40 << 20
				}
				data := pattern(size, byte(i))
				op := &Op{Payload: [][]byte{data[:size/2], data[size/2:]}, Done: func(op *Op) {
					done++
					must(t, op.Retval == wire.Retval(size), "%v", op.Retval)
				}}
				(&wire.Rw{Op: wire.OpWrite, Len: uint32(size), Offset: uint64(byte(i))}).Encode(&op.Packet)
				connect(t, w, client, server).Submit(op)
			}
			quiet := w.dialRaw(server.addr)
			for done < n {
				w.run()
				quiet.received = nil
				quiet.send(raw(wire.RequestMagic, 1, 15))
				w.run()
				must(t, len(quiet.received) == wire.PacketBytes, "PING is not answered")
				if done == n {
					break
				}
				must(t, len(held) > 0, "stuck at %d of %d", done, n)
				most = max(most, len(held))
				i := rng.IntN(len(held))
				r := held[i]
				held = slices.Delete(held, i, i+1)
				(&wire.RwReply{Op: r.Op(), Retval: wire.Retval(total(r.Body))}).Encode(&r.Reply)
				r.Finish()
			}
			w.run()
			l := server.m.limits
			must(t, most <= min(l.RequestsPerConn, l.ClientRequests), "%d requests at a time, %+v", most, limits)
			must(t, server.m.Stats().Waits > 0 && server.usedBytes() == 0, "%+v: %d waits", limits, server.m.Stats().Waits)
			for _, c := range []*class{server.m.clients, server.m.peers} {
				must(t, c.used == 0 && c.waiters.head == nil && c.waiters.tail == nil, "something is left")
			}
			must(t, server.m.Stats().Received[wire.OpWrite].Count == n, "served %d", server.m.Stats().Received[wire.OpWrite].Count)
		}
	}
}

// TestPeersAreServedWhenClientsFillTheMemory: else two OSDs could wait for each
// other for ever.
func TestPeersAreServedWhenClientsFillTheMemory(t *testing.T) {
	w := newFakeWorld()
	server := newNode(t, &w.env, Options{OSD: 1, Limits: Limits{ClientPayloadBytes: 66 << 20, ClientRequests: 2}})
	var held []*Request
	server.serve = func(r *Request) {
		if r.Op() == wire.OpWrite {
			held = append(held, r)
		} else {
			r.Fail(wire.OK)
		}
	}
	client, osd := newNode(t, &w.env, Options{}), newNode(t, &w.env, Options{OSD: 2})
	for range 3 {
		op := &Op{Payload: [][]byte{make([]byte, 40<<20)}, Done: func(*Op) {}}
		(&wire.Rw{Op: wire.OpWrite, Len: 40 << 20}).Encode(&op.Packet)
		connect(t, w, client, server).Submit(op)
	}
	w.run()
	must(t, len(held) == 1, "%d requests hold the memory", len(held))
	done := 0
	op := &Op{Payload: [][]byte{make([]byte, 20<<20)}, Done: func(*Op) { done++ }}
	(&wire.SecRw{Op: wire.OpSecWrite, Len: 20 << 20}).Encode(&op.Packet)
	c := connect(t, w, osd, server)
	server.serve = func(r *Request) {
		must(t, r.Conn.OSD() == 2 && total(r.Body) == 20<<20, "identity")
		(&wire.SecRwReply{Op: r.Op(), Retval: 20 << 20}).Encode(&r.Reply)
		r.Finish()
	}
	c.Submit(op)
	w.run()
	must(t, done == 1 && op.Retval == 20<<20, "not served: %v", op.Retval)
	for _, r := range held {
		r.Fail(wire.EIO)
	}
	server.serve = func(r *Request) { r.Fail(wire.EIO) }
	w.run()
}

// TestDeadReaders: replies that nobody reads must not keep everybody waiting
// until TCP gives up on their connection.
func TestDeadReaders(t *testing.T) {
	w := newFakeWorld()
	server := newNode(t, &w.env, Options{OSD: 1, Limits: Limits{ClientRequests: 4}})
	osd := &echoOSD{}
	server.serve = osd.serve
	w.window = 100_000
	var dead, slow *rawPeer
	for _, p := range []**rawPeer{&dead, &slow} {
		*p = w.dialRaw(server.addr)
		w.run()
		(*p).s.PauseRead()
		for id := range uint64(2) {
			(*p).send(raw(wire.RequestMagic, id, 11, uint64(0), uint64(0), uint32(1<<20)))
		}
		w.run()
	}
	w.advance(time.Minute)
	must(t, dead.reason == nil && server.m.clients.used == 2+1+1, "nobody waits, %d used", server.m.clients.used)
	client := newNode(t, &w.env, Options{})
	done := false
	op := &Op{Done: func(*Op) { done = true }}
	(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
	connect(t, w, client, server).Submit(op)
	slow.sips = true
	for range 9 {
		must(t, !done, "the OSD is not full")
		slow.s.ResumeRead()
		w.advance(time.Second)
		if dead.s.(*fakeStream).eof {
			break
		}
	}
	w.run()
	must(t, done && op.Retval == 0 && !op.Lost, "the client is not served: %v", op.Retval)
	dead.s.ResumeRead()
	w.run()
	must(t, dead.reason != nil && slow.reason == nil, "dead %v, slow %v", dead.reason, slow.reason)
	wantReason(t, server.reason, "the reply to READ is not read for")
}

// TestPingFlood: a peer that sends PINGs and does not read the answers.
func TestPingFlood(t *testing.T) {
	w := newFakeWorld()
	w.window = 10 * wire.PacketBytes
	server := newNode(t, &w.env, Options{OSD: 1})
	p := w.dialRaw(server.addr)
	p.s.PauseRead()
	for i := range uint64(100) {
		p.send(raw(wire.RequestMagic, i, 15))
	}
	w.run()
	var c *Conn
	server.m.Connections(func(x *Conn) { c = x })
	must(t, c.Info().Waiting == waitPong.String() && server.m.stats.Received[wire.OpPing].Count <= 13, "%+v", c.Info())
	p.s.ResumeRead()
	w.run()
	must(t, len(p.received) == 100*wire.PacketBytes, "%d answers", len(p.received)/wire.PacketBytes)
	for i := range 100 {
		must(t, (*wire.Packet)(p.received[i*wire.PacketBytes:]).ID() == uint64(i), "order of answers")
	}
}

func TestKeepaliveTable(t *testing.T) {
	to := Timeouts{}.withDefaults()
	s := func(sec float64) env.Instant { return env.Instant(sec * 1e9) }
	for _, c := range []struct {
		l    liveness
		now  env.Instant
		want keepaliveAction
	}{
		{liveness{heard: s(10)}, s(14.9), keepaliveNothing},
		{liveness{heard: s(10)}, s(15), keepalivePing},
		{liveness{heard: s(10), pinged: s(15), asked: true}, s(19.9), keepaliveNothing},
		{liveness{heard: s(10), pinged: s(15), asked: true}, s(20), keepaliveGiveUp},
	} {
		if got := c.l.check(c.now, &to); got != c.want {
			t.Errorf("%+v at %v: %v, want %v", c.l, c.now, got, c.want)
		}
	}
	l := liveness{heard: s(1), pinged: s(6), asked: true}
	if l.sign(s(7)); l.check(s(11.9), &to) != keepaliveNothing || l.check(s(12), &to) != keepalivePing {
		t.Error("a sign of life does not reset both timers")
	}
}

// TestKeepalive: who is pinged when, and what happens without an answer.
func TestKeepalive(t *testing.T) {
	pings := func(p *rawPeer) (n int) {
		for i := 0; i+wire.PacketBytes <= len(p.received); i += wire.PacketBytes {
			if x := (*wire.Packet)(p.received[i:]); x.Kind() == wire.KindRequest && x.Op() == wire.OpPing {
				n++
			}
		}
		return n
	}
	t.Run("client is never pinged", func(t *testing.T) {
		w := newFakeWorld()
		server := newNode(t, &w.env, Options{OSD: 1})
		p := w.dialRaw(server.addr)
		p.send(showConfig(1, checkSequencing))
		w.run()
		p.received = nil
		w.advance(time.Hour)
		must(t, len(p.received) == 0 && p.reason == nil, "%d bytes, %v", len(p.received), p.reason)
	})
	t.Run("silent OSD is pinged, then dropped", func(t *testing.T) {
		w := newFakeWorld()
		server := newNode(t, &w.env, Options{OSD: 1})
		p := w.dialRaw(server.addr)
		p.send(showConfig(1, `{"osd_num": 2}`))
		w.run()
		p.received = nil
		w.advance(4500 * time.Millisecond)
		must(t, pings(p) == 0, "pinged too early")
		w.advance(1500 * time.Millisecond)
		must(t, pings(p) == 1 && p.reason == nil, "not pinged")
		w.advance(3500 * time.Millisecond)
		must(t, p.reason == nil, "dropped too early")
		w.advance(2500 * time.Millisecond)
		must(t, pings(p) == 1 && p.reason != nil, "not dropped")
		wantReason(t, server.reason, "PING was not answered")
	})
	t.Run("anything complete is a sign of life", func(t *testing.T) {
		w := newFakeWorld()
		n, p := rawServer(t, w, Options{}, goodConfig(5))
		for range 20 {
			w.advance(9 * time.Second) // a PING is out, not answered
			must(t, p.reason == nil, "dropped: %v", n.reason)
			p.send(raw(wire.RequestMagic, 1, 15)) // our PING instead of an answer
			w.run()
			p.send(nil)
			if pings(p) > 0 { // late answers
				for i := 0; i+wire.PacketBytes <= len(p.received); i += wire.PacketBytes {
					if x := (*wire.Packet)(p.received[i:]); x.Kind() == wire.KindRequest {
						p.send(packet(&wire.StatusReply{ID: x.ID(), Op: wire.OpPing}))
					}
				}
			}
			p.received = nil
			w.run()
		}
		p.send(raw(wire.RequestMagic, 1, 13)[:60]) // incomplete: no sign of life
		n.m.Unwant(5)
		w.advance(13 * time.Second)
		must(t, p.reason != nil, "half a packet kept the connection")
	})
	t.Run("failed PING", func(t *testing.T) {
		w := newFakeWorld()
		n, p := rawServer(t, w, Options{}, goodConfig(5))
		w.advance(6 * time.Second)
		n.m.Unwant(5)
		p.send(raw(wire.ReplyMagic, (*wire.Packet)(p.received).ID(), 15, int64(-22)))
		w.run()
		wantReason(t, n.reason, "PING reply 2: failed with EINVAL")
	})
	t.Run("two of ours keep each other alive", func(t *testing.T) {
		w := newFakeWorld()
		client, server, c := pairOf(t, w, func(r *Request) {})
		op := &Op{Done: func(*Op) { t.Error("completed") }}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&op.Packet)
		c.Submit(op) // never answered
		w.advance(time.Hour)
		must(t, c.Ready() && server.m.stats.Received[wire.OpPing].Count > 500, "%v", client.reason)
		op.Done = func(*Op) {}
	})
}

func TestPreferAddresses(t *testing.T) {
	a := func(s ...string) (out []netip.AddrPort) {
		for _, x := range s {
			out = append(out, netip.MustParseAddrPort(x))
		}
		return out
	}
	nets := func(s ...string) (out []netip.Prefix) {
		for _, x := range s {
			out = append(out, netip.MustParsePrefix(x))
		}
		return out
	}
	for _, c := range []struct {
		addrs []netip.AddrPort
		nets  []netip.Prefix
		want  []netip.AddrPort
	}{
		{nil, nets("10.0.0.0/8"), nil},
		{a("192.168.0.1:1"), nets("10.0.0.0/8"), a("192.168.0.1:1")},
		{a("192.168.0.1:1", "10.0.0.1:1"), nil, a("192.168.0.1:1", "10.0.0.1:1")},
		{a("192.168.0.1:1", "10.0.0.1:1", "10.0.0.2:1"), nets("10.0.0.0/8"), a("10.0.0.1:1", "10.0.0.2:1")},
		{a("192.168.0.1:1", "10.0.0.1:1"), nets("172.16.0.0/12"), a("192.168.0.1:1", "10.0.0.1:1")},
		{a("192.168.0.1:1", "10.0.0.1:1"), nets("10.0.0.0/8", "192.168.0.0/24"), a("192.168.0.1:1", "10.0.0.1:1")},
		{a("[::ffff:10.0.0.1]:1", "[fd00::1]:1"), nets("10.0.0.0/8"), a("[::ffff:10.0.0.1]:1")},
		{a("10.0.0.1:1", "[fd00::1]:1"), nets("fd00::/8"), a("[fd00::1]:1")},
	} {
		before := slices.Clone(c.addrs)
		got := PreferAddresses(c.addrs, c.nets)
		if !slices.Equal(got, c.want) || !slices.Equal(before, c.addrs) {
			t.Errorf("%v of %v: %v, want %v", c.nets, c.addrs, got, c.want)
		}
	}
}
