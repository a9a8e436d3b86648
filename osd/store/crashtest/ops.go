package crashtest

import (
	"fmt"
	"slices"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// replicated tells whether the object is of the replicated pool: it is written
// with WRITE_STABLE only, the others with WRITE and STABILIZE.
func (o *object) replicated() bool { return o.id.Inode.Pool() == replicatedPool }

func (r *runner) object(s *Step) *object { return r.objs[s.Object%len(r.objs)] }

// stepMutation submits a write or a delete.
func (r *runner) stepMutation(s *Step) error {
	o := r.object(s)
	if err := r.free(o); err != nil {
		return err
	}
	if s.Kind == StepDelete {
		r.submitDelete(o)
		return r.err
	}
	unstable := 0
	for _, v := range o.live {
		if !v.Stable {
			unstable++
		}
	}
	if unstable >= r.c.UnstableMax {
		r.submitItems(Stabilize, []*object{o}, []*Mutation{{Kind: Stabilize, Version: o.live.newest().Number}})
		return r.err
	}
	r.submitWrite(o, r.newWrite(o, s))
	return r.err
}

// newWrite decides about the write of a step.
func (r *runner) newWrite(o *object, s *Step) *Mutation {
	m := &Mutation{Kind: Write, Version: 1}
	if o.replicated() {
		m.Kind = WriteStable
	}
	if r.c.Mixed {
		r.mix(o, m, s)
	}
	if v := o.live.newest(); v != nil {
		m.Version = v.Number + 1
		if s.C%8 == 0 { // a new epoch
			m.Version = meta.MakeVersion(v.Number.Epoch()+1, 1)
		}
	} else if s.C%4 == 0 {
		m.Version = meta.Version(1 + s.C%5)
	}
	n := r.c.granules()
	shape := s.A % 16
	if r.c.InPlace && shape > 1 && s.A/16%8 != 0 {
		shape = 4
	}
	switch {
	case shape < 3: // the whole object
		m.From, m.To = 0, n
	case shape == 3: // a version without data
		m.From = s.B % n
		m.To = m.From
	case shape < 9: // one granule
		m.From = s.B % n
		m.To = m.From + 1
	default:
		m.From = s.B % n
		m.To = m.From + 1 + s.C/16%(n-m.From)
	}
	*r.seeds++
	m.Seed = Seed(*r.seeds)
	if s.B/256%8 != 0 {
		ext := make([]byte, r.c.bitmapBytes())
		for i := range ext {
			ext[i] = byte(*r.seeds>>(8*(i%8))) ^ byte(s.C)
		}
		text := string(ext)
		m.Ext = &text
	}
	return m
}

// mix lets a write be of the other kind than is usual in the pool.
func (r *runner) mix(o *object, m *Mutation, s *Step) {
	newest := o.live.newest()
	if s.B%5 == 0 {
		m.Kind = Write + WriteStable - m.Kind
	}
	if newest != nil && !newest.Stable {
		m.Kind = Write // anything else is misuse
	}
	// Over a version that was made stable by STABILIZE a stable write may be
	// refused (ondisk.md D19).
	m.MayFail = m.Kind == WriteStable
}

func (r *runner) writeOp(o *object, m *Mutation) *store.Op {
	g := r.c.Store.GranuleBytes
	op := &store.Op{Kind: store.OpWrite, OID: o.id, Version: m.Version, Offset: uint32(m.From) * g, Len: uint32(m.To-m.From) * g}
	if m.Kind == WriteStable {
		op.Kind = store.OpWriteStable
	}
	if op.Len > 0 {
		op.Buf = r.h.buffer(int(op.Len))
		fill(op.Buf, op.Offset, g, m.Seed)
	}
	if m.Ext != nil {
		op.Bitmap = []byte(*m.Ext)
	}
	return op
}

func (r *runner) submitWrite(o *object, m *Mutation) {
	op := r.writeOp(o, m)
	if op.Len > 0 && m.Seed%7 == 0 { // in pieces
		half := int(op.Len/2) &^ (r.c.SectorBytes - 1)
		op.Iov = [][]byte{op.Buf[:half], op.Buf[half:]}
		if half == 0 {
			op.Iov = op.Iov[1:]
		}
	}
	o.begin(m)
	text := ""
	if r.h.log != nil {
		text = fmt.Sprintf("%s object %d v%d granules [%d,%d) seed %d ext %v", [...]string{"WRITE", "WRITE_STABLE"}[m.Kind], o.index, uint64(m.Version), m.From, m.To, m.Seed, extText(m.Ext))
	}
	r.submit(op, text, func(op *store.Op) { r.writeDone(o, m, op) })
}

func extText(ext *string) string {
	if ext == nil {
		return "kept"
	}
	return fmt.Sprintf("%x", *ext)
}

func (r *runner) writeDone(o *object, m *Mutation, op *store.Op) {
	switch {
	case op.Err == 0 && op.Version != m.Version:
		r.failf("write of object %d: version %d was asked for, %d was written", o.index, m.Version, op.Version)
	case op.Err == 0:
		o.finish(true)
		if r.c.durableOnAck(m) {
			o.settleThrough(m.seq)
		}
		r.h.Stats.Writes++
	case op.Err == syscall.EINVAL && m.MayFail:
		o.finish(false)
	case op.Err == syscall.ENOSPC:
		o.finish(false)
		r.h.Stats.ENOSPC++
		r.checkENOSPC(o, m)
	case r.rig.fatal != nil: // may or may not be there
	default:
		r.failf("write v%d of object %d (%v): %w", m.Version, o.index, o.id, op.Err)
	}
}

func (r *runner) submitDelete(o *object) {
	m := &Mutation{Kind: Delete, To: 0}
	op := &store.Op{Kind: store.OpDelete, OID: o.id, Version: 1}
	if v := o.live.newest(); v != nil {
		op.Version = v.Number + 1
	}
	o.begin(m)
	r.submit(op, fmt.Sprintf("DELETE object %d", o.index), func(op *store.Op) {
		switch {
		case op.Err == 0:
			o.finish(true)
			if r.c.durableOnAck(m) {
				o.settleThrough(m.seq)
			}
		case r.rig.fatal != nil:
		default:
			r.failf("DELETE of object %d (%v): %w", o.index, o.id, op.Err)
		}
	})
}

// stepItems submits STABILIZE or ROLLBACK of a few objects.
func (r *runner) stepItems(s *Step, kind MutationKind) error {
	n := 1 + s.A%3
	var objs []*object
	var ms []*Mutation
	risky := false
	for i := range n {
		o := r.objs[(s.Object+i*5)%len(r.objs)]
		if o.replicated() && s.B%4 != 0 {
			o = r.objs[r.c.Objects+(s.Object+i*5)%r.c.Objects]
		}
		if slices.Contains(objs, o) {
			continue
		}
		if err := r.free(o); err != nil {
			return err
		}
		objs = append(objs, o)
	}
	for i, o := range objs { // only now: nothing happens any more before the submission
		m := newItem(o, kind, s.B+7*i, s.C+i)
		if m.MayFail || m.MustFail {
			if risky { // one at most, so that the answer tells which it was
				m = &Mutation{Kind: kind, Version: ^meta.Version(0)}
				if v := o.live.newest(); v == nil {
					continue
				} else {
					m.Version = v.Number
				}
			}
			risky = true
		}
		objs[len(ms)] = o
		ms = append(ms, m)
	}
	r.submitItems(kind, objs[:len(ms)], ms)
	return r.err
}

// newItem decides about one item of a list.
func newItem(o *object, kind MutationKind, x, y int) *Mutation {
	m := &Mutation{Kind: kind}
	if len(o.live) == 0 {
		m.Version, m.MayFail = meta.Version(y%3), true
		if kind == Stabilize && m.Version == 0 {
			m.Version = 1
		}
		return m
	}
	newest, stable := o.live.newest(), o.live.stable()
	m.Version = o.live[y%len(o.live)].Number
	if x%3 == 0 {
		m.Version = newest.Number
	}
	switch {
	case kind == Stabilize && x%23 == 0: // a version that does not exist
		m.Version, m.MustFail = newest.Number+3, true
	case kind == Stabilize && x%29 == 0 && stable != nil && stable.Number > 1:
		m.Version, m.MayFail = stable.Number-1, true
	case kind == Rollback && x%11 == 0 && stable == nil:
		m.Version = 0
	case kind == Rollback && x%11 == 0: // spec: "drop everything unstable", or EBUSY
		m.Version, m.MayFail = 0, true
	case kind == Rollback && x%13 == 0 && stable != nil && stable.Number > 1:
		m.Version, m.MustFail = stable.Number-1, true
	}
	return m
}

func (r *runner) submitItems(kind MutationKind, objs []*object, ms []*Mutation) {
	op := &store.Op{Kind: store.OpStabilize}
	text := "STABILIZE"
	if kind == Rollback {
		op.Kind, text = store.OpRollback, "ROLLBACK"
	}
	for i, o := range objs {
		op.Items = append(op.Items, meta.ObjectVersion{ObjectID: o.id, Version: ms[i].Version})
		o.begin(ms[i])
		if r.h.log != nil {
			text += fmt.Sprintf(" object %d v%d", o.index, uint64(ms[i].Version))
		}
	}
	r.submit(op, text, func(op *store.Op) { r.itemsDone(objs, ms, op) })
}

func (r *runner) itemsDone(objs []*object, ms []*Mutation, op *store.Op) {
	if op.Err != 0 && r.rig.fatal != nil {
		return
	}
	stopped := len(ms)
	for i, m := range ms {
		if op.Err != 0 && (m.MayFail || m.MustFail) {
			stopped = i
		}
		if op.Err == 0 && m.MustFail {
			r.failf("object %d: item %d with version %d of a list must be refused", objs[i].index, i, m.Version)
		}
	}
	allowed := op.Err == syscall.ENOENT || op.Err == syscall.EBUSY && ms[0].Kind == Rollback
	if op.Err != 0 && (stopped == len(ms) || !allowed) {
		r.failf("list of %d items, the first of object %d: %w", len(ms), objs[0].index, op.Err)
	}
	for i, o := range objs {
		o.finish(i < stopped)
		switch {
		case i >= stopped:
		case ms[i].Kind == Stabilize:
			o.settleStabilize(ms[i])
		default:
			o.settleRollback(ms[i])
		}
	}
	r.h.Stats.Lists++
}

func (r *runner) submitSync() {
	type mark struct {
		o   *object
		seq uint64
	}
	var marks []mark
	for _, o := range r.objs {
		if seq, ok := o.lastAcked(); ok {
			marks = append(marks, mark{o, seq})
		}
	}
	r.submit(&store.Op{Kind: store.OpSync}, "SYNC", func(op *store.Op) {
		switch {
		case op.Err == 0:
			for _, m := range marks {
				m.o.settleThrough(m.seq)
			}
			r.h.Stats.Syncs++
		case r.rig.fatal == nil:
			r.failf("SYNC: %w", op.Err)
		}
	})
}

func (r *runner) submitCompact() {
	r.submit(&store.Op{Kind: store.OpCompact}, "COMPACT", func(op *store.Op) {
		if op.Err != 0 && r.rig.fatal == nil {
			r.failf("COMPACT: %w", op.Err)
		}
	})
}

func (r *runner) stepReshard(s *Step) {
	r.pgCount = uint32(1 + s.A%4)
	r.logf("RESHARD to %d PGs", r.pgCount)
	r.err = r.rig.reshard(r.pgCount)
}

// stepMisuse submits what has to be refused without any effect (ondisk.md D19).
func (r *runner) stepMisuse(s *Step) error {
	o := r.object(s)
	if err := r.free(o); err != nil {
		return err
	}
	m := r.newWrite(o, s)
	newest := o.live.newest()
	want := syscall.EINVAL
	op := r.writeOp(o, m)
	switch s.A / 16 % 5 {
	case 0:
		op.Offset++
	case 1:
		op.Offset, op.Len = r.c.Store.BlockBytes, 0
	case 2:
		op.Len += r.c.Store.BlockBytes
	case 3:
		if newest == nil {
			r.h.giveBack(op.Buf)
			return nil
		}
		op.Version, want = newest.Number-meta.Version(s.C%2), syscall.EEXIST
		if !newest.Stable && op.Kind == store.OpWriteStable || op.Version == 0 {
			want = 0 // refused for either reason
		}
	case 4:
		if newest == nil || newest.Stable {
			r.h.giveBack(op.Buf)
			return nil
		}
		op.Kind = store.OpWriteStable
	}
	answered := false
	r.submit(op, fmt.Sprintf("MISUSE %d of object %d v%d", s.A/16%5, o.index, uint64(op.Version)), func(op *store.Op) {
		answered = true
		if op.Err == 0 || want != 0 && op.Err != want {
			r.failf("misuse %d of object %d: got %v, want %v", s.A/16%5, o.index, op.Err, want)
		}
	})
	return r.until("misuse", func() bool { return answered })
}

// checkENOSPC refuses a lack of space that cannot be: whatever is live would
// fit several times over.
func (r *runner) checkENOSPC(o *object, m *Mutation) {
	versions, writes := 0, 0
	for _, p := range r.objs {
		versions += len(p.live) + len(p.log) + 1
		writes += len(p.log)
	}
	s := &r.c.Store
	blocks := s.Areas.DataLen / int64(s.BlockBytes)
	g := r.c.params().Geometry
	entries := int64(versions) * int64(2*g.MaxEntryBytes())
	buffered := int64(versions) * int64(s.BlockBytes)
	if int64(versions+r.c.Depth) < blocks/2 && entries < s.Areas.MetaLen/4 && buffered < s.Areas.BufferLen/2 {
		r.failf("write v%d of object %d: ENOSPC with %d versions in %d blocks", m.Version, o.index, versions, blocks)
	}
}
