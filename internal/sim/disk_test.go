package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
)

// rig is one node with one open disk and helpers that run one request.
type rig struct {
	t *testing.T
	w *World
	n *Node
	d *Disk
	h env.Disk
}

func newRig(t *testing.T, seed uint64, c DiskConfig) *rig {
	r := &rig{t: t, w: NewWorld(seed, Options{})}
	r.n = r.w.NewNode("a")
	r.d = r.n.AddDisk("/dev/a", c)
	r.open(env.DiskOptions{})
	return r
}

func (r *rig) open(o env.DiskOptions) {
	r.t.Helper()
	r.n.Do(func(e *env.Env) {
		h, err := e.Storage.OpenDisk("/dev/a", o)
		if err != nil {
			r.t.Fatal(err)
		}
		r.h = h
	})
}

// do submits op and waits for its end.
func (r *rig) do(op *env.DiskOp) error {
	r.t.Helper()
	done := false
	op.Done = func(*env.DiskOp) { done = true }
	r.n.Do(func(*env.Env) { r.h.Submit(op) })
	if !r.w.RunUntil(func() bool { return done }, time.Minute) {
		r.t.Fatal("disk request never ends")
	}
	return op.Err
}

func (r *rig) submit(op *env.DiskOp) {
	if op.Done == nil {
		op.Done = func(*env.DiskOp) {}
	}
	r.n.Do(func(*env.Env) { r.h.Submit(op) })
}

func (r *rig) write(off int64, b []byte) error {
	return r.do(&env.DiskOp{Kind: env.DiskWrite, Offset: off, Buf: b})
}

func (r *rig) sync() error { return r.do(&env.DiskOp{Kind: env.DiskSync}) }

func (r *rig) read(off int64, n int) ([]byte, error) {
	b := buffer(n)
	err := r.do(&env.DiskOp{Kind: env.DiskRead, Offset: off, Buf: b})
	return b, err
}

// buffer is aligned memory that is never freed: tests are short.
func buffer(n int) []byte {
	b, err := pinned.AlignedBuffer(n)
	if err != nil {
		panic(err)
	}
	return b
}

func filled(n int, c byte) []byte {
	b := buffer(n)
	for i := range b {
		b[i] = c
	}
	return b
}

func firstByte(m *Image, off int64) byte {
	var b [1]byte
	m.read(off, b[:])
	return b[0]
}

func violated(f func()) (text string) {
	defer func() {
		if v, ok := recover().(invariant.Violation); ok {
			text = v.Text
		}
	}()
	f()
	return ""
}

func TestImageAgainstBytes(t *testing.T) {
	const size = 3*leafBytes + 5000
	r := rand.New(rand.NewPCG(1, 1))
	type pair struct {
		m *Image
		b []byte
	}
	all := []pair{{NewImage(size), make([]byte, size)}}
	for range 3000 {
		p := &all[r.IntN(len(all))]
		off := r.Int64N(size)
		n := min(int64(r.IntN(20000)), size-off)
		switch r.IntN(5) {
		case 0, 1:
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			p.m.write(off, b)
			copy(p.b[off:], b)
		case 2:
			p.m.discard(off, n)
			clear(p.b[off : off+n])
		case 3:
			got := make([]byte, n)
			p.m.read(off, got)
			if !bytes.Equal(got, p.b[off:off+n]) {
				t.Fatal("read differs")
			}
		case 4:
			c := pair{p.m.Clone(), slices.Clone(p.b)}
			if len(all) < 6 {
				all = append(all, c)
			} else {
				all[r.IntN(len(all))] = c
			}
		}
	}
	for _, p := range all {
		if !bytes.Equal(p.m.Bytes(), p.b) {
			t.Fatal("contents differ")
		}
		if n := NewImageFrom(p.b, size); !bytes.Equal(n.Bytes(), p.b) {
			t.Fatal("loaded image differs")
		}
		pages := int64(0)
		p.m.EachPage(func(int64, []byte) { pages++ })
		if pages*pageBytes != p.m.AllocatedBytes() {
			t.Fatalf("%d pages counted, %d bytes allocated", pages, p.m.AllocatedBytes())
		}
	}
}

func TestCloneSharesPages(t *testing.T) {
	m := NewImage(leafBytes)
	m.write(0, make([]byte, 10*pageBytes))
	c := m.Clone()
	c.write(0, []byte{1})
	if m.ownedPages() != 0 || c.ownedPages() != 1 {
		t.Errorf("own %d and %d pages after one write to a clone", m.ownedPages(), c.ownedPages())
	}
}

// TestClonesAreIndependent is for the race detector.
func TestClonesAreIndependent(t *testing.T) {
	m := NewImage(2 * leafBytes)
	m.write(0, filled(64*pageBytes, 1))
	var g sync.WaitGroup
	for i := range byte(4) {
		c := m.Clone()
		g.Go(func() {
			for n := range int64(100) {
				c.write(n*pageBytes, filled(pageBytes, i+2))
				c = c.Clone()
			}
			if firstByte(c, 0) != i+2 || firstByte(c, 99*pageBytes) != i+2 {
				t.Error("wrong contents in a clone")
			}
		})
		m.write(int64(i)*pageBytes, filled(pageBytes, 9))
	}
	g.Wait()
	if firstByte(m, 0) != 9 || firstByte(m, 5*pageBytes) != 1 {
		t.Error("clones wrote to the original")
	}
}

func TestReadsSeeWritesAndZeroes(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
	if err := r.do(&env.DiskOp{Kind: env.DiskWrite, Offset: 8192, Iov: [][]byte{filled(4096, 1), filled(4096, 2)}}); err != nil {
		t.Fatal(err)
	}
	got, err := r.read(4096, 4*4096)
	want := slices.Concat(make([]byte, 4096), filled(4096, 1), filled(4096, 2), make([]byte, 4096))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back wrong, err %v", err)
	}
	if s := r.d.Stats(); s.Writes != 1 || s.WriteBytes != 8192 || s.Reads != 1 || s.ReadBytes != 16384 {
		t.Errorf("stats %+v", s)
	}
}

func TestUnsyncedMayBeLostSyncedNever(t *testing.T) {
	for _, volatile := range []bool{true, false} {
		r := newRig(t, 2, DiskConfig{SizeBytes: 1 << 20, VolatileCache: volatile})
		r.write(0, filled(4096, 1))
		seen := map[byte]int{}
		for _, m := range r.d.PowerLossImages(100) {
			seen[firstByte(m, 0)]++
		}
		if lost := seen[0] > 0; lost != volatile || seen[1] == 0 {
			t.Errorf("volatile %v, completed write: %v", volatile, seen)
		}
		r.sync()
		for _, m := range r.d.PowerLossImages(100) {
			if firstByte(m, 0) != 1 {
				t.Fatal("a synced write was lost")
			}
		}
		r.do(&env.DiskOp{Kind: env.DiskWrite, Offset: 4096, Buf: filled(4096, 2), Flags: env.DiskFUA})
		for _, m := range r.d.PowerLossImages(100) {
			if firstByte(m, 4096) != 2 {
				t.Fatal("a FUA write was lost")
			}
		}
	}
}

func TestSyncDoesNotCoverWritesInFlight(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		r := newRig(t, seed, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
		r.submit(&env.DiskOp{Kind: env.DiskWrite, Buf: filled(4096, 1)})
		if r.sync() != nil || r.d.InFlight() != 0 {
			continue // the write took longer than the sync
		}
		for _, m := range r.d.PowerLossImages(8) {
			if firstByte(m, 0) == 0 {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("a sync submitted before the write completed makes it durable")
	}
}

func TestTornWrites(t *testing.T) {
	for _, c := range []struct {
		name            string
		off             int64
		bytes           int
		block, at, tear int
		flags           env.DiskFlags
		torn            bool
	}{
		{"one block", 4096, 4096, 4096, 4096, 4096, 0, false},
		{"two blocks", 4096, 8192, 4096, 4096, 4096, 0, true},
		{"sectors", 4096, 8192, 512, 4096, 512, 0, true},
		{"inside an atomic window", 16384, 16384, 4096, 16384, 4096, 0, false},
		{"across atomic windows", 8192, 16384, 4096, 16384, 4096, 0, true},
		{"atomic flag", 16384, 8192, 4096, 16384, 512, env.DiskAtomic, false},
	} {
		r := newRig(t, 3, DiskConfig{SizeBytes: 1 << 20, BlockBytes: c.block, AtomicBytes: c.at, TearBytes: c.tear})
		r.submit(&env.DiskOp{Kind: env.DiskWrite, Offset: c.off, Buf: filled(c.bytes, 7), Flags: c.flags})
		whole, none, torn := 0, 0, 0
		for _, m := range r.d.PowerLossImages(300) {
			got := make([]byte, c.bytes)
			m.read(c.off, got)
			units := map[byte]bool{}
			for u := 0; u < c.bytes; u += c.tear {
				if !bytes.Equal(got[u:u+c.tear], bytes.Repeat(got[u:u+1], c.tear)) {
					t.Fatalf("%s: torn inside of a unit", c.name)
				}
				units[got[u]] = true
			}
			switch {
			case len(units) == 2:
				torn++
			case units[7]:
				whole++
			default:
				none++
			}
		}
		if whole == 0 || none == 0 || (torn > 0) != c.torn {
			t.Errorf("%s: %d whole, %d torn, %d lost", c.name, whole, torn, none)
		}
	}
}

func TestCachedWritesAreTornToo(t *testing.T) {
	r := newRig(t, 3, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
	r.write(0, filled(8192, 7))
	seen := map[[2]byte]int{}
	for _, m := range r.d.PowerLossImages(300) {
		seen[[2]byte{firstByte(m, 0), firstByte(m, 4096)}]++
	}
	if len(seen) != 4 {
		t.Errorf("contents after a power loss: %v", seen)
	}
}

func TestNewerNeverUndoneByOlder(t *testing.T) {
	r := newRig(t, 4, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
	r.write(0, filled(8192, 1))
	r.do(&env.DiskOp{Kind: env.DiskWrite, Offset: 4096, Buf: filled(4096, 2), Flags: env.DiskFUA})
	for _, m := range r.d.PowerLossImages(200) {
		if got := firstByte(m, 4096); got != 2 {
			t.Fatalf("durable write replaced by %d", got)
		}
	}
}

// blockLog is what the oracle knows of one block: which contents a power loss
// may leave.
type blockLog struct {
	durable   uint64   // number of the newest write certain to survive; 0 = zeroes
	completed []uint64 // newer ones, in order
	flying    uint64   // 0 = none
}

func (l *blockLog) allows(v uint64) bool {
	return v == l.durable || slices.Contains(l.completed, v) || v != 0 && v == l.flying
}

// settle makes versions up to and including v durable.
func (l *blockLog) settle(v uint64) {
	if i := slices.Index(l.completed, v); i >= 0 {
		l.durable = v
		l.completed = slices.Delete(l.completed, 0, i+1)
	}
}

func TestPowerLossAgainstOracle(t *testing.T) {
	for seed := range uint64(20) {
		for _, volatile := range []bool{false, true} {
			runOracle(t, seed, volatile)
		}
	}
}

const oracleBlocks = 64

// oracle drives a disk with up to 8 requests in flight and knows what a power
// loss may leave.
type oracle struct {
	*rig
	rng      *rand.Rand
	volatile bool
	number   uint64
	logs     [oracleBlocks]blockLog
}

// runOracle compares all images of a power loss at many moments with the rules.
func runOracle(t *testing.T, seed uint64, volatile bool) {
	o := &oracle{rng: rand.New(rand.NewPCG(seed, 5)), volatile: volatile}
	o.rig = newRig(t, seed, DiskConfig{SizeBytes: oracleBlocks * 4096, VolatileCache: volatile, Overlap: OverlapFail})
	for range 200 {
		for o.d.InFlight() < o.rng.IntN(9) {
			if o.rng.IntN(6) == 0 {
				o.startSync()
			} else {
				o.startWrite()
			}
		}
		o.w.Step()
		for _, m := range o.d.PowerLossImages(4) {
			checkAgainstOracle(t, m, &o.logs, seed)
		}
	}
	o.n.PowerLoss()
	checkAgainstOracle(t, o.d.Image(), &o.logs, seed)
}

func (o *oracle) startSync() {
	var covered [oracleBlocks][]uint64
	for i := range o.logs {
		covered[i] = slices.Clone(o.logs[i].completed)
	}
	o.submit(&env.DiskOp{Kind: env.DiskSync, Done: func(*env.DiskOp) {
		for i := range o.logs {
			for _, v := range covered[i] {
				o.logs[i].settle(v)
			}
		}
	}})
}

// startWrite writes a new number to 1..4 blocks, unless they are in use.
func (o *oracle) startWrite() {
	n := 1 + o.rng.IntN(4)
	at := o.rng.IntN(oracleBlocks - n + 1)
	blocks := o.logs[at : at+n]
	if slices.ContainsFunc(blocks, func(l blockLog) bool { return l.flying != 0 }) {
		return
	}
	o.number++
	v := o.number
	op := &env.DiskOp{Kind: env.DiskWrite, Offset: int64(at) * 4096, Buf: buffer(n * 4096)}
	for i := range blocks {
		binary.LittleEndian.PutUint64(op.Buf[i*4096:], v)
		binary.LittleEndian.PutUint64(op.Buf[i*4096+4088:], v)
		blocks[i].flying = v
	}
	if o.rng.IntN(8) == 0 {
		op.Flags = env.DiskFUA
	}
	op.Done = func(op *env.DiskOp) {
		for i := range blocks {
			blocks[i].flying = 0
			blocks[i].completed = append(blocks[i].completed, v)
			if !o.volatile || op.Flags == env.DiskFUA {
				blocks[i].settle(v)
			}
		}
		pinned.Free(op.Buf)
	}
	o.submit(op)
}

func checkAgainstOracle(t *testing.T, m *Image, logs *[oracleBlocks]blockLog, seed uint64) {
	t.Helper()
	var b [4096]byte
	for i := range logs {
		m.read(int64(i)*4096, b[:])
		v := binary.LittleEndian.Uint64(b[:])
		if v != binary.LittleEndian.Uint64(b[4088:]) || !logs[i].allows(v) {
			t.Fatalf("seed %d: block %d holds write %d, allowed %+v", seed, i, v, logs[i])
		}
	}
}

func TestProcessCrashKeepsCompletedWrites(t *testing.T) {
	fates := map[byte]int{}
	for seed := range uint64(60) {
		r := newRig(t, seed, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
		r.write(0, filled(4096, 1))
		r.submit(&env.DiskOp{Kind: env.DiskWrite, Offset: 4096, Buf: filled(4096, 2),
			Done: func(*env.DiskOp) { t.Error("a dead process was told") }})
		for _, m := range r.d.CrashImages(4) {
			if firstByte(m, 0) != 1 {
				t.Fatal("kill -9 lost a completed write")
			}
		}
		r.n.Crash()
		r.w.RunFor(time.Second)
		r.n.Restart()
		r.open(env.DiskOptions{})
		b, err := r.read(0, 8192)
		if err != nil || b[0] != 1 {
			t.Fatalf("after restart: %v, %d", err, b[0])
		}
		fates[b[4096]]++
	}
	if fates[0] == 0 || fates[2] == 0 {
		t.Errorf("fates of the write in flight: %v", fates)
	}
}

func TestLock(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.n.Do(func(e *env.Env) {
		if _, err := e.Storage.OpenDisk("/dev/a", env.DiskOptions{}); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("second open: %v", err)
		}
		if _, err := e.Storage.OpenDisk("/dev/a", env.DiskOptions{NoLock: true, ReadOnly: true}); err != nil {
			t.Errorf("open without lock: %v", err)
		}
		if _, err := e.Storage.OpenDisk("/dev/b", env.DiskOptions{}); err == nil {
			t.Error("a disk that does not exist was opened")
		}
		r.h.Close()
		if _, err := e.Storage.OpenDisk("/dev/a", env.DiskOptions{}); err != nil {
			t.Errorf("open after close: %v", err)
		}
	})
	if err := r.sync(); err != env.ErrDiskClosed {
		t.Errorf("request on a closed disk: %v", err)
	}
}

func TestCloseFinishesRequests(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	told := 0
	r.n.Do(func(*env.Env) {
		for i := range int64(3) {
			r.h.Submit(&env.DiskOp{Kind: env.DiskWrite, Offset: i * 4096, Buf: filled(4096, 9), Done: func(op *env.DiskOp) {
				if told++; op.Err != nil {
					t.Error(op.Err)
				}
			}})
		}
		r.h.Close()
		if told != 0 {
			t.Error("called back inside of Close")
		}
	})
	r.w.RunFor(time.Second)
	if told != 3 || r.d.Image().AllocatedBytes() != 3*4096 {
		t.Errorf("%d requests ended", told)
	}
}

func TestMisuseStopsTheWorld(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, Overlap: OverlapFail})
	if violated(func() { r.write(512, filled(4096, 1)) }) == "" {
		t.Error("unaligned offset passes")
	}
	r = newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, Overlap: OverlapFail})
	if violated(func() { r.write(0, filled(512, 1)) }) == "" {
		t.Error("unaligned length passes")
	}
	r = newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, Overlap: OverlapFail})
	r.submit(&env.DiskOp{Kind: env.DiskWrite, Buf: filled(8192, 1)})
	if violated(func() { r.write(4096, filled(4096, 1)) }) == "" {
		t.Error("overlapping writes pass")
	}
	r = newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	b := filled(4096, 1)
	r.submit(&env.DiskOp{Kind: env.DiskWrite, Buf: b})
	b[7]++
	if violated(func() { r.w.RunFor(time.Second) }) == "" {
		t.Error("changing memory in flight passes")
	}
	if invariant.Enabled {
		r = newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
		if violated(func() { r.write(0, buffer(8192)[8:4104]) }) == "" {
			t.Error("unaligned memory passes")
		}
	}
}

func TestOverlapsAreRecorded(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.submit(&env.DiskOp{Kind: env.DiskWrite, Buf: filled(8192, 1)})
	mixed := map[[2]byte]bool{}
	for range 40 {
		r.submit(&env.DiskOp{Kind: env.DiskRead, Buf: buffer(8192), Done: func(op *env.DiskOp) {
			mixed[[2]byte{op.Buf[0], op.Buf[4096]}] = true
		}})
	}
	r.w.RunFor(time.Second)
	if len(r.d.Overlaps()) != 40 {
		t.Errorf("%d overlaps", len(r.d.Overlaps()))
	}
	if len(mixed) != 4 {
		t.Errorf("reads beside a write saw only %v", mixed)
	}
}

func TestDiskPathAllocatesNothing(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, VolatileCache: volatile})
		b := filled(8192, 1)
		left := 0
		done := func(*env.DiskOp) { left-- }
		ops := []*env.DiskOp{
			{Kind: env.DiskWrite, Buf: b, Done: done},
			{Kind: env.DiskWrite, Offset: 8192, Iov: [][]byte{b[:4096], b[4096:]}, Done: done},
			{Kind: env.DiskRead, Offset: 16384, Buf: buffer(4096), Done: done},
			{Kind: env.DiskSync, Done: done},
		}
		submit := func(*env.Env) {
			for _, op := range ops {
				left++
				r.h.Submit(op)
			}
		}
		round := func() {
			r.n.Do(submit)
			for left > 0 {
				r.w.Step()
			}
		}
		for range 100 {
			round()
		}
		// Do itself allocates its closure; the four requests must not.
		if n := testing.AllocsPerRun(200, round); n > 2 {
			t.Errorf("volatile %v: %v allocations in 4 requests", volatile, n)
		}
	}
}

func BenchmarkDiskWrite4K(b *testing.B) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	d := n.AddDisk("/d", DiskConfig{SizeBytes: 64 << 20, VolatileCache: true})
	h, _ := d.open(n.proc, env.DiskOptions{})
	buf := buffer(4096)
	op := &env.DiskOp{Kind: env.DiskWrite, Buf: buf, Done: func(*env.DiskOp) {}}
	b.ReportAllocs()
	for i := range b.N {
		op.Offset = int64(i%16384) * 4096
		n.Do(func(*env.Env) { h.Submit(op) })
		for d.InFlight() > 0 {
			w.Step()
		}
	}
}

func BenchmarkPowerLossImage(b *testing.B) {
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	d := n.AddDisk("/d", DiskConfig{SizeBytes: 64 << 20, VolatileCache: true})
	h, _ := d.open(n.proc, env.DiskOptions{})
	n.Do(func(*env.Env) {
		for i := range 32 {
			h.Submit(&env.DiskOp{Kind: env.DiskWrite, Offset: int64(i*37%2048) * 4096, Buf: buffer(4096), Done: func(*env.DiskOp) {}})
		}
	})
	w.Run(100 * time.Microsecond)
	b.ReportAllocs()
	for b.Loop() {
		d.PowerLossImages(1)
	}
}

// BenchmarkCrashPoint is one crash point of a store's test: an image, a new
// world on it, and 256 KiB read back.
func BenchmarkCrashPoint(b *testing.B) {
	c := DiskConfig{SizeBytes: 64 << 20, VolatileCache: true}
	w := NewWorld(1, Options{})
	n := w.NewNode("a")
	d := n.AddDisk("/d", c)
	h, _ := d.open(n.proc, env.DiskOptions{})
	op := &env.DiskOp{Kind: env.DiskWrite, Buf: buffer(4096), Done: func(*env.DiskOp) {}}
	back := buffer(64 << 10)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		op.Offset = int64(i*37%16384) * 4096
		if n.Do(func(*env.Env) { h.Submit(op) }); i%16 == 0 {
			n.Do(func(*env.Env) { h.Submit(&env.DiskOp{Kind: env.DiskSync, Done: op.Done}) })
		}
		for d.InFlight() > 0 {
			w.Step()
		}
		crashed := c
		crashed.Image = d.PowerLossImages(1)[0]
		w2 := NewWorld(uint64(i), Options{})
		n2 := w2.NewNode("a")
		d2 := n2.AddDisk("/d", crashed)
		h2, _ := d2.open(n2.proc, env.DiskOptions{})
		n2.Do(func(*env.Env) {
			for k := range int64(4) {
				h2.Submit(&env.DiskOp{Kind: env.DiskRead, Offset: k << 20, Buf: back, Done: op.Done})
			}
		})
		for d2.InFlight() > 0 {
			w2.Step()
		}
	}
}
