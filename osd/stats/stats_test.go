package stats

import (
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
)

const second = env.Instant(time.Second)

func TestRates(t *testing.T) {
	var w window
	at := func(now env.Instant, count uint64) schema.Counters {
		totals := Totals{}
		totals.Ops[wire.OpWrite] = Total{Count: count, Bytes: count * 4096, Nanos: count * 5_000_000}
		w.advance(now, &totals)
		var s schema.OSDStats
		totals.fill(&s, &w)
		if len(s.Ops) != 19 || len(s.Subops) != 19 || len(s.Recovery) != 2 {
			t.Fatalf("%d operations, %d suboperations", len(s.Ops), len(s.Subops))
		}
		return s.Ops["primary_write"]
	}
	for i, c := range []struct {
		now                   env.Instant
		count, lat, bps, iops uint64
	}{
		{7 * second, 100, 0, 0, 0},                               // nothing to compare with
		{7*second + second/2, 150, 0, 0, 0},                      // too soon
		{9*second + second/2, 300, 5000, 200 * 4096 / 2, 100},    // whole seconds: 2
		{9*second + second*9/10, 900, 5000, 200 * 4096 / 2, 100}, // too soon: the last ones again
		{19*second + second/2, 300 + 1000, 5000, 100 * 4096, 100},
		{29*second + second/2, 1300, 0, 0, 0},
	} {
		got := at(c.now, c.count)
		want := schema.Counters{Count: c.count, Usec: c.count * 5000, Bytes: c.count * 4096, LatUsec: c.lat, BPS: c.bps, IOPS: c.iops}
		if got != want {
			t.Errorf("%d: %+v, want %+v", i, got, want)
		}
	}
}

// Everybody counts something else, and nothing is counted twice.
func TestWhoCountsWhat(t *testing.T) {
	var m msgr.Stats
	var s secondary.Stats
	var p primary.Stats
	for op := wire.Op(1); op <= wire.MaxOp; op++ {
		m.Received[op].Count, m.Sent[op].Count = 1000, 2000
		s.Ops[op].Count, p.Ops[op].Count = 3000, 4000
	}
	p.Degraded.Count, p.Misplaced.Count = 1, 2
	totals := collect(&m, &s, &p)
	for op := wire.Op(1); op <= wire.MaxOp; op++ {
		want := uint64(3000)
		switch {
		case clientOp(op):
			want = 4000
		case op == wire.OpPing || op == wire.OpShowConfig || op == wire.OpSecLock || op == wire.OpTestSyncStab:
			want = 1000
		}
		if totals.Ops[op].Count != want || totals.Subops[op].Count != 2000 {
			t.Errorf("%v: %+v %+v", op, totals.Ops[op], totals.Subops[op])
		}
	}
	if totals.Degraded.Count != 1 || totals.Misplaced.Count != 2 {
		t.Errorf("%+v", totals)
	}
}

func TestSpaceOfApplications(t *testing.T) {
	bytes := map[meta.Inode]uint64{meta.MakeInode(1, 7): 10, meta.MakeInode(1, 9): 0, meta.MakeInode(2, 1): 3, meta.MakeInode(2, 5): 4, meta.MakeInode(3, 1): 1}
	each := func(yield func(meta.Inode, uint64) bool) {
		for i, n := range bytes {
			if !yield(i, n) {
				return
			}
		}
	}
	pools := map[meta.PoolID]*schema.Pool{1: {}, 2: {UsedForApp: "fs:x"}}
	list := space(each, func(id meta.PoolID) *schema.Pool { return pools[id] })
	if got, want := string(schema.EncodeOSDSpace(list)), `{"1":{"7":10},"2":{"0":7},"3":{"1":1}}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestVanishedInodes(t *testing.T) {
	full, empty, busy := meta.MakeInode(1, 1), meta.MakeInode(1, 2), meta.MakeInode(1, 3)
	all := map[meta.Inode]*primary.InodeStats{full: {}, empty: {}, busy: {}}
	bytes := map[meta.Inode]uint64{full: 5}
	v := vanishing{}
	prune := func(now env.Instant) int {
		all[busy].Read.Count++
		v.prune(now, time.Minute, all, func(i meta.Inode) uint64 { return bytes[i] })
		return len(all)
	}
	for now := env.Instant(0); now < 60*second; now += 20 * second {
		if prune(now) != 3 {
			t.Fatalf("something was removed after %v", time.Duration(now))
		}
	}
	if prune(60*second) != 2 || all[empty] != nil {
		t.Errorf("the empty inode stays: %v", all)
	}
	bytes[full] = 0
	prune(61 * second)
	bytes[full] = 5 // written again
	prune(62 * second)
	bytes[full] = 0
	if prune(90 * second); prune(149*second) != 2 {
		t.Error("removed too early")
	}
	if prune(150*second) != 1 || len(v) != 1 {
		t.Errorf("%v, waiting: %v", all, v)
	}
}

func TestTexts(t *testing.T) {
	var p wire.Packet
	(&wire.Rw{Op: wire.OpWrite, Inode: meta.MakeInode(1, 7), Offset: 0x20000, Len: 4096}).Encode(&p)
	if got, want := describe(&p), "WRITE inode 1/7 offset 0x20000 length 4096"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	q := wire.PeeringList(meta.PG{Pool: 3, Num: 5}, 8, 1<<17)
	q.Encode(&p)
	if got, want := describe(&p), "SEC_LIST PG 3/5"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	d := Totals{}
	d.Ops[wire.OpRead] = Total{Count: 300, Bytes: 3 << 20, Nanos: 300 * 150_000}
	d.Degraded = Total{Count: 3, Nanos: 3_000_000}
	if got, want := load(&d, 3*time.Second), "client read 100.0/s 1.00 MiB/s avg 150µs, recovery 1.0/s avg 1ms"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := load(&Totals{}, time.Second); got != "" {
		t.Errorf("nothing happened: %s", got)
	}
}

// Every kind of request is described, whatever is in it.
func FuzzDescribe(f *testing.F) {
	for op := byte(0); op <= byte(wire.MaxOp)+1; op++ {
		b := make([]byte, wire.PacketBytes)
		b[16] = op
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p wire.Packet
		copy(p[:], b)
		if text := describe(&p); text == "" || strings.Contains(text, "%!") {
			t.Errorf("%q", text)
		}
	})
}
