package store

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
)

// rig is a store on simulated disks.
type rig struct {
	t     testing.TB
	w     *sim.World
	node  *sim.Node
	cfg   Config
	disks []*sim.Disk // data, meta, buffer; may be one
	s     *Store
	fatal error
}

type rigOption func(c *Config, d *sim.DiskConfig)

func cachedDisk(c *Config, d *sim.DiskConfig) {
	c.DisableDataFsync, c.DisableMetaFsync, c.DisableBufferFsync = false, false, false
	c.Commit = CommitNone
	d.VolatileCache = true
}

func csum(n uint32) rigOption { return func(c *Config, _ *sim.DiskConfig) { c.CsumBytes = n } }

func with(f func(c *Config)) rigOption { return func(c *Config, _ *sim.DiskConfig) { f(c) } }

// newRig makes an empty store on one disk: 64 data blocks, 63 metadata blocks,
// a buffer area of 1 MiB, write-through, unless options say otherwise.
func newRig(t testing.TB, opts ...rigOption) *rig {
	t.Helper()
	c := Config{BlockBytes: 128 << 10, GranuleBytes: 4096, MetaBlockBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: CommitAll,
		AtomicWriteBytes: 4096, ReshardChunkPause: -1, BufferPoolBytes: 1 << 20,
		Areas: Areas{BufferOffset: 4096, BufferLen: 1 << 20, MetaOffset: 4096 + 1<<20, MetaLen: 64 * 4096,
			DataOffset: 4096 + 1<<20 + 64*4096, DataLen: 64 * 128 << 10}}
	d := sim.DiskConfig{Overlap: sim.OverlapRecord}
	for _, o := range opts {
		o(&c, &d)
	}
	if d.SizeBytes == 0 {
		d.SizeBytes = c.Areas.DataOffset + c.Areas.DataLen
	}
	r := &rig{t: t, cfg: c}
	r.w = sim.NewWorld(1, sim.Options{})
	r.node = r.w.NewNode("osd")
	disk := r.node.AddDisk("disk", d)
	r.disks = []*sim.Disk{disk, disk, disk}
	r.mustOpen()
	return r
}

// open starts the store in the node's current process.
func (r *rig) open() error {
	var err error
	finished := false
	r.node.Do(func(e *env.Env) {
		c := r.cfg
		c.OnFatal = func(err error) { r.fatal = err }
		var opened [3]env.Disk
		for i, d := range r.disks {
			for j := range i {
				if r.disks[j] == d {
					opened[i] = opened[j]
				}
			}
			if opened[i] == nil {
				name := d.Name()[len("osd:"):]
				if opened[i], err = e.Storage.OpenDisk(name, env.DiskOptions{}); err != nil {
					finished = true
					return
				}
			}
		}
		Open(e, Disks{opened[0], opened[1], opened[2]}, c, func(s *Store, e error) { r.s, err, finished = s, e, true })
		if finished {
			r.t.Error("done was called inside Open")
		}
	})
	if !r.w.RunUntil(func() bool { return finished }, time.Hour) {
		r.t.Fatal("the store does not open")
	}
	return err
}

func (r *rig) mustOpen() {
	r.t.Helper()
	if err := r.open(); err != nil {
		r.t.Fatal(err)
	}
}

// restart loses power, or only kills the process, and opens the store again.
func (r *rig) restart() {
	r.t.Helper()
	r.node.PowerLoss()
	r.node.Restart()
	r.mustOpen()
}

func (r *rig) check() {
	r.t.Helper()
	if err := r.s.Check(); err != nil {
		r.t.Fatal(err)
	}
}

// do runs operations together and waits for all of them.
func (r *rig) do(ops ...*Op) {
	r.t.Helper()
	left := len(ops)
	r.node.Do(func(*env.Env) {
		for _, op := range ops {
			if op.Done == nil {
				op.Done = func(*Op) { left-- }
			} else {
				done := op.Done
				op.Done = func(o *Op) { left--; done(o) }
			}
			before := left
			r.s.Submit(op)
			if left != before {
				r.t.Error("Done was called inside Submit")
			}
		}
	})
	if !r.w.RunUntil(func() bool { return left == 0 }, time.Hour) {
		r.t.Fatalf("%d of %d operations do not finish", left, len(ops))
	}
	for _, op := range ops {
		op.Done = nil
	}
	r.check()
}

// settle lets everything happen that is under way.
func (r *rig) settle() {
	r.w.RunFor(time.Second)
	r.check()
}

func (r *rig) one(op *Op) *Op { r.t.Helper(); r.do(op); return op }

func (r *rig) want(op *Op, err syscall.Errno) {
	r.t.Helper()
	if r.one(op); op.Err != err {
		r.t.Fatalf("kind %d of %v version %d at %d+%d: error %v, want %v", op.Kind, op.OID, op.Version, op.Offset, op.Len, op.Err, err)
	}
}

func oid(n uint64) meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(1, 1+n/1000), Stripe: n % 1000 << 17}
}

// fill is the content rule of the vectors: each 16 bytes are {seed, offset of
// the granule}.
func fill(b []byte, seed, offset uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], seed)
		binary.LittleEndian.PutUint64(b[i+8:], (offset+uint64(i))&^4095)
	}
}

func aligned(n uint32) []byte {
	if n == 0 {
		return nil
	}
	b, err := pinned.AlignedBuffer(int(n))
	if err != nil {
		panic(err)
	}
	return b
}

func writeOp(kind OpKind, id meta.ObjectID, v meta.Version, offset, n uint32, seed uint64) *Op {
	b := aligned(n)
	fill(b, seed, uint64(offset))
	bitmap := make([]byte, 4)
	binary.LittleEndian.PutUint32(bitmap, uint32(seed))
	return &Op{Kind: kind, OID: id, Version: v, Offset: offset, Len: n, Buf: b, Bitmap: bitmap}
}

func stableOp(id meta.ObjectID, v meta.Version, offset, n uint32, seed uint64) *Op {
	return writeOp(OpWriteStable, id, v, offset, n, seed)
}

// read returns version, the seed of each granule (0 = zeroes) and bitmap.
func (r *rig) read(id meta.ObjectID, limit meta.Version) (v meta.Version, seeds []uint64, bitmap uint32, err syscall.Errno) {
	r.t.Helper()
	op := &Op{Kind: OpRead, OID: id, Version: limit, Len: r.cfg.BlockBytes, Buf: aligned(r.cfg.BlockBytes), Bitmap: make([]byte, r.s.BitmapBytes())}
	r.one(op)
	if op.Err != 0 {
		return 0, nil, 0, op.Err
	}
	want := make([]byte, 4096)
	for at := uint32(0); at < op.Len; at += 4096 {
		g := op.Buf[at : at+4096]
		seed := binary.LittleEndian.Uint64(g)
		if clear(want); seed != 0 {
			fill(want, seed, uint64(at))
		}
		if string(want) != string(g) {
			r.t.Fatalf("%v version %d: granule at %d is torn: %x", id, op.Version, at, g[:64])
		}
		seeds = append(seeds, seed)
	}
	pinned.Free(op.Buf)
	return op.Version, seeds, binary.LittleEndian.Uint32(op.Bitmap), 0
}

// expect checks the newest version <= limit: parts are {offset, length, seed} in
// granules, later ones over earlier ones; none = the object must not exist.
func (r *rig) expect(id meta.ObjectID, limit, v meta.Version, bitmap uint32, parts ...[3]int) {
	r.t.Helper()
	gotV, seeds, gotB, err := r.read(id, limit)
	if v == 0 {
		if err != syscall.ENOENT {
			r.t.Fatalf("%v exists: version %d, error %v", id, gotV, err)
		}
		return
	}
	want := make([]uint64, r.cfg.BlockBytes/4096)
	for _, p := range parts {
		for i := p[0]; i < p[0]+p[1]; i++ {
			want[i] = uint64(p[2])
		}
	}
	if err != 0 || gotV != v || gotB != bitmap || fmt.Sprint(seeds) != fmt.Sprint(want) {
		r.t.Fatalf("%v <= %d: error %v, version %d bitmap %x\n%v\nwant version %d bitmap %x\n%v", id, limit, err, gotV, gotB, seeds, v, bitmap, want)
	}
}

func items(v meta.Version, ids ...meta.ObjectID) []meta.ObjectVersion {
	var out []meta.ObjectVersion
	for _, id := range ids {
		out = append(out, meta.ObjectVersion{ObjectID: id, Version: v})
	}
	return out
}

func (r *rig) stabilize(id meta.ObjectID, v meta.Version, err syscall.Errno) {
	r.t.Helper()
	r.want(&Op{Kind: OpStabilize, Items: items(v, id)}, err)
}

func (r *rig) rollback(id meta.ObjectID, v meta.Version, err syscall.Errno) {
	r.t.Helper()
	r.want(&Op{Kind: OpRollback, Items: items(v, id)}, err)
}

// parse reads the disk by the independent reader of the layout package.
func (r *rig) parse() *layout.Loaded {
	r.t.Helper()
	a := &r.cfg.Areas
	geo, err := r.cfg.geometry(Disks{})
	_ = err
	cut := func(d *sim.Disk, off, n int64) []byte {
		b := make([]byte, n)
		if _, err := d.Image().ReadAt(b, off); err != nil {
			r.t.Fatal(err)
		}
		return b
	}
	p := &layout.Params{Geometry: geo, Data: layout.Area{Offset: uint64(a.DataOffset), Bytes: uint64(a.DataLen)},
		Meta:             layout.Area{Offset: uint64(a.MetaOffset), Bytes: uint64(a.MetaLen)},
		Buffer:           layout.Area{Offset: uint64(a.BufferOffset), Bytes: uint64(a.BufferLen)},
		DisableDataFsync: r.cfg.DisableDataFsync, DisableMetaFsync: r.cfg.DisableMetaFsync, DisableBufferFsync: r.cfg.DisableBufferFsync}
	l, err := layout.LoadImage(layout.Image{Data: cut(r.disks[0], a.DataOffset, a.DataLen),
		Meta: cut(r.disks[1], a.MetaOffset, a.MetaLen), Buffer: cut(r.disks[2], a.BufferOffset, a.BufferLen)}, p, layout.LoadOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}
