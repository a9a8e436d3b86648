package sim

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
)

// chatter is a small program that uses everything an Env has: it writes to its
// disk, sends what it wrote to another node and counts in etcd, for ever.
type chatter struct {
	e        *env.Env
	n        *Node
	to       netip.AddrPort
	disk     env.Disk
	op       env.DiskOp
	out      env.Stream
	ready    bool
	timer    env.Timer
	sent     env.SendOp
	busy     bool
	stuck    int // steps since a send ended
	received int
	events   int
	fill     byte // extra contents of every write
}

func (c *chatter) start(t *testing.T) {
	var err error
	if c.disk, err = c.e.Storage.OpenDisk("/dev/d", env.DiskOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err = c.e.Net.Listen(netip.AddrPortFrom(c.n.Addr(), 1), func(env.Stream) env.StreamHandler {
		return &counter{n: &c.received}
	}); err != nil {
		t.Fatal(err)
	}
	c.op = env.DiskOp{Kind: env.DiskWrite, Buf: buffer(8192), Done: c.written}
	c.sent.Done = func(*env.SendOp, error) { c.busy, c.stuck = false, 0 }
	c.timer.Fire = c.step
	c.watch(0)
	c.step()
}

func (c *chatter) watch(start int64) {
	c.e.KV.Watch(env.WatchRequest{Key: "/", End: "0", Start: start}, func(r *env.WatchResponse) {
		if c.events += len(r.Events); r.Err != nil {
			c.watch(r.Compacted)
		}
	})
}

func (c *chatter) step() {
	c.e.Clock.Arm(&c.timer, time.Duration(c.e.Rand.Uint64()%60_000_000))
	if c.op.Buf != nil && c.disk != nil {
		c.op.Offset = int64(c.e.Rand.Uint64()%200) * 4096
		c.op.Buf[0] = byte(c.e.Rand.Uint64())
		c.op.Buf[1] = c.fill
		disk := c.disk
		c.disk = nil // until written
		c.op.Done = func(op *env.DiskOp) { c.disk = disk; c.written(op) }
		disk.Submit(&c.op)
	}
	if c.stuck++; c.out != nil && c.stuck > 200 { // a black hole
		c.out.Close()
		c.out, c.ready, c.busy = nil, false, false
	}
	if c.out == nil {
		c.stuck = 0
		c.out = c.e.Net.Dial(c.to, c)
	}
}

func (c *chatter) written(op *env.DiskOp) {
	if c.ready && !c.busy {
		c.busy = true
		c.sent.Parts = [][]byte{bytes.Clone(op.Buf)}
		c.out.Send(&c.sent)
	}
	put := env.KVOp{Kind: env.KVPut, Key: "/" + c.n.Name(), Value: []byte{op.Buf[0]}}
	c.e.KV.Txn(&env.Txn{Then: []env.KVOp{put}}, time.Second, func(*env.TxnResponse, error) {})
}

func (c *chatter) Connected()       { c.ready = true }
func (c *chatter) ReadInto() []byte { return nil }
func (c *chatter) Received([]byte)  {}
func (c *chatter) Closed(error)     { c.out, c.ready, c.busy = nil, false, false }

type counter struct{ n *int }

func (c *counter) Connected()        {}
func (c *counter) ReadInto() []byte  { return nil }
func (c *counter) Received(b []byte) { *c.n += len(b) }
func (c *counter) Closed(error)      {}

// chaos runs chatters on four nodes under a plan for a minute.
func chaos(t *testing.T, seed uint64, fill byte, trace io.Writer) (*World, Plan, []*chatter) {
	w := NewWorld(seed, Options{Trace: trace})
	w.NewKV()
	var nodes []*Node
	for i := range 4 {
		n := w.NewNode(fmt.Sprint("n", i))
		n.AddDisk("/dev/d", DiskConfig{SizeBytes: 1 << 20, VolatileCache: i%2 == 0})
		nodes = append(nodes, n)
	}
	last := make([]*chatter, len(nodes))
	for i, n := range nodes {
		to := netip.AddrPortFrom(nodes[(i+1)%len(nodes)].Addr(), 1)
		n.SetProgram(func(e *env.Env) {
			last[i] = &chatter{e: e, n: n, to: to, fill: fill}
			last[i].start(t)
		})
	}
	p := w.NewPlan(PlanConfig{Nodes: nodes, End: 50 * time.Second, Every: 300 * time.Millisecond})
	w.Apply(p, nodes)
	w.Run(time.Minute)
	return w, p, last
}

func TestOneSeedIsOneExecution(t *testing.T) {
	var first, second strings.Builder
	a, p, _ := chaos(t, 7, 0, &first)
	b, _, _ := chaos(t, 7, 0, &second)
	if a.Hash() != b.Hash() || a.Events() != b.Events() {
		t.Errorf("hashes %x and %x, %d and %d events", a.Hash(), b.Hash(), a.Events(), b.Events())
	}
	if first.String() != second.String() {
		x, y := strings.Split(first.String(), "\n"), strings.Split(second.String(), "\n")
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Fatalf("line %d: %s, %s", i, x[i], y[i])
			}
		}
	}
	if len(p) < 40 || a.Events() < 20_000 {
		t.Errorf("only %d faults and %d events", len(p), a.Events())
	}
	if c, _, _ := chaos(t, 7, 0, nil); c.Hash() != a.Hash() {
		t.Error("the hash depends on whether a trace is written")
	}
	if c, _, _ := chaos(t, 8, 0, nil); c.Hash() == a.Hash() {
		t.Error("another seed gives the same hash")
	}
	if c, _, _ := chaos(t, 7, 1, nil); c.Hash() == a.Hash() {
		t.Error("other contents give the same hash")
	}
}

func TestPlansHealCompletely(t *testing.T) {
	kinds := map[FaultKind]int{}
	for seed := range uint64(8) {
		w, p, last := chaos(t, seed, 0, nil)
		for _, f := range p {
			kinds[f.Kind]++
		}
		for i, n := range w.Nodes() {
			c := last[i]
			if !n.Running() {
				t.Fatalf("seed %d: node %d stays dead\n%v", seed, i, p)
			}
			received, events := c.received, c.events
			w.RunFor(5 * time.Second)
			if c.received == received || c.events == events {
				t.Fatalf("seed %d: node %d got %d bytes and %d events after healing\n%v",
					seed, i, c.received-received, c.events-events, p)
			}
		}
	}
	for _, k := range DefaultFaults() {
		if kinds[k] == 0 {
			t.Errorf("no plan has a fault of kind %v", k)
		}
	}
}

func TestPlanRespectsItsLimits(t *testing.T) {
	w := NewWorld(3, Options{})
	nodes := []*Node{w.NewNode("a"), w.NewNode("b"), w.NewNode("c")}
	c := PlanConfig{Nodes: nodes, Kinds: []FaultKind{FaultCrash, FaultPause, FaultPowerLoss, FaultKVDown, FaultReset},
		Start: time.Second, End: time.Hour, Last: 10 * time.Second, DownMax: 2}
	p := w.NewPlan(c)
	most := 0
	for i, f := range p {
		if f.Kind == FaultKVDown {
			t.Fatal("an etcd fault without an etcd")
		}
		if f.At < c.Start || f.Heal > c.End || f.Heal < f.At || i > 0 && f.At < p[i-1].At || f.Node == f.Other {
			t.Fatalf("bad entry %v", f)
		}
		down := 0
		for j, o := range p {
			if o.Kind.down() && o.At <= f.At && f.At < o.Heal {
				if down++; i != j && o.Node == f.Node && f.Kind.down() {
					t.Fatalf("two faults of one kind: %v, %v", o, f)
				}
			}
		}
		most = max(most, down)
	}
	if most != 2 {
		t.Errorf("%d nodes down at once, allowed are 2", most)
	}
	if q := w.NewPlan(c); !slices.Equal(p, q) {
		t.Error("the plan depends on more than the seed")
	}
	if lines := strings.Count(p.String(), "\n"); lines != len(p) {
		t.Errorf("%d lines for %d faults", lines, len(p))
	}
}

func TestDamageFaults(t *testing.T) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	d := n.AddDisk("/dev/d", DiskConfig{SizeBytes: 1 << 20})
	d.SetImage(NewImageFrom(bytes.Repeat([]byte{1}, 8192), 1<<20))
	before := d.Image()
	w.Apply(Plan{{Kind: FaultLatent}, {Kind: FaultBitRot}}, []*Node{n})
	w.RunFor(time.Second)
	if !d.visible.unreadable(0, 8192) || d.visible.unreadable(8192, 1<<20-8192) {
		t.Error("no latent error in the written part")
	}
	if bytes.Equal(before.Bytes(), d.visible.Bytes()) {
		t.Error("no bit flipped")
	}
}

func TestRunUntilAndAfter(t *testing.T) {
	w := NewWorld(1, Options{})
	ran := []int{}
	for i, d := range []time.Duration{3, 1, 2, 1} {
		w.After(d*time.Second, func() { ran = append(ran, i) })
	}
	if w.RunUntil(func() bool { return len(ran) == 9 }, 1500*time.Millisecond) || w.Now() != 1500*time.Millisecond {
		t.Errorf("at %v", w.Now())
	}
	if !w.RunUntil(func() bool { return len(ran) == 3 }, time.Minute) || w.Now() != 2*time.Second {
		t.Errorf("at %v", w.Now())
	}
	w.Run(10 * time.Second)
	if !slices.Equal(ran, []int{1, 3, 2, 0}) || !w.Idle() || w.Step() || w.Now() != 10*time.Second {
		t.Errorf("ran %v, now %v", ran, w.Now())
	}
}

func TestLogHasVirtualTime(t *testing.T) {
	var log strings.Builder
	w := NewWorld(1, Options{Log: &log})
	n := w.NewNode("osd1")
	w.Run(1500 * time.Millisecond)
	n.Env().Log.With("pg", 3).WithGroup("io").Warn("slow", "us", 7)
	if got := log.String(); got != "      1.500000 osd1     WARN  slow pg=3 io.us=7\n" {
		t.Errorf("%q", got)
	}
}
