package sim

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// DiskConfig describes a simulated disk; only SizeBytes is needed (or Image).
type DiskConfig struct {
	SizeBytes int64
	Image     *Image // initial contents (cloned) and size; nil = zeroes
	// BlockBytes is the unit and alignment of I/O. Default 4096.
	BlockBytes int
	// AtomicBytes: a write inside one naturally aligned window of this size is
	// never torn. A power of two, at least BlockBytes, default 4096.
	AtomicBytes int
	// TearBytes is the grain at which other writes are torn. Default BlockBytes.
	TearBytes int
	// VolatileCache: a completed write is durable only after a DiskSync
	// submitted after its completion, or with FUA. Otherwise write-through.
	VolatileCache           bool
	DiscardGranularityBytes int64 // 0 = discards fail with EOPNOTSUPP
	Rotational              bool
	// SpaceLimitBytes makes the disk a sparse file on a file system with this
	// much space: writes that need more fail with ENOSPC. 0 = no limit.
	SpaceLimitBytes int64
	Timing          DiskTiming
	Overlap         OverlapPolicy
}

// DiskTiming says how long requests take; zero fields mean the defaults, which
// resemble a good SATA or a small NVMe SSD.
type DiskTiming struct {
	ReadLatency    time.Duration // 80 us, each x 0.5..1.5, one in 100 x 20
	WriteLatency   time.Duration // 30 us
	SyncLatency    time.Duration // 400 us
	OpTime         time.Duration // 3 us: requests do not overlap in this part
	BytesPerSecond int64         // 2e9
}

func (t *DiskTiming) setDefaults() {
	setDefault(&t.ReadLatency, 80*time.Microsecond)
	setDefault(&t.WriteLatency, 30*time.Microsecond)
	setDefault(&t.SyncLatency, 400*time.Microsecond)
	setDefault(&t.OpTime, 3*time.Microsecond)
	setDefault(&t.BytesPerSecond, 2e9)
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// DiskStats counts what a disk was asked to do since it was made.
type DiskStats struct {
	Reads, Writes, FUAWrites, Syncs, Discards uint64
	ReadBytes, WriteBytes, DiscardBytes       uint64
	Errors                                    uint64 // requests that failed
	OutOfRange                                uint64 // ... because they went past the end
	InFlightMax                               int
}

// Disk is a device. What it holds is in up to two images:
//
//	visible   what reads return
//	durable   what a power loss certainly leaves; the same image if write-through
//	pending   completed writes that are in visible but not in durable, in order
//	inflight  submitted requests, in order of submission
//
// It outlives processes: handles on it come from env.Storage.
type Disk struct {
	w     *World
	index int
	name  string
	path  string // on the node it is attached to
	c     DiskConfig
	info  env.DiskInfo
	rng   *rand.Rand // service times and probabilistic faults

	visible, durable *Image
	completions      uint64 // numbers completed writes
	pending          []*cachedWrite
	pendingBytes     int64
	freeWrites       [32][]*cachedWrite // by log2 of the buffer size
	first, last      *diskRequest       // in flight
	inFlight         int
	freeRequests     *diskRequest

	busFree  env.Instant // when the serial part of the device is free
	faults   DiskFaults
	readOnly bool
	lock     *diskHandle
	samples  uint64 // post-crash images made, to make each different
	stats    DiskStats
	overlaps []Overlap
}

// cachedWrite is a completed write that a power loss may undo.
type cachedWrite struct {
	off    int64
	data   []byte
	seq    uint64
	atomic bool
}

// NewDisk makes a disk that belongs to no node yet (see Node.Attach). The name
// selects its random sequence.
func NewDisk(w *World, name string, c DiskConfig) *Disk {
	setDefault(&c.BlockBytes, 4096)
	setDefault(&c.AtomicBytes, max(c.BlockBytes, 4096))
	setDefault(&c.TearBytes, c.BlockBytes)
	c.Timing.setDefaults()
	invariant.Must(c.BlockBytes >= 512 && c.AtomicBytes >= c.BlockBytes, "sim: disk blocks are 512 bytes or more, and written atomically")
	invariant.Must(bits.OnesCount(uint(c.BlockBytes)) == 1 && bits.OnesCount(uint(c.AtomicBytes)) == 1, "sim: disk block sizes must be powers of two")
	m := c.Image
	if m == nil {
		m = NewImage(c.SizeBytes)
	} else {
		m = m.Clone()
	}
	c.Image, c.SizeBytes = nil, m.size
	w.disks++
	d := &Disk{w: w, index: w.disks, name: name, path: name, c: c, rng: w.derive("disk "+name, 0)}
	d.info = env.DiskInfo{
		SizeBytes: m.size, BlockBytes: c.BlockBytes, AtomicWriteBytes: c.AtomicBytes,
		DiscardGranularityBytes: c.DiscardGranularityBytes, Rotational: c.Rotational,
	}
	d.setContents(m)
	return d
}

// Name is the name given to NewDisk; Node.AddDisk makes "node:path" of it.
func (d *Disk) Name() string { return d.name }

// Stats returns the counters.
func (d *Disk) Stats() DiskStats { return d.stats }

// Image returns a copy of what reads see at this moment.
func (d *Disk) Image() *Image { return d.visible.Clone() }

// DurableImage returns a copy of what is certain to survive a power loss.
func (d *Disk) DurableImage() *Image { return d.durable.Clone() }

// SetImage replaces the contents by a copy of m. No process may use the disk.
func (d *Disk) SetImage(m *Image) {
	invariant.Must(d.lock == nil && d.first == nil, "sim: SetImage on a disk in use")
	invariant.Must(m.size == d.info.SizeBytes, "sim: SetImage with another size")
	d.setContents(m.Clone())
}

// setContents makes m, which the disk owns from now on, the durable contents.
func (d *Disk) setContents(m *Image) {
	d.settle(len(d.pending), func() bool { return true })
	d.visible, d.durable = m, m
}

// InFlight is the number of requests that the disk works on.
func (d *Disk) InFlight() int { return d.inFlight }

// Undurable is the number of completed writes that a power loss may undo.
func (d *Disk) Undurable() int { return len(d.pending) }

// diskHandle is a disk opened by a process; it implements env.Disk.
type diskHandle struct {
	d      *Disk
	p      *process
	o      env.DiskOptions
	info   env.DiskInfo
	closed bool
}

func (d *Disk) open(p *process, o env.DiskOptions) (env.Disk, error) {
	if d.readOnly && !o.ReadOnly {
		return nil, fmt.Errorf("open %s: the disk is write-protected: %w", d.path, syscall.EROFS)
	}
	h := &diskHandle{d: d, p: p, o: o, info: d.info}
	h.info.Path = d.path
	if !o.NoLock {
		if d.lock != nil {
			return nil, fmt.Errorf("open %s: another process has it open: stop it first: %w", d.path, syscall.EBUSY)
		}
		d.lock = h
	}
	return h, nil
}

// Info implements env.Disk.
func (h *diskHandle) Info() env.DiskInfo { return h.info }

// Close implements env.Disk: the media parts of requests in flight happen at
// once, their callbacks still come.
func (h *diskHandle) Close() error {
	if h.closed || h.p.dead {
		return nil
	}
	h.closed = true
	d := h.d
	for r := d.first; r != nil; {
		next := r.next
		if r.h == h {
			r.complete()
		}
		r = next
	}
	if d.lock == h {
		d.lock = nil
	}
	return nil
}

// Submit implements env.Disk.
func (h *diskHandle) Submit(op *env.DiskOp) {
	if h.p.dead {
		return
	}
	d, w := h.d, h.d.w
	r := d.newRequest()
	r.h, r.op, r.n, r.err = h, op, op.Bytes(), nil
	r.err = h.refuse(op, r.n)
	r.durable = op.Flags&env.DiskFUA != 0 || h.o.Mode == env.DiskDirectSync
	r.covers = d.completions
	if op.Kind == env.DiskWrite {
		r.crc = crcOf(op)
	}
	w.trace(traceDiskSubmit, d.index, uint64(op.Kind)<<56|uint64(op.Flags)<<48^uint64(op.Offset), uint64(r.n)<<32|uint64(r.crc))
	if r.err == nil {
		d.stats.count(op, r.n)
		d.noteOverlaps(r)
	}
	d.append(r)
	if r.early = op.Kind == env.DiskRead && r.err == nil && d.rng.Uint64()&1 == 0; r.early {
		d.readInto(r)
	}
	w.schedule(d.serviceEnd(r), nil, r, r.gen)
}

// refuse finds requests that fail without touching the media, and stops the
// world for those that no correct program makes.
func (h *diskHandle) refuse(op *env.DiskOp, n int64) error {
	d := h.d
	if h.closed {
		return env.ErrDiskClosed
	}
	if op.Kind == env.DiskSync {
		return nil
	}
	if op.Kind > env.DiskDiscard || n < 0 || len(op.Iov) > env.DiskIovMax {
		return syscall.EINVAL
	}
	h.checkAlignment(op, n)
	if op.Offset < 0 || op.Offset > d.info.SizeBytes-n {
		d.stats.OutOfRange++
		if op.Kind == env.DiskWrite {
			return syscall.ENOSPC
		}
		return syscall.EIO
	}
	switch {
	case op.Kind == env.DiskRead:
		return nil
	case h.o.ReadOnly:
		return syscall.EBADF
	case d.readOnly:
		return syscall.EROFS
	case op.Kind == env.DiskDiscard && d.c.DiscardGranularityBytes == 0:
		return syscall.EOPNOTSUPP
	case op.Flags&env.DiskAtomic != 0 && !d.oneWindow(op.Offset, n):
		return syscall.EINVAL
	}
	return nil
}

func (h *diskHandle) checkAlignment(op *env.DiskOp, n int64) {
	if h.o.Mode == env.DiskCached {
		return
	}
	mask := int64(h.d.c.BlockBytes - 1)
	ok := op.Offset&mask == 0 && n&mask == 0
	for _, p := range op.Iov {
		ok = ok && int64(len(p))&mask == 0
	}
	if !ok {
		invariant.Fail("sim: %s: request kind %d at %d+%d in %d parts is not aligned to %d",
			h.d.name, op.Kind, op.Offset, n, len(op.Iov), h.d.c.BlockBytes)
	}
	if invariant.Enabled {
		checkAddresses(op, mask)
	}
}

// oneWindow tells whether a write is atomic by its size and place.
func (d *Disk) oneWindow(off, n int64) bool {
	a := int64(d.c.AtomicBytes)
	return n <= a && off/a == (off+n-1)/a
}

// serviceEnd decides when r will be done.
func (d *Disk) serviceEnd(r *diskRequest) env.Instant {
	t := &d.c.Timing
	var latency time.Duration
	switch r.op.Kind {
	case env.DiskRead:
		latency = t.ReadLatency
	case env.DiskSync:
		latency = t.SyncLatency
	default:
		latency = t.WriteLatency
	}
	x := d.rng.Uint64()
	latency = latency/2 + time.Duration(uint64(latency)*(x&1023)/1024)
	if x>>10&127 == 0 {
		latency *= 20
	}
	d.maybeStall()
	transfer := time.Duration(0)
	if r.op.Kind != env.DiskDiscard {
		transfer = time.Duration(r.n * int64(time.Second) / t.BytesPerSecond)
	}
	d.busFree = max(d.busFree, d.w.now).Add(t.OpTime + transfer)
	if f := d.faults.Slowdown; f > 1 {
		latency = time.Duration(float64(latency) * f)
	}
	return d.busFree.Add(latency)
}

// fire is the end of the device's work.
func (r *diskRequest) fire(gen uint64) {
	if gen == r.gen {
		r.complete()
	}
}

func (r *diskRequest) complete() {
	d := r.d
	d.remove(r)
	if r.err == nil {
		r.err = d.perform(r)
	}
	if r.err != nil {
		d.stats.Errors++
	}
	r.gen++ // the device's event, if still to come, is stale
	d.w.deliver(r.h.p, &r.notify, r.gen)
}

// fire tells the process.
func (n *diskNotice) fire(gen uint64) {
	r := n.r
	if gen != r.gen {
		return
	}
	d, op := r.d, r.op
	op.Err = r.err
	d.w.trace(traceDiskDone, d.index, uint64(op.Kind)<<56^uint64(op.Offset), uint64(r.crc)<<1|boolBit(r.err != nil))
	d.putRequest(r)
	op.Done(op)
}

// perform does what the request asks for, or fails to.
func (d *Disk) perform(r *diskRequest) error {
	op := r.op
	switch op.Kind {
	case env.DiskRead:
		if err := d.readFault(op.Offset, r.n); err != nil {
			return err
		}
		if !r.early {
			d.readInto(r)
		}
		r.crc = crcOf(op)
	case env.DiskWrite:
		if crcOf(op) != r.crc {
			invariant.Fail("sim: %s: the memory of a write at %d+%d was changed before its Done", d.name, op.Offset, r.n)
		}
		return d.performWrite(r)
	case env.DiskSync:
		return d.performSync(r.covers)
	case env.DiskDiscard:
		d.performDiscard(op.Offset, op.Length)
	}
	return nil
}

func (d *Disk) performWrite(r *diskRequest) error {
	off := r.op.Offset
	if limit := d.c.SpaceLimitBytes; limit > 0 &&
		d.visible.AllocatedBytes()+d.visible.missingPages(off, r.n)*pageBytes > limit {
		return syscall.ENOSPC
	}
	switch d.writeFault() {
	case writeFails:
		d.applyFate(r, fateTorn, d.rng)
		return syscall.EIO
	case writeIsLost:
		return nil
	}
	d.apply(r)
	return nil
}

// apply makes a write visible, and durable or pending.
func (d *Disk) apply(r *diskRequest) {
	d.completions++
	cached := d.c.VolatileCache || r.h.o.Mode == env.DiskCached
	if !cached && d.visible == d.durable {
		eachPart(r.op, d.visible.write)
		return
	}
	if !cached {
		r.durable = true
	}
	d.splitImages()
	eachPart(r.op, d.visible.write)
	if r.durable {
		eachPart(r.op, d.durable.write)
		eachPart(r.op, d.supersede)
		return
	}
	c := d.getWrite(int(r.n))
	c.off, c.seq = r.op.Offset, d.completions
	c.atomic = r.op.Flags&env.DiskAtomic != 0
	n := 0
	eachPart(r.op, func(_ int64, b []byte) { n += copy(c.data[n:], b) })
	d.addPending(c)
}

// cacheBytesMax is the size of the volatile cache: beyond it the older half is
// written back, and so becomes durable without a sync.
const cacheBytesMax = 64 << 20

func (d *Disk) addPending(c *cachedWrite) {
	d.pending = append(d.pending, c)
	if d.pendingBytes += int64(len(c.data)); d.pendingBytes > cacheBytesMax {
		d.settle(len(d.pending)/2, nil)
	}
}

// settle takes the first k writes out of the cache, to the media unless lose
// says otherwise.
func (d *Disk) settle(k int, lose func() bool) {
	for _, c := range d.pending[:k] {
		d.pendingBytes -= int64(len(c.data))
		if lose == nil || !lose() {
			d.durable.write(c.off, c.data)
		}
		d.putWrite(c)
	}
	n := copy(d.pending, d.pending[k:])
	clear(d.pending[n:])
	d.pending = d.pending[:n]
}

// splitImages starts to tell apart what is visible and what is durable.
func (d *Disk) splitImages() {
	if d.visible == d.durable {
		d.visible = d.durable.Clone()
	}
}

// supersede keeps pending writes from undoing a later durable one: where they
// overlap, what may survive of them is the later contents.
func (d *Disk) supersede(off int64, b []byte) {
	for _, c := range d.pending {
		lo, hi := max(off, c.off), min(off+int64(len(b)), c.off+int64(len(c.data)))
		if lo < hi {
			copy(c.data[lo-c.off:hi-c.off], b[lo-off:])
		}
	}
}

// performSync makes the writes that completed before its submission durable.
func (d *Disk) performSync(covers uint64) error {
	k := 0
	for k < len(d.pending) && d.pending[k].seq <= covers {
		k++
	}
	if d.faults.hits(d.rng, d.faults.SyncError) {
		d.settle(k, func() bool { return d.rng.Uint64()&1 == 0 })
		return syscall.EIO
	}
	d.settle(k, nil)
	return nil
}

// performDiscard forgets, at once and for good, any subset of the pages.
func (d *Disk) performDiscard(off, n int64) {
	for n > 0 {
		k := min(n, pageBytes-off%pageBytes)
		if d.rng.Uint64()&3 != 0 {
			d.visible.discard(off, k)
			if d.durable != d.visible {
				d.durable.discard(off, k)
			}
		}
		off, n = off+k, n-k
	}
}

// readInto fills the request's memory: the visible contents, and of writes in
// flight to the same place any part, for nothing orders them.
func (d *Disk) readInto(r *diskRequest) {
	eachPart(r.op, d.visible.read)
	lo, hi := r.op.Offset, r.op.Offset+r.n
	for o := d.first; o != nil; o = o.next {
		if o.op.Kind == env.DiskWrite && o.err == nil && o.op.Offset < hi && lo < o.op.Offset+o.n {
			d.mixIn(r.op, o.op)
		}
	}
}

// mixIn copies a random part of the blocks of a write in flight into a read.
func (d *Disk) mixIn(read, write *env.DiskOp) {
	atomic := d.oneWindow(write.Offset, write.Bytes())
	choice := d.rng.Uint64()
	eachPart(write, func(wOff int64, src []byte) {
		eachPart(read, func(rOff int64, dst []byte) {
			grain := int64(d.c.TearBytes)
			lo, hi := max(wOff, rOff), min(wOff+int64(len(src)), rOff+int64(len(dst)))
			for at := lo; at < hi; {
				end := min(hi, (at/grain+1)*grain)
				if !atomic {
					choice = d.rng.Uint64()
				}
				if choice&1 == 0 {
					copy(dst[at-rOff:end-rOff], src[at-wOff:])
				}
				at = end
			}
		})
	})
}
