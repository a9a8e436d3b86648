package heal

import (
	"errors"
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/primary"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// scrubJob is the comparison of one object:
//
//	Hold ─▶ granted ─▶ memory ─▶ readSlice ─▶ chunkDone.. ─▶ compare ─▶ conclude ─▶ Release ─▶ finish
//	                                 ▲                          │
//	                                 └───── next slice ─────────┘
//
// Writes to the object wait meanwhile, so all slices are of one version.
type scrubJob struct {
	h    *Healer
	hold primary.Hold
	run  *scrubRun     // nil: a request
	req  *msgr.Request // nil: part of a run
	err  wire.Retval

	scheme   meta.Scheme  // of the PG, as it was peered
	k, m     int          // data and parity chunks; 1 and 0 for replicas
	limit    meta.Version // newest version to read
	readings []reading    // sorted by role
	chunks   []*chunk     // one for each of readings; never fewer than before
	outdated []peering.Location
	compared []int // readings that are compared

	offset, bytes uint32 // of the slice
	pending       int    // reads
	changed       bool   // a chunk turned out not to be readable
	begun         bool   // the comparison
	holds         bool   // granted and not released
	memory        int    // buffers needed
	buffers       [][]byte
	data          [][]byte // of compared
	replicas      replicas
	stripes       stripes
	good          []bool
	before, after []peering.Location

	timer      env.Timer // next combination, or pause
	pausing    bool
	prev, next *scrubJob
}

// chunk reads one location.
type chunk struct {
	j     *scrubJob
	i     int // its place in readings
	op    msgr.Op
	local secondary.Op
	attr  []byte
	body  [1][]byte
}

// scrubObject begins the scrub of an object. The caller says for whom.
func (h *Healer) scrubObject(pg meta.PG, id meta.ObjectID) *scrubJob {
	j := h.idle
	if j == nil {
		j = &scrubJob{h: h}
		j.hold.Granted = j.granted
		j.timer.Fire = j.fired
	} else {
		h.idle, j.next = j.next, nil
	}
	j.err, j.offset, j.changed, j.begun, j.pausing = wire.OK, 0, false, false, false
	j.hold.PG, j.hold.OID = pg, id
	h.jobs.add(j)
	h.deps.Primary.Hold(&j.hold)
	return j
}

// granted has the object for itself.
func (j *scrubJob) granted(hold *primary.Hold) {
	h := j.h
	if hold.Err.Failed() {
		j.finish(hold.Err)
		return
	}
	j.holds = true
	objects := h.deps.Primary.Objects(hold.PG)
	if objects == nil {
		j.finish(wire.EPIPE)
		return
	}
	j.scheme, j.k, j.m = objects.Scheme, objects.DataChunks, 0
	if j.scheme != meta.Replicated {
		j.m = len(objects.CurSet) - j.k
	}
	record, limit := objects.Lookup(hold.OID)
	j.limit = limit
	j.collect(&objects.Layout, record)
	if limit == meta.NoVersion || len(j.readings) == 0 {
		j.finish(wire.OK)
		return
	}
	j.start()
}

// collect lists what has to be read.
func (j *scrubJob) collect(l *peering.Layout, record *peering.Record) {
	j.readings, j.outdated = j.readings[:0], j.outdated[:0]
	j.before = appendLocations(j.before[:0], l, record)
	for _, loc := range j.before {
		if loc.Bad&meta.LocOutdated != 0 {
			j.outdated = append(j.outdated, loc)
		} else if len(j.readings) < ec.MaxRoles {
			j.readings = append(j.readings, reading{loc: loc})
		}
	}
	slices.SortFunc(j.readings, byRole)
	for len(j.chunks) < len(j.readings) {
		c := &chunk{j: j, i: len(j.chunks), attr: make([]byte, meta.BitmapBytes(j.h.config.BlockBytes, j.h.config.GranuleBytes))}
		c.op.Done, c.local.Done = c.received, c.readLocally
		j.chunks = append(j.chunks, c)
	}
}

// appendLocations appends where an object is.
func appendLocations(dst []peering.Location, l *peering.Layout, record *peering.Record) []peering.Location {
	if record != nil {
		return append(dst, record.Locs...)
	}
	for role, osd := range l.CurSet {
		loc := peering.Location{OSD: osd}
		if l.Scheme != meta.Replicated {
			loc.Role = meta.Role(role)
		}
		if osd != 0 {
			dst = append(dst, loc)
		}
	}
	return dst
}

// start takes memory and begins to read, or waits.
func (j *scrubJob) start() {
	h := j.h
	n := len(j.readings) + j.m
	j.bytes = sliceBytes(h.config.BlockBytes, h.config.GranuleBytes, n)
	if j.bytes == 0 {
		h.log.Error("chunks cannot be compared: too large bitmap_granularity", "pg", j.hold.PG.String(), "chunks", n)
		j.finish(wire.EINVAL)
		return
	}
	j.memory = n
	if len(h.hungry) > 0 || !j.takeMemory() {
		h.hungry = append(h.hungry, j)
		return
	}
	j.readSlice()
}

// sliceBytes is how much of each of n chunks is compared at a time; 0 = there is
// no way.
func sliceBytes(block, granule uint32, n int) uint32 {
	const largest = 1 << 20 // pinned.MaxBufferBytes
	bytes := min(block, largest)
	for int(bytes)*n > jobMemoryBytes && bytes/2 >= granule {
		bytes /= 2
	}
	if bytes < granule || int(bytes)*n > 2*jobMemoryBytes {
		return 0
	}
	return bytes
}

// takeMemory gives the job buffers; false = there are too few now.
func (j *scrubJob) takeMemory() bool {
	for len(j.buffers) < j.memory {
		b, ok := j.h.pool.Get(int(j.bytes))
		if !ok {
			j.putBuffers()
			return false
		}
		j.buffers = append(j.buffers, b)
	}
	return true
}

// feedHungry lets jobs go on that wait for memory, in order.
func (h *Healer) feedHungry() {
	for len(h.hungry) > 0 && h.hungry[0].takeMemory() {
		j := h.hungry[0]
		h.hungry = slices.Delete(h.hungry, 0, 1)
		j.readSlice()
	}
}

// readSlice reads the next slice of all chunks that can be read.
func (j *scrubJob) readSlice() {
	h := j.h
	j.bytes = min(j.bytes, h.config.BlockBytes-j.offset)
	j.pending = 1
	for i := range j.readings {
		if r := &j.readings[i]; r.cond == readable {
			j.pending++
			j.chunks[i].read(r.loc)
		}
	}
	j.readDone()
}

// read begins to read the present slice.
func (c *chunk) read(loc peering.Location) {
	j, h := c.j, c.j.h
	buf := j.buffers[c.i][:j.bytes]
	id := j.hold.OID.WithRole(loc.Role)
	if loc.OSD == h.config.OSD {
		op := &c.local
		op.Kind, op.OID, op.Version, op.Offset, op.Len, op.Buf, op.Bitmap = store.OpRead, id, j.limit, j.offset, j.bytes, buf, nil
		h.deps.Local.Submit(op)
		return
	}
	conn := h.deps.Peers.Conn(loc.OSD)
	if conn == nil {
		j.err = wire.EPIPE
		j.pending--
		return
	}
	(&wire.SecRw{Op: wire.OpSecRead, Chunk: id, Version: j.limit, Offset: j.offset, Len: j.bytes}).Encode(&c.op.Packet)
	c.body[0] = buf
	c.op.Attr, c.op.Body, c.op.User = c.attr, c.body[:], conn
	conn.Submit(&c.op)
}

func (c *chunk) readLocally(op *secondary.Op) {
	ret := wire.OK
	if op.Err != 0 {
		ret = wire.RetvalOf(op.Err)
	}
	c.j.chunkDone(c.i, ret, op.Version)
}

func (c *chunk) received(op *msgr.Op) {
	var re wire.SecRwReply
	if !op.Lost {
		re.Decode(&op.Reply)
	}
	ret := op.Retval
	switch {
	case op.Lost:
		ret = wire.EPIPE
	case ret.Failed() && ret != wire.ENOENT && ret != wire.EIO && ret != wire.EDOM:
		op.User.(*msgr.Conn).Drop(errors.New("scrub: SEC_READ failed: " + ret.String()))
		ret = wire.EPIPE
	}
	c.j.chunkDone(c.i, ret, re.Version)
}

// chunkDone is the result of reading a slice of one chunk.
func (j *scrubJob) chunkDone(i int, ret wire.Retval, v meta.Version) {
	r := &j.readings[i]
	switch {
	case ret == wire.ENOENT:
		r.cond, j.changed = missing, true
	case ret == wire.EIO || ret == wire.EDOM:
		r.cond, j.changed = broken, true
	case ret.Failed():
		j.err = ret
	default:
		if j.offset > 0 && v != r.version {
			j.err = wire.EPIPE // somebody else writes: this primary is not the primary any more
		}
		r.version = v
		j.h.stats.ScrubBytes += uint64(j.bytes)
	}
	j.readDone()
}

// readDone counts the reads of a slice.
func (j *scrubJob) readDone() {
	if j.pending--; j.pending > 0 {
		return
	}
	invariant.Must(j.holds, "heal: an object is compared without being held")
	if j.err.Failed() {
		j.finish(j.err)
		return
	}
	if j.changed && j.offset > 0 { // once more, without it
		j.offset, j.changed, j.begun = 0, false, false
		j.readSlice()
		return
	}
	j.changed = false
	j.compareSlice()
}

// nextSlice goes on after a slice was compared.
func (j *scrubJob) nextSlice() {
	j.offset += j.bytes
	if j.offset >= j.h.config.BlockBytes {
		j.conclude()
		return
	}
	j.readSlice()
}

// fired is the next combination of chunks, or the end of the pause.
func (j *scrubJob) fired() {
	if j.pausing {
		j.done()
	} else {
		j.checkMore()
	}
}

// finish lets writes go on and tells the result.
func (j *scrubJob) finish(err wire.Retval) {
	h := j.h
	j.err = err
	j.putBuffers()
	if j.holds {
		j.holds = false
		h.deps.Primary.Release(&j.hold)
	}
	if sleep := h.config.Scrub.Sleep; j.run != nil && sleep > 0 && !h.stopped {
		j.pausing = true
		h.env.Clock.Arm(&j.timer, sleep)
		return
	}
	j.done()
}

func (j *scrubJob) done() {
	h, run, req, err := j.h, j.run, j.req, j.err
	h.jobs.remove(j)
	j.run, j.req = nil, nil
	j.next, h.idle = h.idle, j
	if req != nil {
		h.requestDone(req, err)
	} else {
		h.objectDone(run, err)
	}
}

func (j *scrubJob) putBuffers() {
	for _, b := range j.buffers {
		j.h.pool.Put(b)
	}
	j.buffers = j.buffers[:0]
}

// jobList is the list of all jobs in work.
type jobList struct{ head, tail *scrubJob }

func (l *jobList) add(j *scrubJob) {
	j.prev, j.next = l.tail, nil
	if l.tail == nil {
		l.head = j
	} else {
		l.tail.next = j
	}
	l.tail = j
}

func (l *jobList) remove(j *scrubJob) {
	if j.prev == nil {
		l.head = j.next
	} else {
		j.prev.next = j.next
	}
	if j.next == nil {
		l.tail = j.prev
	} else {
		j.next.prev = j.prev
	}
	j.prev, j.next = nil, nil
}
