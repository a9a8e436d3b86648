package crashtest

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store"
)

// Naive is the simplest store that keeps the rules: all objects in memory, and
// a log of all changes behind the areas of the data device, one record at a
// time, each naming the checksum of the one before it. It exists to test the
// harness: with no Mistakes it must pass, with any of them it must not.
//
//	record: crc u32 | previous crc u32 | length u32 | kind u8, error-free | oid | version | offset | len | bitmap | data
type Naive struct {
	e        *env.Env
	disk     env.Disk
	c        store.Config
	mistakes Mistakes
	objects  map[meta.ObjectID]*naiveObject
	shards   map[meta.PoolID][2]uint64
	tail     int64
	lastCRC  uint32
	buf      []byte
	io       env.DiskOp
	queue    []*store.Op
	busy     bool
	lists    env.Task
	closing  func(error)
}

// Mistakes break a Naive in ways that each violate a rule.
type Mistakes struct {
	NoSync           bool // SYNC does nothing
	AckBeforeWrite   bool // writes are acknowledged before they are on disk
	NoCRC            bool // torn records are not noticed
	NoChain          bool // a record behind a lost one is believed
	DeletesComeBack  bool // deletes are not logged
	RollbackInMemory bool // rollbacks are not logged
	StableLost       bool // stabilizations are not logged
	SeesFlight       bool // reads mix in what is being written
	BitmapKept       bool // a new bitmap is ignored by writes without data
	ListsDropped     bool // deleted objects stay in listings
	WrongOffset      bool // every tenth write goes one granule further
	OldBase          bool // unstable versions are deltas of the stable one only
	SpaceLeak        bool // deletes do not give back their space
}

type naiveVersion struct {
	number meta.Version
	stable bool
	data   []byte
	ext    []byte
}

type naiveObject struct{ versions []naiveVersion }

const naiveHead = 64

// OpenNaive returns an Opener of naive stores.
func OpenNaive(m Mistakes) Opener {
	return func(e *env.Env, d store.Disks, c store.Config, done func(Engine, error)) {
		n := &Naive{e: e, disk: d.Data, c: c, mistakes: m, objects: map[meta.ObjectID]*naiveObject{}, shards: map[meta.PoolID][2]uint64{}}
		n.tail = (c.Areas.DataOffset + c.Areas.DataLen + 16383) &^ 16383
		var err error
		if n.buf, err = pinned.AlignedBuffer(4096 + int(c.BlockBytes) + 16384); err != nil {
			panic(err)
		}
		n.recover(func() { done(n, nil) })
	}
}

// NaiveExtraBytes is the space the log of a Naive needs behind the areas.
const NaiveExtraBytes = 64 << 20

// recover reads one record after the other until one does not follow.
func (n *Naive) recover(done func()) {
	n.io = env.DiskOp{Kind: env.DiskRead, Offset: n.tail, Buf: n.buf}
	n.io.Done = func(op *env.DiskOp) {
		size, ok := n.parse(n.buf)
		if op.Err != nil || !ok {
			done()
			return
		}
		n.tail += size
		n.recover(done)
	}
	n.disk.Submit(&n.io)
}

// parse applies the record at the start of b.
func (n *Naive) parse(b []byte) (size int64, ok bool) {
	le := binary.LittleEndian
	length := int(le.Uint32(b[8:]))
	if length < naiveHead || length > len(b) {
		return 0, false
	}
	crc := crc32.ChecksumIEEE(b[4:length])
	if le.Uint32(b) != crc && !n.mistakes.NoCRC || le.Uint32(b[4:]) != n.lastCRC && !n.mistakes.NoChain {
		return 0, false
	}
	n.lastCRC = le.Uint32(b)
	op := store.Op{Kind: store.OpKind(b[12]), Offset: le.Uint32(b[40:]), Len: le.Uint32(b[44:]), Version: meta.Version(le.Uint64(b[32:])),
		OID: meta.ObjectID{Inode: meta.Inode(le.Uint64(b[16:])), Stripe: le.Uint64(b[24:])}}
	at := naiveHead
	if ext := int(le.Uint32(b[48:])); ext > 0 {
		op.Bitmap = b[at : at+ext]
		at += ext
	}
	op.Buf = b[at : at+int(le.Uint32(b[52:]))]
	n.apply(&op)
	return n.align(length), true
}

func (n *Naive) align(length int) int64 {
	unit := int64(n.disk.Info().BlockBytes)
	return (int64(length) + unit - 1) / unit * unit
}

// encode makes the record of op in n.buf and returns its length.
func (n *Naive) encode(op *store.Op) int {
	le := binary.LittleEndian
	b := n.buf
	clear(b[:naiveHead])
	b[12] = byte(op.Kind)
	le.PutUint64(b[16:], uint64(op.OID.Inode))
	le.PutUint64(b[24:], op.OID.Stripe)
	le.PutUint64(b[32:], uint64(op.Version))
	le.PutUint32(b[40:], op.Offset)
	le.PutUint32(b[44:], op.Len)
	le.PutUint32(b[48:], uint32(len(op.Bitmap)))
	at := naiveHead + copy(b[naiveHead:], op.Bitmap)
	for _, p := range parts(op) {
		at += copy(b[at:], p)
	}
	if op.Kind == store.OpWrite || op.Kind == store.OpWriteStable {
		le.PutUint32(b[52:], op.Len)
	}
	le.PutUint32(b[8:], uint32(at))
	le.PutUint32(b[4:], n.lastCRC)
	le.PutUint32(b, crc32.ChecksumIEEE(b[4:at]))
	clear(b[at:n.align(at)])
	return at
}

func parts(op *store.Op) [][]byte {
	if len(op.Iov) > 0 {
		return op.Iov
	}
	return [][]byte{op.Buf}
}

// apply changes the objects in memory. Arguments are right.
func (n *Naive) apply(op *store.Op) {
	o := n.objects[op.OID]
	if o == nil {
		o = &naiveObject{}
		n.objects[op.OID] = o
	}
	switch op.Kind {
	case store.OpDelete:
		o.versions = nil
	case store.OpStabilize:
		o.stabilize(op.Version)
	case store.OpRollback:
		o.rollback(op.Version)
	default:
		n.applyWrite(o, op)
	}
}

func (o *naiveObject) stabilize(v meta.Version) {
	for i := range o.versions {
		if o.versions[i].number == v && !o.versions[i].stable {
			o.versions = slices.Clone(o.versions[i:])
			o.versions[0].stable = true
			return
		}
	}
}

func (o *naiveObject) rollback(v meta.Version) {
	for i := range o.versions {
		if o.versions[i].number > v && !o.versions[i].stable {
			o.versions = slices.Clone(o.versions[:i])
			return
		}
	}
}

func (n *Naive) applyWrite(o *naiveObject, op *store.Op) {
	v := naiveVersion{number: op.Version, stable: op.Kind == store.OpWriteStable, data: make([]byte, n.c.BlockBytes), ext: make([]byte, n.bitmapBytes())}
	if k := len(o.versions); k > 0 {
		if n.mistakes.OldBase {
			k = 1
		}
		copy(v.data, o.versions[k-1].data)
		copy(v.ext, o.versions[k-1].ext)
	}
	at := op.Offset
	if n.mistakes.WrongOffset && op.Version%10 == 9 && op.Offset+op.Len < n.c.BlockBytes {
		at += n.c.GranuleBytes
	}
	for _, p := range parts(op) {
		at += uint32(copy(v.data[at:], p))
	}
	if op.Bitmap != nil && !(n.mistakes.BitmapKept && op.Len == 0) {
		copy(v.ext, op.Bitmap)
	}
	if v.stable {
		o.versions = []naiveVersion{v}
	} else {
		o.versions = append(slices.Clone(o.versions), v)
	}
}

func (n *Naive) bitmapBytes() int { return meta.BitmapBytes(n.c.BlockBytes, n.c.GranuleBytes) }

// Submit implements Engine.
func (n *Naive) Submit(op *store.Op) {
	n.queue = append(n.queue, op)
	n.kick()
}

func (n *Naive) kick() {
	if n.busy || len(n.queue) == 0 {
		return
	}
	n.busy = true
	n.lists.Run = n.next
	n.e.Exec.Defer(&n.lists)
}

// next runs the oldest operation.
func (n *Naive) next() {
	op := n.queue[0]
	n.queue = n.queue[1:]
	switch op.Kind {
	case store.OpRead:
		n.read(op)
	case store.OpSync:
		n.sync(op, n.mistakes.NoSync)
	case store.OpList:
		n.list(op)
	case store.OpStabilize, store.OpRollback:
		n.items(op, 0)
	case store.OpCompact:
		n.answer(op, 0)
	default:
		n.change(op)
	}
}

func (n *Naive) answer(op *store.Op, err syscall.Errno) {
	op.Err = err
	n.busy = false
	op.Done(op)
	n.kick()
	if n.closing != nil && !n.busy && len(n.queue) == 0 {
		done := n.closing
		n.closing = nil
		pinned.Free(n.buf)
		done(nil)
	}
}

func (n *Naive) sync(op *store.Op, skip bool) {
	if skip || n.c.DisableDataFsync {
		n.answer(op, 0)
		return
	}
	n.io = env.DiskOp{Kind: env.DiskSync, Done: func(*env.DiskOp) { n.answer(op, 0) }}
	n.disk.Submit(&n.io)
}

func (n *Naive) read(op *store.Op) {
	v := n.find(op.OID, op.Version)
	if v == nil {
		n.answer(op, syscall.ENOENT)
		return
	}
	copy(op.Buf, v.data[op.Offset:op.Offset+op.Len])
	copy(op.Bitmap, v.ext)
	op.Version = v.number
	n.answer(op, 0)
}

func (n *Naive) find(id meta.ObjectID, limit meta.Version) *naiveVersion {
	o := n.objects[id]
	if o == nil {
		return nil
	}
	for i := len(o.versions) - 1; i >= 0; i-- {
		if o.versions[i].number <= limit {
			return &o.versions[i]
		}
	}
	return nil
}

// change logs and applies a write or a delete.
func (n *Naive) change(op *store.Op) {
	if err := n.refuse(op); err != 0 {
		n.answer(op, err)
		return
	}
	full := op.Kind != store.OpDelete && op.Len == n.c.BlockBytes
	durable := n.c.Commit == store.CommitAll || n.c.Commit == store.CommitSmall && !full
	if op.Kind == store.OpDelete && n.mistakes.DeletesComeBack {
		n.apply(op)
		n.answer(op, 0)
		return
	}
	if n.mistakes.SeesFlight && op.Kind != store.OpDelete && op.Len > 0 {
		if v := n.find(op.OID, meta.NewestVersion); v != nil {
			copy(v.data[op.Offset:], parts(op)[0])
		}
	}
	n.record(op, func() {
		n.apply(op)
		if durable {
			n.sync(op, false)
		} else {
			n.answer(op, 0)
		}
	})
}

func (n *Naive) refuse(op *store.Op) syscall.Errno {
	if op.Kind == store.OpDelete {
		return 0
	}
	g := n.c.GranuleBytes
	if op.Offset%g != 0 || op.Len%g != 0 || op.Offset >= n.c.BlockBytes || op.Offset+op.Len > n.c.BlockBytes {
		return syscall.EINVAL
	}
	if v := n.find(op.OID, meta.NewestVersion); v != nil {
		switch {
		case op.Version <= v.number:
			return syscall.EEXIST
		case op.Kind == store.OpWriteStable && !v.stable:
			return syscall.EINVAL
		}
	}
	return 0
}

// record appends to the log.
func (n *Naive) record(op *store.Op, done func()) {
	length := n.encode(op)
	n.lastCRC = binary.LittleEndian.Uint32(n.buf)
	n.io = env.DiskOp{Kind: env.DiskWrite, Offset: n.tail, Buf: n.buf[:n.align(length)]}
	n.tail += n.align(length)
	n.io.Done = func(*env.DiskOp) { done() }
	if n.mistakes.AckBeforeWrite {
		n.io.Done = func(*env.DiskOp) {}
		b := slices.Clone(n.io.Buf)
		late := &env.DiskOp{Kind: env.DiskWrite, Offset: n.io.Offset, Buf: aligned(b), Done: func(op *env.DiskOp) { pinned.Free(op.Buf) }}
		n.disk.Submit(late)
		t := &env.Task{Run: done}
		n.e.Exec.Defer(t)
		return
	}
	n.disk.Submit(&n.io)
}

// items does the items of a list from number i on.
func (n *Naive) items(op *store.Op, i int) {
	if i == len(op.Items) {
		n.sync(op, false)
		return
	}
	item := op.Items[i]
	err := syscall.Errno(0)
	if v := n.find(item.ObjectID, meta.NewestVersion); v == nil {
		err = syscall.ENOENT
	} else if op.Kind == store.OpStabilize && n.exact(item) == nil {
		err = syscall.ENOENT
	} else if op.Kind == store.OpRollback && n.objects[item.ObjectID].versions[0].stable && n.objects[item.ObjectID].versions[0].number > item.Version {
		err = syscall.EBUSY
	}
	if err != 0 {
		n.e.Exec.Defer(&env.Task{Run: func() { n.fail(op, err) }})
		return
	}
	one := &store.Op{Kind: op.Kind, OID: item.ObjectID, Version: item.Version}
	apply := func() {
		n.apply(one)
		n.items(op, i+1)
	}
	if op.Kind == store.OpRollback && n.mistakes.RollbackInMemory || op.Kind == store.OpStabilize && n.mistakes.StableLost {
		apply()
		return
	}
	n.record(one, apply)
}

// fail makes what was done durable, then reports.
func (n *Naive) fail(op *store.Op, err syscall.Errno) {
	n.io = env.DiskOp{Kind: env.DiskSync, Done: func(*env.DiskOp) { n.answer(op, err) }}
	n.disk.Submit(&n.io)
}

func (n *Naive) exact(item meta.ObjectVersion) *naiveVersion {
	for i, v := range n.objects[item.ObjectID].versions {
		if v.number == item.Version {
			return &n.objects[item.ObjectID].versions[i]
		}
	}
	return nil
}

func (n *Naive) list(op *store.Op) {
	l := op.List
	l.Stable, l.Unstable = l.Stable[:0], l.Unstable[:0]
	ids := slices.SortedFunc(maps.Keys(n.objects), meta.ObjectID.Compare)
	for _, id := range ids {
		if id.Inode.Pool() != l.Pool || meta.PGOf(id.Stripe, l.PGStripeBytes, l.PGCount) != l.PG || id.Less(l.Min) || l.Max.Less(id) {
			continue
		}
		versions := n.objects[id].versions
		if n.mistakes.ListsDropped && len(versions) == 0 {
			versions = []naiveVersion{{number: 1, stable: true}}
		}
		for _, v := range versions {
			item := meta.ObjectVersion{ObjectID: id, Version: v.number}
			if !v.stable {
				l.Unstable = append(l.Unstable, item)
			} else if l.StableLimit == 0 || len(l.Stable) < l.StableLimit {
				l.Stable = append(l.Stable, item)
			}
		}
	}
	n.answer(op, 0)
}

// Stat implements Engine.
func (n *Naive) Stat(id meta.ObjectID, limit meta.Version, bitmap []byte) (meta.Version, bool) {
	v := n.find(id, limit)
	if v == nil {
		clear(bitmap)
		return 0, false
	}
	copy(bitmap, v.ext)
	return v.number, true
}

// Close implements Engine.
func (n *Naive) Close(done func(error)) {
	n.closing = done
	n.Submit(&store.Op{Kind: store.OpSync, Done: func(*store.Op) {}})
}

// Check implements Engine.
func (n *Naive) Check() error { return nil }

// Reshard implements Engine.
func (n *Naive) Reshard(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) {
	n.shards[pool] = [2]uint64{uint64(pgCount), pgStripeBytes}
}

// Sharded implements Engine.
func (n *Naive) Sharded(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) bool {
	return n.shards[pool] == [2]uint64{uint64(pgCount), pgStripeBytes}
}

// Inodes implements Engine: a block per object.
func (n *Naive) Inodes(yield func(meta.Inode, uint64) bool) {
	for _, id := range slices.SortedFunc(maps.Keys(n.objects), meta.ObjectID.Compare) {
		if len(n.objects[id].versions) > 0 && !yield(id.Inode, uint64(n.c.BlockBytes)) {
			return
		}
	}
}

// Totals implements Engine.
func (n *Naive) Totals() store.Totals {
	t := store.Totals{TotalBlocks: uint64(n.c.Areas.DataLen) / uint64(n.c.BlockBytes), BlockBytes: n.c.BlockBytes}
	t.FreeBlocks = t.TotalBlocks
	for _, o := range n.objects {
		if len(o.versions) > 0 || n.mistakes.SpaceLeak {
			t.FreeBlocks--
		}
	}
	return t
}

// Counters implements Engine.
func (n *Naive) Counters() store.Counters { return store.Counters{} }
