package store

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// memLoop is the smallest loop with a disk in memory: it allocates nothing, so
// that what the store allocates can be measured, and costs little, so that
// benchmarks show the store.
type memLoop struct {
	now    env.Instant
	timers env.Timers
	tasks  env.Tasks
	disk   memDisk
	env    env.Env
}

type memDisk struct {
	data        []byte
	info        env.DiskInfo
	first, last *env.DiskOp
}

func newMemLoop(t testing.TB, size int64) *memLoop {
	l := &memLoop{}
	l.disk.data = aligned(uint32(size))
	l.disk.info = env.DiskInfo{Path: "memory", SizeBytes: size, BlockBytes: 4096, AtomicWriteBytes: 4096}
	l.env = env.Env{Clock: l, Exec: l}
	return l
}

func (l *memLoop) Now() env.Instant                  { return l.now }
func (l *memLoop) WallNanos() int64                  { return int64(l.now) }
func (l *memLoop) Arm(t *env.Timer, d time.Duration) { l.timers.Arm(t, l.now.Add(d)) }
func (l *memLoop) Disarm(t *env.Timer)               { l.timers.Disarm(t) }
func (l *memLoop) Defer(t *env.Task)                 { l.tasks.Push(t) }
func (l *memLoop) Post(func()) bool                  { return false }
func (d *memDisk) Info() env.DiskInfo                { return d.info }
func (d *memDisk) Close() error                      { return nil }
func (d *memDisk) Submit(op *env.DiskOp) {
	op.Next = nil
	if d.last == nil {
		d.first = op
	} else {
		d.last.Next = op
	}
	d.last = op
}

// step finishes the requests that are in flight now, like one pass of a loop
// over its completions; false when nothing is left to do.
func (l *memLoop) step() bool {
	l.now += 1000
	l.runTasks()
	op := l.disk.first
	l.disk.first, l.disk.last = nil, nil
	if op == nil {
		t := l.timers.Pop(l.now)
		if t == nil {
			return false
		}
		t.Fire()
		return true
	}
	for op != nil {
		next := op.Next
		l.disk.perform(op)
		op.Err = nil
		op.Done(op)
		op = next
	}
	l.runTasks()
	return true
}

func (l *memLoop) runTasks() {
	for t := l.tasks.Pop(); t != nil; t = l.tasks.Pop() {
		t.Run()
	}
}

func (d *memDisk) perform(op *env.DiskOp) {
	at := op.Offset
	parts := op.Iov
	if len(parts) == 0 {
		if op.Kind == env.DiskRead {
			copy(op.Buf, d.data[at:])
		} else if op.Kind == env.DiskWrite {
			copy(d.data[at:], op.Buf)
		}
		return
	}
	for _, p := range parts {
		at += int64(copy(d.data[at:], p))
	}
}

func (l *memLoop) run() {
	for l.step() {
	}
}

// memStore is an open store of n blocks in memory.
func memStore(t testing.TB, n int, change func(c *Config)) (*memLoop, *Store) {
	c := Config{BlockBytes: 128 << 10, GranuleBytes: 4096, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: CommitAll, AtomicWriteBytes: 4096,
		Areas: Areas{BufferOffset: 4096, BufferLen: 4 << 20, MetaOffset: 4096 + 4<<20, MetaLen: 4 << 20,
			DataOffset: 4096 + 8<<20, DataLen: int64(n) * 128 << 10}}
	if change != nil {
		change(&c)
	}
	l := newMemLoop(t, c.Areas.DataOffset+c.Areas.DataLen)
	var s *Store
	Open(&l.env, Disks{&l.disk, &l.disk, &l.disk}, c, func(st *Store, err error) {
		if err != nil {
			t.Fatal(err)
		}
		s = st
	})
	l.run()
	return l, s
}

// load keeps operations in flight, each made again by next.
type load struct {
	l    *memLoop
	s    *Store
	ops  []Op
	left int
	fail func(op *Op)
	next func(op *Op, slot int)
}

func (w *load) run(count int) {
	w.left = count
	for i := range w.ops {
		op := &w.ops[i]
		if op.Done == nil {
			op.Done = func(op *Op) {
				if op.Err != 0 {
					w.fail(op)
				}
				if w.left > 0 {
					w.left--
					w.next(op, i)
					w.s.Submit(op)
				}
			}
		}
		if w.left > 0 {
			w.left--
			w.next(op, i)
			w.s.Submit(op)
		}
	}
	w.l.run()
}

// mixes are loads of one kind each; every slot works on objects of its own.
func mixes(t testing.TB, s *Store, l *memLoop, depth, objects int) map[string]*load {
	versions := make([]meta.Version, objects)
	block, bitmap := aligned(128<<10), make([]byte, s.BitmapBytes())
	seed := uint64(1)
	pick := func(slot int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33)%(objects/depth)*depth + slot
	}
	write := func(kind OpKind, n uint32) func(op *Op, slot int) {
		return func(op *Op, slot int) {
			o := pick(slot)
			versions[o]++
			op.Kind, op.OID, op.Version, op.Len, op.Bitmap = kind, oid(uint64(o)), versions[o], n, bitmap
			op.Buf, op.Offset = block[:n], uint32(seed>>60)*4096*min(1, (128<<10-n)/4096)
		}
	}
	bufs := make([][]byte, depth)
	for i := range bufs {
		bufs[i] = aligned(128 << 10)
	}
	read := func(n uint32) func(op *Op, slot int) {
		return func(op *Op, slot int) {
			op.Kind, op.OID, op.Version, op.Len, op.Bitmap = OpRead, oid(uint64(pick(slot))), meta.NewestVersion, n, bitmap
			op.Buf, op.Offset = bufs[slot][:n], 0
		}
	}
	stabilize := make([][]meta.ObjectVersion, depth)
	for i := range stabilize {
		stabilize[i] = make([]meta.ObjectVersion, 1)
	}
	unstable, whole := write(OpWrite, 4096), write(OpWriteStable, 128<<10)
	ec := func(op *Op, slot int) {
		if op.Kind == OpWrite {
			stabilize[slot][0] = meta.ObjectVersion{ObjectID: op.OID, Version: op.Version}
			op.Kind, op.Items = OpStabilize, stabilize[slot]
			return
		}
		unstable(op, slot)
	}
	deletes := func(op *Op, slot int) {
		if op.Kind == OpWriteStable {
			op.Kind = OpDelete
			return
		}
		whole(op, slot)
	}
	out := map[string]*load{}
	add := func(name string, next func(op *Op, slot int)) {
		out[name] = &load{l: l, s: s, ops: make([]Op, depth), next: next, fail: func(op *Op) {
			t.Fatalf("%s: kind %d of %v version %d: %v", name, op.Kind, op.OID, op.Version, op.Err)
		}}
	}
	add("fill", write(OpWriteStable, 128<<10))
	add("write4k", write(OpWriteStable, 4096))
	add("write128k", write(OpWriteStable, 128<<10))
	add("read4k", read(4096))
	add("read128k", read(128<<10))
	add("version", read(0))
	add("stabilize", ec)
	add("delete", deletes)
	add("sync", func(op *Op, _ int) { op.Kind = OpSync })
	return out
}

// Steady state allocates nothing, on any path.
func TestNoAllocations(t *testing.T) {
	for _, m := range []struct {
		name   string
		change func(c *Config)
	}{
		{"in place", func(c *Config) { c.IntentDepth = 1 }},
		{"buffered", func(c *Config) { c.IntentDepth = -1 }},
		{"csum4k", func(c *Config) { c.CsumBytes = 4096 }},
		{"csum16k", func(c *Config) { c.CsumBytes = 16384 }},
		{"cached", func(c *Config) {
			c.DisableDataFsync, c.DisableMetaFsync, c.DisableBufferFsync = false, false, false
		}},
	} {
		t.Run(m.name, func(t *testing.T) {
			l, s := memStore(t, 400, m.change)
			all := mixes(t, s, l, 16, 320)
			all["fill"].run(1000)
			for _, name := range []string{"write4k", "write128k", "read4k", "read128k", "version", "sync", "delete", "stabilize"} {
				w := all[name]
				warm := 4000 // everything that is kept for reuse is made now
				if name == "write4k" || name == "stabilize" {
					warm = 20000
				}
				w.run(warm)
				const count = 1000
				n := testing.AllocsPerRun(2, func() { w.run(count) })
				if n/count > 0.004 { // a few more of what is kept, at a new peak
					t.Errorf("%s: %.4f allocations per operation", name, n/count)
				}
			}
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func BenchmarkWrite4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "QD1", 32: "QD32"}[depth], func(b *testing.B) {
			l, s := memStore(b, 4000, nil)
			all := mixes(b, s, l, depth, 3200)
			all["fill"].run(10000)
			w := all["write4k"]
			w.run(2000)
			b.ReportAllocs()
			b.ResetTimer()
			w.run(b.N)
		})
	}
}
