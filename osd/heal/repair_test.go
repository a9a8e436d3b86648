package heal

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

// What a scrub makes of damaged chunks, and that recovery repairs them.
func TestScrubRepairs(t *testing.T) {
	for name, c := range map[string]struct {
		pool  schema.Pool
		csum  uint32
		rot   []int  // roles (or numbers of copies) of object 2
		want  string // before recovery
		clean bool   // after it
	}{
		"replicas, checksum":         {rep3, 4096, []int{1}, "2 degraded+corrupted 0@1 0@2=2 0@3", true},
		"replicas, majority":         {rep3, 0, []int{1}, "2 degraded+corrupted 0@1 0@2=2 0@3", true},
		"replicas, our own is bad":   {rep3, 0, []int{0}, "2 degraded+corrupted 0@1=2 0@2 0@3", true},
		"two replicas, checksum":     {rep2, 4096, []int{0}, "2 degraded+corrupted 0@1=2 0@2", true},
		"two replicas, who is right": {rep2, 0, []int{0}, "2 inconsistent 0@1=4 0@2=4", false},
		"all replicas":               {rep2, 4096, []int{0, 1}, "2 incomplete+corrupted 0@1=2 0@2=2", false},
		"ec 4+2, checksum, data":     {ec42, 4096, []int{1}, "2 degraded+corrupted 0@1 1@2=2 2@3 3@4 4@5 5@6", true},
		"ec 4+2, checksum, two":      {ec42, 4096, []int{0, 5}, "2 degraded+corrupted 0@1=2 1@2 2@3 3@4 4@5 5@6=2", true},
		"ec 4+2, checksum, three":    {ec42, 4096, []int{0, 3, 5}, "2 incomplete+corrupted 0@1=2 1@2 2@3 3@4=2 4@5 5@6=2", false},
		"ec 4+2, silent, data":       {ec42, 0, []int{2}, "2 degraded+corrupted 0@1 1@2 2@3=2 3@4 4@5 5@6", true},
		"ec 4+2, silent, parity":     {ec42, 0, []int{4}, "2 degraded+corrupted 0@1 1@2 2@3 3@4 4@5=2 5@6", true},
		"ec 4+2, silent, two":        {ec42, 0, []int{1, 4}, "2 inconsistent 0@1=4 1@2=4 2@3=4 3@4=4 4@5=4 5@6=4", false},
		"ec 2+1, checksum":           {ec21, 4096, []int{0}, "2 degraded+corrupted 0@1=2 1@2 2@3", true},
		"ec 2+1, silent":             {ec21, 0, []int{0}, "2 inconsistent 0@1=4 1@2=4 2@3=4", false},
		"xor, checksum":              {xor3, 4096, []int{3}, "2 degraded+corrupted 0@1 1@2 2@3 3@4=2", true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newCluster(t, 1, clusterConfig{pool: c.pool, csum: c.csum})
			k.populate(0, 5)
			k.recovery(false)
			k.scrub()
			if s := k.states(); s != "" {
				t.Fatalf("without damage: %s", s)
			}
			chunks := k.content(2)
			for i, role := range c.rot {
				k.osds[role].rot(chunks[role], 5000+i*8192)
			}
			k.scrub()
			if got := k.states(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if s := k.h.Stats(); s.ScrubbedObjects != 10 || s.ScrubbedPGs != 2 {
				t.Errorf("%+v", s)
			}
			k.settle()
			if c.clean {
				if got := k.states(); got != "" {
					t.Errorf("after recovery: %s", got)
				}
				k.verify(0, 5)
			} else if got := k.states(); got != c.want {
				t.Errorf("recovery has changed %s to %s", c.want, got)
			}
			k.scrub()
			if got := k.states(); (got == "") != c.clean {
				t.Errorf("scrubbed again: %s", got)
			}
			if k.flags&meta.PGScrubbing != 0 || (k.flags == 0) != c.clean {
				t.Errorf("flags %v", k.flags)
			}
		})
	}
}

// Chunks longer than what is compared at a time; damage in the last slice.
func TestScrubLargeBlocks(t *testing.T) {
	for name, c := range map[string]struct {
		pool schema.Pool
		csum uint32
		want string
	}{
		"replicas, silent": {rep3, 0, "1 degraded+corrupted 0@1 0@2=2 0@3"},
		"replicas, csum":   {rep3, 64 << 10, "1 degraded+corrupted 0@1 0@2=2 0@3"},
		"ec, silent":       {ec42, 0, "1 degraded+corrupted 0@1 1@2=2 2@3 3@4 4@5 5@6"},
		"ec, csum":         {ec42, 64 << 10, "1 degraded+corrupted 0@1 1@2=2 2@3 3@4 4@5 5@6"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := c.pool
			pool.BlockBytes = 2 << 20
			k := newCluster(t, 1, clusterConfig{pool: pool, csum: c.csum})
			k.populate(0, 2)
			k.recovery(false)
			chunks := k.content(1)
			k.osds[1].rot(chunks[1], 2<<20-77)
			k.osds[1].rot(chunks[1], 1<<20+5)
			k.scrub()
			if got := k.states(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			k.settle()
			k.verify(0, 2)
		})
	}
}

// Chunks that are not there, or of another version.
func TestScrubFindsMissing(t *testing.T) {
	k := newCluster(t, 1, clusterConfig{pool: rep3})
	k.populate(0, 4)
	k.recovery(false)
	k.osds[1].remove(k.chunk(0, 0), 9<<16)
	for i := range 3 {
		k.osds[i].remove(k.chunk(1, 0), 9<<16) // deleted by a client after the list was made
	}
	for _, i := range []int{0, 2} {
		k.osds[i].write(k.chunk(2, 0), version1+1, k.content(2)[0])
	}
	k.scrub()
	if got, want := k.states(), "0 degraded 0@1 0@3; 2 degraded 0@1 0@2=1 0@3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	k.settle()
	k.verify(0, 1)
	k.verify(2, 4)
	if s := k.h.Stats(); s.Missing != 1 {
		t.Errorf("%+v", s)
	}

	e := newCluster(t, 2, clusterConfig{pool: ec42})
	e.populate(0, 4)
	e.recovery(false)
	e.osds[4].remove(e.chunk(0, 4), 9<<16)
	e.osds[5].remove(e.chunk(1, 5), 9<<16)
	e.osds[1].remove(e.chunk(1, 1), 9<<16)
	for role := range 6 {
		if role != 1 {
			e.osds[role].write(e.chunk(2, role), version1+1, e.content(2)[role])
		}
	}
	e.osds[5].write(e.chunk(3, 5), version1+1, e.content(3)[5]) // nobody knows how
	e.scrub()
	want := "0 degraded 0@1 1@2 2@3 3@4 5@6; 1 degraded 0@1 2@3 3@4 4@5; 2 degraded 0@1 1@2=1 2@3 3@4 4@5 5@6; " +
		"3 inconsistent 0@1=4 1@2=4 2@3=4 3@4=4 4@5=4 5@6=4"
	if got := e.states(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	e.settle()
	e.verify(0, 3)
}

// The primary is not a member: objects are listed by another OSD.
func TestScrubListsElsewhere(t *testing.T) {
	k := newCluster(t, 1, clusterConfig{pool: rep2, osds: 3, csum: 4096, curSet: []meta.OSDNum{2, 3},
		options: func(o *Options) { o.Scrub.ListLimit = 3 }})
	k.populate(0, 10)
	k.osds[2].rot(k.content(8)[0], 100)
	k.scrub()
	k.settle()
	if s := k.h.Stats(); s.Corrupted != 1 || s.ScrubbedObjects != 10 {
		t.Errorf("%+v", s)
	}
	k.verify(0, 10)
}

// An administrator deletes the bad copy and wants the object compared again.
func TestFixInconsistent(t *testing.T) {
	k := newCluster(t, 1, clusterConfig{pool: rep2})
	k.populate(0, 3)
	k.osds[1].rot(k.content(1)[0], 60000)
	k.scrub()
	if got := k.states(); got != "1 inconsistent 0@1=4 0@2=4" {
		t.Fatal(got)
	}
	a := k.newClient()
	id := k.chunk(1, 0)
	if ret := a.call(2, &wire.SecDel{Chunk: id, Flags: wire.FlagIgnorePGLock}).Retval; ret != wire.OK {
		t.Fatal(ret)
	}
	if ret := a.scrub(1); ret != wire.OK {
		t.Fatal(ret)
	}
	k.settle()
	if got := k.states(); got != "" {
		t.Error(got)
	}
	k.verify(0, 3)
	if ret := a.scrub(77); ret != wire.OK { // does not exist
		t.Error(ret)
	}
}

func TestScrubRequests(t *testing.T) {
	k := newCluster(t, 1, clusterConfig{pool: rep3})
	k.populate(0, 20)
	k.recovery(false)
	a := k.newClient()
	k.osds[2].rot(k.content(9)[0], 1)
	k.osds[1].rot(k.content(11)[0], 1)
	done := 0
	a.n.Do(func(*env.Env) {
		for n := range 20 {
			id := k.object(n)
			a.begin(1, &wire.Rw{Op: wire.OpScrub, Inode: id.Inode, Offset: id.Stripe}, func(ret wire.Retval) {
				if ret != wire.OK {
					t.Error(ret)
				}
				done++
			})
		}
	})
	k.w.RunUntil(func() bool { return done == 20 }, time.Minute)
	if got := k.states(); done != 20 || got != "9 degraded+corrupted 0@1 0@2 0@3=2; 11 degraded+corrupted 0@1 0@2=2 0@3" {
		t.Errorf("%d answers: %s", done, got)
	}
	k.settle()
	k.verify(0, 20)
}

// Bit rot all over the disks, again and again, within what the code can bear.
func TestRotRandom(t *testing.T) {
	for name, pool := range map[string]schema.Pool{"replicated 3": rep3, "ec 4+2": ec42} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(name, " ", seed), func(t *testing.T) {
				const objects = 8
				k := newCluster(t, seed, clusterConfig{pool: pool, csum: uint32(seed%2) * 4096})
				k.populate(0, objects)
				r := k.w.Rand()
				for range 5 {
					for n := range objects {
						if role := r.IntN(2 * pool.PGSize); role < pool.PGSize {
							k.osds[role].rot(k.content(n)[role], 64+r.IntN(int(pool.BlockBytes)-64))
						}
					}
					k.scrub()
					k.settle()
					if got := k.states(); got != "" {
						t.Fatal(got)
					}
					k.verify(0, objects)
				}
			})
		}
	}
}
