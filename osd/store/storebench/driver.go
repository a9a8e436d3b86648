package storebench

import (
	"fmt"
	"runtime"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// target is where a driver works: the store, or a range of the bare disk.
type target struct {
	r           *rig
	store       bool
	from, bytes int64 // from: of the bare disk only
}

// driver keeps the operations of one segment of a job in flight. It runs on
// the loop. Both sides of a pair are driven by the same code, so that it costs
// them the same.
type driver struct {
	t      *target
	job    Job
	slots  []slot
	random uint64
	cursor int64
	left   int           // operations to start; negative: until the time is over
	time   time.Duration // of the segment
	finish func(error)
	settle env.Timer
	err    error

	running, ops, unsynced int
	latency                []uint32 // ns, of the operations that were timed
	begin                  usage
	spent                  usage
}

// slot is one operation of the depth.
type slot struct {
	d       *driver
	op      store.Op
	raw     env.DiskOp
	buf     []byte
	turn    uint
	timed   bool
	started time.Time
}

// timedEvery is how many operations of a slot there are to a timed one, except
// at depth 1: reading the clock would be a notable part of their CPU time.
const timedEvery = 8

const latencyMax = 1 << 20

func newDriver(t *target, job Job) *driver {
	d := &driver{t: t, job: job, left: -1, random: 0x9e3779b97f4a7c15, slots: make([]slot, job.Depth),
		latency: make([]uint32, 0, latencyMax)}
	for i := range d.slots {
		s := &d.slots[i]
		s.d, s.buf = d, t.r.buf[i*BlockBytes:][:job.Bytes]
		s.raw.Done, s.op.Done = s.rawDone, s.opDone
	}
	d.settle.Fire = d.settled
	return d
}

// start begins the segment; finish is called at its end.
func (d *driver) start(finish func(error)) {
	d.finish = finish
	d.ops, d.unsynced, d.latency = 0, 0, d.latency[:0]
	d.begin = measure()
	for i := range d.slots {
		d.slots[i].next()
	}
	d.ended()
}

// over tells whether nothing more is to be started.
func (d *driver) over(now time.Time) bool {
	return d.err != nil || d.left == 0 || d.left < 0 && now.Sub(d.begin.at) >= d.time
}

// ended finishes the segment when nothing is in flight any more.
func (d *driver) ended() {
	if d.running == 0 {
		d.settled()
	}
}

// settled waits for compaction, which belongs to the segment that caused it.
func (d *driver) settled() {
	r := d.t.r
	if d.t.store && r.s.Totals().Compactors > 0 {
		r.l.Arm(&d.settle, time.Millisecond)
		return
	}
	d.spent = measure().minus(d.begin)
	d.finish(d.err)
}

// place is the next place to work on, a multiple of the operation's size.
func (d *driver) place() int64 {
	n := d.t.bytes / int64(d.job.Bytes)
	if d.job.Sequential {
		d.cursor = (d.cursor + 1) % n
		return d.cursor * int64(d.job.Bytes)
	}
	d.random ^= d.random << 13
	d.random ^= d.random >> 7
	d.random ^= d.random << 17
	return int64(d.random%uint64(n)) * int64(d.job.Bytes)
}

// next starts another operation of the slot.
func (s *slot) next() {
	d := s.d
	s.turn++
	s.timed = d.job.Depth == 1 || s.turn%timedEvery == 0
	if s.timed || s.turn == 1 {
		s.started = time.Now()
		if d.over(s.started) {
			return
		}
	} else if d.err != nil || d.left == 0 {
		return
	}
	d.running++
	if d.job.SyncEvery > 0 && d.unsynced >= d.job.SyncEvery {
		d.unsynced, s.timed = 0, false
		s.sync()
		return
	}
	if d.left > 0 {
		d.left--
	}
	if d.job.Write {
		d.unsynced++
	}
	d.ops++
	s.transfer(d.place())
}

func (s *slot) sync() {
	if s.d.t.store {
		s.op.Kind = store.OpSync
		s.d.t.r.s.Submit(&s.op)
		return
	}
	s.raw.Kind = env.DiskSync
	s.d.t.r.counted.Submit(&s.raw)
}

func (s *slot) transfer(at int64) {
	t := s.d.t
	if !t.store {
		s.raw.Kind, s.raw.Offset, s.raw.Buf = env.DiskRead, t.from+at, s.buf
		if s.d.job.Write {
			s.raw.Kind = env.DiskWrite
		}
		t.r.counted.Submit(&s.raw)
		return
	}
	n := at / BlockBytes
	op := &s.op
	op.Kind, op.Version = store.OpRead, meta.NewestVersion
	if s.d.job.Write {
		t.r.versions[n]++
		op.Kind, op.Version = store.OpWriteStable, t.r.versions[n]
	}
	op.OID = meta.ObjectID{Inode: benchInode, Stripe: uint64(n) * BlockBytes}
	op.Offset, op.Len, op.Buf = uint32(at%BlockBytes), uint32(len(s.buf)), s.buf
	t.r.s.Submit(op)
}

// benchInode is the image of all objects.
var benchInode = meta.MakeInode(1, 1)

func (s *slot) rawDone(op *env.DiskOp) {
	if op.Err != nil && s.d.err == nil {
		s.d.err = fmt.Errorf("%d bytes at %d: %w", len(op.Buf), op.Offset, op.Err)
	}
	s.done()
}

func (s *slot) opDone(op *store.Op) {
	if op.Err != 0 && s.d.err == nil {
		s.d.err = fmt.Errorf("kind %d, object %v, %d bytes at %d: %w", op.Kind, op.OID, op.Len, op.Offset, op.Err)
	}
	s.done()
}

func (s *slot) done() {
	d := s.d
	if s.timed && len(d.latency) < cap(d.latency) {
		d.latency = append(d.latency, uint32(min(time.Since(s.started), 1<<32-1)))
	}
	d.running--
	s.next()
	d.ended()
}

// usage is what a segment takes of the machine.
type usage struct {
	at      time.Time
	elapsed time.Duration
	cpu     time.Duration
	mallocs uint64
}

// measure reads the clocks of the process. It stops the world: only between
// segments.
func measure() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{at: time.Now(), cpu: cpuTime(), mallocs: m.Mallocs}
}

func (u usage) minus(v usage) usage {
	return usage{elapsed: u.at.Sub(v.at), cpu: u.cpu - v.cpu, mallocs: u.mallocs - v.mallocs}
}
