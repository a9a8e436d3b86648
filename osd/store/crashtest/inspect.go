package crashtest

import (
	"fmt"
	"slices"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// pgStripe is the pg_stripe_size of both pools.
const pgStripe = 128 << 10

// finding is what an engine says about one object.
type finding struct {
	state State
	err   error // a version that is listed cannot be read
}

// inspect asks an engine at rest for everything: listings, versions, contents,
// bitmaps and space.
func (r *rig) inspect(objs []*object, pgCount uint32) ([]finding, error) {
	if err := r.reshard(pgCount); err != nil {
		return nil, err
	}
	out := make([]finding, len(objs))
	if err := r.list(objs, pgCount, out); err != nil {
		return nil, err
	}
	if err := r.statAll(objs, out); err != nil {
		return nil, err
	}
	if err := r.readAll(objs, out); err != nil {
		return nil, err
	}
	return out, r.checkSpace(objs, out)
}

func (r *rig) reshard(pgCount uint32) error {
	pools := []meta.PoolID{replicatedPool, ecPool}
	r.node.Do(func(*env.Env) {
		for _, p := range pools {
			r.engine.Reshard(p, pgCount, pgStripe)
		}
	})
	return r.runUntil(opLimit, "resharding", func() bool {
		return !slices.ContainsFunc(pools, func(p meta.PoolID) bool { return !r.engine.Sharded(p, pgCount, pgStripe) })
	})
}

// do submits operations together and waits for all of them.
func (r *rig) do(what string, ops []*store.Op) error {
	left := len(ops)
	r.node.Do(func(*env.Env) {
		for _, op := range ops {
			op.Done = func(*store.Op) { left-- }
			r.engine.Submit(op)
		}
	})
	return r.runUntil(opLimit, what, func() bool { return left == 0 })
}

// listOp is a listing of a whole PG.
func listOp(pool meta.PoolID, pg, pgCount uint32) *store.Op {
	return &store.Op{Kind: store.OpList, List: &store.List{
		Pool: pool, PG: meta.PGNum(pg), PGCount: pgCount, PGStripeBytes: pgStripe,
		Min: meta.ObjectID{Inode: meta.MakeInode(pool, 0)},
		Max: meta.ObjectID{Inode: meta.MakeInode(pool, meta.MaxInodeNumber), Stripe: ^uint64(0)},
	}}
}

// list fills in the versions of all objects, oldest first.
func (r *rig) list(objs []*object, pgCount uint32, out []finding) error {
	var ops []*store.Op
	for _, pool := range []meta.PoolID{replicatedPool, ecPool} {
		for pg := range pgCount {
			ops = append(ops, listOp(pool, pg+1, pgCount))
		}
	}
	if err := r.do("listing", ops); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Err != 0 {
			return fmt.Errorf("listing of PG %d/%d: %w", op.List.Pool, op.List.PG, op.Err)
		}
		for i, part := range [][]meta.ObjectVersion{op.List.Stable, op.List.Unstable} {
			for _, item := range part {
				if err := addListed(objs, out, op.List, item, i == 0); err != nil {
					return err
				}
			}
		}
	}
	for i := range out {
		slices.SortFunc(out[i].state, func(v, w *Version) int {
			if v.Number < w.Number {
				return -1
			}
			return 1
		})
		for j, v := range out[i].state {
			if j > 0 && (v.Stable || v.Number == out[i].state[j-1].Number) {
				return fmt.Errorf("listing of object %d (%v): %v", i, objs[i].id, out[i].state)
			}
		}
	}
	return nil
}

func addListed(objs []*object, out []finding, l *store.List, item meta.ObjectVersion, stable bool) error {
	i := slices.IndexFunc(objs, func(o *object) bool { return o.id == item.ObjectID })
	if i < 0 {
		return fmt.Errorf("listing of PG %d/%d names %v, which was never written", l.Pool, l.PG, item)
	}
	if pg := meta.PGOf(item.Stripe, pgStripe, l.PGCount); pg != l.PG || item.Inode.Pool() != l.Pool {
		return fmt.Errorf("listing of PG %d/%d names %v of PG %d", l.Pool, l.PG, item, pg)
	}
	out[i].state = append(out[i].state, &Version{Number: item.Version, Stable: stable})
	return nil
}

// statAll compares the listing with the versions in memory.
func (r *rig) statAll(objs []*object, out []finding) error {
	ext := make([]byte, r.c.bitmapBytes())
	for i, o := range objs {
		n, ok := r.engine.Stat(o.id, meta.NewestVersion, nil)
		want := out[i].state.newest()
		if ok != (want != nil) || ok && n != want.Number {
			return fmt.Errorf("object %d (%v): Stat says version %d, %v; the listing %v", i, o.id, n, ok, want)
		}
		for _, v := range out[i].state {
			n, ok := r.engine.Stat(o.id, v.Number, ext)
			if !ok || n != v.Number {
				return fmt.Errorf("object %d (%v): version %d is listed, Stat says %d, %v", i, o.id, v.Number, n, ok)
			}
			v.Ext = string(ext)
		}
	}
	return nil
}

// readAll fills in the contents.
func (r *rig) readAll(objs []*object, out []finding) error {
	var ops []*store.Op
	var of []int
	for i, o := range objs {
		for j := range max(1, len(out[i].state)) {
			op := &store.Op{Kind: store.OpRead, OID: o.id, Version: meta.NewestVersion, Bitmap: make([]byte, r.c.bitmapBytes())}
			op.Len, op.Buf = r.c.Store.BlockBytes, r.h.buffer(int(r.c.Store.BlockBytes))
			if n := len(out[i].state); j < n-1 || n > 0 && out[i].state[j].Number%2 == 0 {
				op.Version = out[i].state[j].Number
			}
			ops, of = append(ops, op), append(of, i)
		}
	}
	err := r.do("reading", ops)
	next := make([]int, len(objs))
	for k, op := range ops {
		f := &out[of[k]]
		if err == nil {
			if e := r.takeRead(f, next[of[k]], op); e != nil {
				f.err = fmt.Errorf("object %d (%v): %w", of[k], op.OID, e)
			}
			next[of[k]]++
		}
		r.h.giveBack(op.Buf)
	}
	return err
}

func (r *rig) takeRead(f *finding, j int, op *store.Op) error {
	if len(f.state) == 0 {
		if op.Err != syscall.ENOENT {
			return fmt.Errorf("is not listed, but reading it gives version %d, error %w", op.Version, op.Err)
		}
		return nil
	}
	v := f.state[j]
	if op.Err != 0 {
		return fmt.Errorf("version %d is listed, but reading it fails: %w", v.Number, op.Err)
	}
	if op.Version != v.Number || string(op.Bitmap) != v.Ext {
		return fmt.Errorf("reading version %d gives version %d with bitmap %x, Stat says %x", v.Number, op.Version, op.Bitmap, v.Ext)
	}
	v.Content = decode(op.Buf, 0, r.c.Store.GranuleBytes)
	return nil
}

// checkSpace checks the accounting against itself: the sum over the inodes is
// what is not free, and every object has a block.
func (r *rig) checkSpace(objs []*object, out []finding) error {
	used := map[meta.Inode]uint64{}
	sum := uint64(0)
	r.engine.Inodes(func(i meta.Inode, bytes uint64) bool {
		used[i] += bytes
		sum += bytes
		return true
	})
	need := map[meta.Inode]uint64{}
	for i, o := range objs {
		if len(out[i].state) > 0 {
			need[o.id.Inode] += uint64(r.c.Store.BlockBytes)
		}
	}
	for _, o := range objs {
		if n := o.id.Inode; used[n] < need[n] {
			return fmt.Errorf("inode %v: %d bytes accounted, its objects need at least %d", n, used[n], need[n])
		}
	}
	// Free blocks that are just being discarded count as taken.
	taken := uint64(0)
	agree := func() bool {
		t := r.engine.Totals()
		taken = (t.TotalBlocks - t.FreeBlocks) * uint64(t.BlockBytes)
		return taken == sum
	}
	if !agree() && (r.c.DiscardUnit == 0 || r.runUntil(opLimit, "discarding", agree) != nil) {
		return fmt.Errorf("space: %d bytes of blocks are taken, but the inodes sum up to %d bytes", taken, sum)
	}
	return nil
}
