package primary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// Recovery of replicas moves only what is missing: good copies get the new
// version and no data.
func TestRecoveryWritesWhatIsMissing(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 4)
	p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
	u := r.user(1)
	const objects = 20
	data := pattern(testBlock, 1)
	for i := range objects {
		u.write(1, uint64(i)*testBlock, data)
	}
	r.w.RunFor(time.Minute)
	written := func(osd meta.OSDNum) uint64 { return r.osds[osd].disk.Stats().WriteBytes }
	for _, c := range []struct {
		name string
		set  []meta.OSDNum
	}{
		{"a copy is moved", []meta.OSDNum{1, 2, 4}},
		{"a copy is missing", []meta.OSDNum{1, 3, 4}},
		{"moved back", []meta.OSDNum{1, 2, 3}},
		{"the primary's own", []meta.OSDNum{2, 3, 4}},
		{"one too many", []meta.OSDNum{2, 3}},
	} {
		name, before := c.name, p.set
		p.set = c.set
		r.pools[1].PGSize = len(p.set)
		r.peer(p)
		for i := range objects { // some are written by clients instead
			if i%5 == 0 {
				u.write(1, uint64(i)*testBlock+8192, data[8192:12288])
			}
		}
		was := map[meta.OSDNum]uint64{1: written(1), 2: written(2), 3: written(3), 4: written(4)}
		r.recoverAll(p)
		r.w.RunFor(time.Minute)
		for osd, b := range was {
			had, has := false, false
			for _, o := range before {
				had = had || o == osd
			}
			for _, o := range p.set {
				has = has || o == osd
			}
			moved := written(osd) - b
			if has && !had && moved < (objects-5)*testBlock || (had || !has) && moved > objects*4*4096 {
				t.Errorf("%s: %v to %v: %d bytes written on OSD %d", name, before, p.set, moved, osd)
			}
		}
		for i := range objects {
			u.read(1, uint64(i)*testBlock, data)
		}
	}
}

// A client's write to an object with a bad copy makes that copy good.
func TestWriteRepairsBadReplica(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
	u := r.user(1)
	data := pattern(testBlock, 1)
	u.write(1, 0, data)
	r.w.RunFor(time.Minute)
	before := [...]uint64{r.osds[2].disk.Stats().WriteBytes, r.osds[3].disk.Stats().WriteBytes}
	id := meta.ObjectID{Inode: inode(1)}
	o := r.osds[1]
	o.node.Do(func(*env.Env) { o.pri.Objects(p.id).Mark(id, 0, 3, meta.LocCorrupted) })
	copy(data[4096:8192], pattern(4096, 5))
	u.write(1, 4096, data[4096:8192])
	if rec, _ := o.pri.Objects(p.id).Lookup(id); rec != nil {
		t.Errorf("not clean: %+v", rec)
	}
	if small, whole := r.osds[2].disk.Stats().WriteBytes-before[0], r.osds[3].disk.Stats().WriteBytes-before[1]; small > 64<<10 || whole < testBlock {
		t.Errorf("%d bytes were written to the good copy, %d to the bad one", small, whole)
	}
	u.read(1, 0, data)
	r.atRest(p)
	u.want(wire.OK, u.beginDelete(1, 0, 0))
}
