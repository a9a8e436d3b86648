package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// vectorRig puts the devices of a vector under a store that is not open yet.
func vectorRig(t *testing.T, v *vectortest.Vector) *rig {
	t.Helper()
	size := func(key string) uint64 { return uint64(len(v.Device(key))) }
	p, err := layout.NewParams(layout.Options(v.Superblock), layout.DeviceBytes{
		Data: size("data_device"), Meta: size("meta_device"), Buffer: size("journal_device")})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, cfg: ConfigOf(p)}
	r.cfg.BufferPoolBytes, r.cfg.ReshardChunkPause = 8<<20, -1
	r.w = sim.NewWorld(1, sim.Options{})
	r.node = r.w.NewNode("osd")
	made := map[string]*sim.Disk{}
	for _, name := range []string{p.DataDevice, p.MetaDevice, p.BufferDevice} {
		if made[name] == nil {
			dev := v.Devices[name]
			if dev == nil {
				t.Fatalf("no device %q", name)
			}
			made[name] = r.node.AddDisk(name, sim.DiskConfig{Image: sim.NewImageFrom(dev, int64(len(dev))), VolatileCache: !p.WriteThrough()})
		}
		r.disks = append(r.disks, made[name])
	}
	return r
}

// expectObjects compares everything that can be read and listed.
func (r *rig) expectObjects(objects []vectortest.Object) {
	r.t.Helper()
	if got := r.s.Totals().Objects; got < uint64(len(objects)) {
		r.t.Fatalf("%d objects, want %d", got, len(objects))
	}
	for _, o := range objects {
		id := meta.ObjectID{Inode: meta.MakeInode(meta.PoolID(o.Pool), o.Inode), Stripe: o.Stripe}
		for i, v := range o.Versions {
			limit := meta.Version(v.Version)
			if i == 0 {
				limit = newest
			}
			op := &Op{Kind: OpRead, OID: id, Version: limit, Len: r.cfg.BlockBytes, Buf: aligned(r.cfg.BlockBytes), Bitmap: make([]byte, r.s.BitmapBytes())}
			r.want(op, 0)
			got := fmt.Sprintf("version %d crc %08x ext %s", op.Version, layout.CRC(op.Buf), hex.EncodeToString(op.Bitmap))
			if want := fmt.Sprintf("version %d crc %s ext %s", v.Version, v.CRC, v.Ext); got != want {
				r.t.Errorf("object %v: %s, want %s", id, got, want)
			}
		}
	}
	r.expectList(objects)
}

// expectList compares the listings of all pools, in three PGs each.
func (r *rig) expectList(objects []vectortest.Object) {
	r.t.Helper()
	want := map[string]bool{}
	for _, o := range objects {
		id := meta.ObjectID{Inode: meta.MakeInode(meta.PoolID(o.Pool), o.Inode), Stripe: o.Stripe}
		for _, v := range o.Versions {
			want[fmt.Sprintf("%v %d %v", id, v.Version, v.Version == o.Stable)] = true
		}
	}
	for pool := meta.PoolID(1); pool <= 3; pool++ {
		r.node.Do(func(*env.Env) { r.s.Reshard(pool, 3, 131072) })
		r.w.RunUntil(func() bool { return r.s.Sharded(pool, 3, 131072) }, 1e9)
		for pg := meta.PGNum(1); pg <= 3; pg++ {
			l := &List{Pool: pool, PG: pg, PGCount: 3, PGStripeBytes: 131072,
				Min: meta.ObjectID{Inode: meta.MakeInode(pool, 0)}, Max: meta.ObjectID{Inode: meta.MakeInode(pool, meta.MaxInodeNumber), Stripe: ^uint64(0)}}
			r.want(&Op{Kind: OpList, List: l}, 0)
			for _, stable := range []bool{true, false} {
				list := l.Unstable
				if stable {
					list = l.Stable
				}
				for _, v := range list {
					if meta.PGOf(v.Stripe, 131072, 3) != pg {
						r.t.Errorf("%v is listed in PG %d", v.ObjectID, pg)
					}
					key := fmt.Sprintf("%v %d %v", v.ObjectID, uint64(v.Version), stable)
					if !want[key] {
						r.t.Errorf("listed, but not expected: %s", key)
					}
					delete(want, key)
				}
			}
		}
	}
	for key := range want {
		r.t.Errorf("not listed: %s", key)
	}
}

// Every vector loads with the contents of its manifest, and keeps them over
// restarts and a compaction by us.
func TestVectors(t *testing.T) {
	for _, v := range vectortest.All(t) {
		t.Run(v.Name, func(t *testing.T) {
			r := vectorRig(t, v)
			r.mustOpen()
			r.check()
			tot := r.s.Totals()
			if (tot.TotalBlocks-tot.FreeBlocks)*uint64(tot.BlockBytes) != v.Totals.DataUsed || tot.BufferUsed != v.Totals.BufferUsed ||
				tot.MetaUsed != v.Totals.MetaUsed || tot.MaxLSN != v.Totals.MaxLSN {
				t.Errorf("totals %+v, want %+v", tot, v.Totals)
			}
			for _, s := range v.Space {
				if got := r.s.InodeBytes(meta.MakeInode(meta.PoolID(s.Pool), s.Inode)); got != s.Bytes {
					t.Errorf("inode %d/%d takes %d bytes, want %d", s.Pool, s.Inode, got, s.Bytes)
				}
			}
			r.expectObjects(v.Objects)
			r.restart()
			r.expectObjects(v.Objects)
			r.want(&Op{Kind: OpCompact}, 0)
			r.expectObjects(v.Objects)
			r.restart()
			r.check()
			r.expectObjects(v.Objects)
		})
	}
}

// Damaged disks are refused with an error that names device and place, or
// start as stated.
func TestNegativeVectors(t *testing.T) {
	base, cases := vectortest.Negative(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			v := vectortest.Load(t, base)
			c.Apply(t, v)
			r := vectorRig(t, v)
			err := r.open()
			if c.Expected == "start" {
				if err != nil {
					t.Fatal(err)
				}
				r.expectObjects(c.Objects)
				r.restart()
				r.expectObjects(c.Objects)
				return
			}
			if err == nil {
				t.Fatal("the store started")
			}
			known := false
			for _, k := range []error{ErrCorrupt, ErrNotAStore, ErrMismatch, ErrDoubleUsed, ErrNotEmpty} {
				known = known || errors.Is(err, k)
			}
			if !known {
				t.Errorf("error of an unknown kind: %v", err)
			}
			t.Log(err)
			if before := r.disks[0].Stats().Writes; before != 0 {
				t.Errorf("%d writes to a refused disk", before)
			}
		})
	}
}
