package statsum

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// TestRandom compares what is published after random histories with sums made
// from the final keys alone, for everything that does not depend on time.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(rt)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			randomStep(rt, r)
			if rapid.Bool().Draw(rt, "follow") {
				r.follow()
			}
			if rapid.IntRange(0, 3).Draw(rt, "publish") == 0 {
				if txn := r.sums.Txn(r.lease); txn != nil && rapid.Bool().Draw(rt, "arrives") {
					r.do(txn)
				}
			}
		}
		r.settle()
		compareAll(rt, r)
	})
}

func randomStep(rt *rapid.T, r *rig) {
	osd := meta.OSDNum(rapid.IntRange(1, 3).Draw(rt, "osd"))
	pg := meta.PG{Pool: meta.PoolID(rapid.IntRange(1, 2).Draw(rt, "pool")), Num: meta.PGNum(rapid.IntRange(1, 2).Draw(rt, "pg"))}
	inode := inodeID(pg.Pool, uint64(rapid.IntRange(0, 3).Draw(rt, "inode")))
	switch rapid.IntRange(0, 9).Draw(rt, "kind") {
	case 0:
		r.up(osd)
	case 1:
		r.del(keys.OSDState(osd))
	case 2, 3, 4:
		r.report(osd, randomReport(rt))
	case 5:
		r.put(keys.PGStats(pg), fmt.Sprintf(`{"object_count":%d,"clean_count":%d}`,
			rapid.IntRange(0, 9).Draw(rt, "n"), rapid.IntRange(0, 9).Draw(rt, "clean")))
	case 6:
		r.del(keys.PGStats(pg))
	case 7:
		if inode.Number() != 0 {
			r.put(keys.InodeConfig(inode), `{"name":"x","size":1}`)
		}
	case 8:
		if inode.Number() != 0 {
			r.del(keys.InodeConfig(inode))
		}
	case 9:
		r.del(keys.OSDStats(osd), keys.OSDSpace(osd), keys.InodeIO(osd))
	}
}

func randomReport(rt *rapid.T) report {
	p := report{seconds: uint64(rapid.IntRange(1, 50).Draw(rt, "time")), ops: counters{}}
	c := func() schema.Counters {
		return schema.Counters{Count: uint64(rapid.IntRange(0, 99).Draw(rt, "count")), Bytes: uint64(rapid.IntRange(0, 99).Draw(rt, "bytes"))}
	}
	p.ops["read"] = c()
	for _, pool := range []meta.PoolID{1, 2} {
		for n := range uint64(4) {
			if rapid.Bool().Draw(rt, "space") {
				p.space = append(p.space, schema.InodeBytes{Inode: inodeID(pool, n), Bytes: uint64(rapid.IntRange(0, 3).Draw(rt, "used"))})
			}
			if rapid.Bool().Draw(rt, "io") {
				p.io = append(p.io, schema.InodeIO{Inode: inodeID(pool, n), Read: c(), Delete: c()})
			}
		}
	}
	return p
}

// compareAll is the slow oracle.
func compareAll(rt *rapid.T, r *rig) {
	all, err := r.store.Apply(&env.Txn{Then: []env.KVOp{keys.All().Get()}})
	if err != nil {
		rt.Fatal(err)
	}
	byKey := map[string][]byte{}
	for _, kv := range all.Responses[0].KVs {
		byKey[kv.Key] = kv.Value
	}
	want, read := map[meta.Inode]uint64{}, map[meta.Inode]schema.Counters{}
	objects := schema.ObjectTotals{}
	for key, value := range byKey {
		k, _ := keys.Parse(key)
		switch k.Kind {
		case schema.KindOSDSpace:
			list, _ := schema.DecodeOSDSpace(key, value)
			for _, i := range list {
				want[i.Inode] += i.Bytes
			}
		case schema.KindPGStats:
			s, _ := schema.DecodePGStats(key, value)
			objects.All += s.Objects
			objects.Clean += s.Clean
		case schema.KindInodeIO:
			_, up := byKey[keys.OSDState(k.OSD)]
			_, known := byKey[keys.OSDStats(k.OSD)]
			list, _ := schema.DecodeInodeIO(key, value)
			// A report with the time of the one before waits for a newer one.
			if o := r.sums.osds[k.OSD]; !up || !known || o.hasIO {
				continue
			}
			for _, i := range list {
				c := read[i.Inode]
				c.Count += i.Read.Count
				c.Bytes += i.Read.Bytes
				read[i.Inode] = c
			}
		}
	}
	stats, err := schema.DecodeStats("", byKey[keys.Stats()])
	if err != nil || stats.Counts != objects {
		rt.Fatalf("objects %+v, want %+v (%v)", stats.Counts, objects, err)
	}
	pending := slices.ContainsFunc(slices.Collect(maps.Values(r.sums.osds)), func(o *osd) bool { return o.hasIO })
	for _, inode := range slices.SortedFunc(maps.Keys(want), cmp.Compare) {
		key := keys.InodeStats(inode)
		s, err := schema.DecodeInodeStats(key, byKey[key])
		if err != nil || s.RawUsedBytes != want[inode] {
			rt.Fatalf("%s: %d used, want %d (%v)", key, s.RawUsedBytes, want[inode], err)
		}
		if byKey[key] != nil && !pending && (s.Read.Count != read[inode].Count || s.Read.Bytes != read[inode].Bytes) {
			rt.Fatalf("%s: %+v, want %+v", key, s.Read, read[inode])
		}
	}
	for key := range byKey {
		if k, _ := keys.Parse(key); k.Kind == schema.KindInodeStats {
			s, _ := schema.DecodeInodeStats(key, byKey[key])
			active := s.Read.IOPS+s.Read.BPS+s.Delete.IOPS+s.Delete.BPS > 0
			if s.RawUsedBytes == 0 && !active && byKey[keys.InodeConfig(k.Inode())] == nil {
				rt.Fatalf("%s has nothing to tell", key)
			}
		}
	}
}
