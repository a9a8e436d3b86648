package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// scenario is a history written by hand, with a crash at every event.
type scenario struct {
	*runner
	t *testing.T
}

// scenarios runs a history on the usual kinds of devices and checksums.
func scenarios(t *testing.T, adapt func(*Config), play func(*scenario)) {
	for _, caching := range []Caching{WriteThrough, Cached, CachedData} {
		for _, csum := range []uint32{0, 4096, 16384} {
			t.Run(fmt.Sprintf("caching%d/csum%d", caching, csum), func(t *testing.T) {
				c := plainConfig(caching, csum)
				if adapt != nil {
					adapt(c)
				}
				for salt := range scenarioRuns() {
					playOne(t, c, salt, play)
				}
			})
		}
	}
}

// scenarioRuns is how many choices of what survives are tried per scenario.
func scenarioRuns() uint64 {
	if os.Getenv("CRASH_POINTS") != "" {
		return 5
	}
	return 1
}

func playOne(t *testing.T, c *Config, salt uint64, play func(*scenario)) {
	h := newHarness()
	var log tailBuffer
	h.log = &log
	s := &scenario{h.newRunner(c, rand.New(rand.NewPCG(salt, 5)), policy{perMille: 1000, images: 2, inRecovery: 10, goOn: 1}), t}
	s.rig = h.newRig(c, salt, nil)
	s.pgCount = 2
	defer func() {
		if t.Failed() {
			t.Logf("config: %v\n%s", c, log.String())
		}
	}()
	s.must(s.begin())
	play(s)
	s.must(s.end())
}

// plainConfig is a small store with several metadata blocks.
func plainConfig(caching Caching, csum uint32) *Config {
	c := &Config{Caching: caching, Objects: 3, Depth: 8, UnstableMax: 9, Slow: 1, SectorBytes: 512, AtomicBytes: 4096}
	c.DeviceBytes = []int64{1 << 20}
	if caching == CachedData {
		c.DeviceBytes, c.MetaDevice, c.BufferDevice = []int64{1 << 20, 1 << 20}, 1, 1
	}
	c.Store = store.Config{
		BlockBytes: 32768, GranuleBytes: 4096, MetaBlockBytes: 512, CsumBytes: csum,
		Areas:            store.Areas{MetaOffset: 4096, MetaLen: 12 * 512, BufferOffset: 16384, BufferLen: 131072, DataOffset: 262144, DataLen: 12 * 32768},
		AtomicWriteBytes: 4096, IntentDepth: 1, MaxWriteDepth: 8, MaxCompactors: 2, CompactQueueStart: 1000, IntentTrimInterval: 1000,
		ReshardChunkPause: -1, DiscardGranularityBytes: -1, BufferPoolBytes: 4 << 20,
	}
	s := &c.Store
	s.DisableDataFsync = caching == WriteThrough
	s.DisableMetaFsync, s.DisableBufferFsync = caching != Cached, caching != Cached
	s.Commit = map[Caching]store.CommitMode{WriteThrough: store.CommitAll, Cached: store.CommitNone, CachedData: store.CommitSmall}[caching]
	return c
}

func (s *scenario) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// start submits a write of some granules and does not wait.
func (s *scenario) start(object int, v meta.Version, from, to int) {
	s.t.Helper()
	o := s.objs[object]
	s.must(s.free(o))
	kind := Write
	if o.replicated() {
		kind = WriteStable
	}
	*s.seeds++
	ext := string([]byte{byte(*s.seeds)})
	s.submitWrite(o, &Mutation{Kind: kind, Version: v, From: from, To: to, Seed: Seed(*s.seeds), Ext: &ext})
	s.must(s.err)
}

func (s *scenario) write(object int, v meta.Version, from, to int) {
	s.t.Helper()
	s.start(object, v, from, to)
	s.must(s.settle())
}

func (s *scenario) items(kind MutationKind, i int, v meta.Version) {
	s.t.Helper()
	s.submitItems(kind, []*object{s.objs[i]}, []*Mutation{{Kind: kind, Version: v}})
	s.must(s.settle())
}

func (s *scenario) stabilize(object int, v meta.Version) { s.t.Helper(); s.items(Stabilize, object, v) }
func (s *scenario) rollback(object int, v meta.Version)  { s.t.Helper(); s.items(Rollback, object, v) }

func (s *scenario) remove(object int) {
	s.t.Helper()
	s.submitDelete(s.objs[object])
	s.must(s.settle())
}

func (s *scenario) sync() {
	s.t.Helper()
	s.submitSync()
	s.must(s.settle())
}

func (s *scenario) compact() {
	s.t.Helper()
	s.must(s.compacted())
}

// restart loses the power and starts again.
func (s *scenario) restartAfterLoss() { s.t.Helper(); s.must(s.powerLoss()) }

const whole = 8 // granules of an object of plainConfig

// Objects 0..2 of plainConfig are replicated, 3..5 erasure-coded.

func TestD1RolledBackOverwriteKeepsItsBase(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		s.write(3, 1, 2, 5)
		s.stabilize(3, 1)
		for range 2 {
			s.write(3, 2, 0, whole)
			s.write(3, 3, 0, whole)
			s.rollback(3, 1)
		}
		s.compact()
		s.write(4, 1, 0, whole) // takes what was freed
		s.write(0, 1, 0, whole)
		s.restartAfterLoss()
		s.write(5, 1, 0, whole)
	})
}

func TestD2RollbackOfANewObject(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		s.write(3, 1, 1, 3)
		s.write(3, 2, 2, 3)
		s.rollback(3, 0)
		s.write(4, 1, 0, whole)
		s.compact()
		s.restartAfterLoss()
		s.write(3, 1, 5, 6)
		s.rollback(3, 0)
		s.restartAfterLoss()
		s.compact()
	})
}

func TestD3CompactionOfSyncedWrites(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for _, o := range []int{0, 1} {
			s.write(o, 1, 0, whole)
			s.write(o, 2, 1, 2)
			s.write(o, 3, 1, 4)
		}
		s.sync()
		s.compact()
		s.write(0, 4, 2, 3)
		s.compact()
	})
}

func TestD4SmallWriteOverUnsyncedFirstWrite(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		s.write(0, 1, 0, whole)
		s.sync()
		s.write(0, 2, 0, whole)
		s.write(0, 3, 4, 5)
		s.write(1, 1, 0, 2)
		s.write(1, 2, 6, 7)
		s.write(1, 3, 0, whole)
		s.write(1, 4, 0, 1)
	})
}

func TestD5VersionsInSeveralBlocks(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for v := meta.Version(1); v < 7; v++ {
			for o := range s.objs {
				s.start(o, v, int(v), int(v)+1) // all at once: blocks are being written
			}
		}
		s.must(s.settle())
	})
}

func TestD6DataCompletedDuringAnotherSync(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for v := meta.Version(1); v < 4; v++ {
			for o := range s.objs {
				s.start(o, v, 0, whole)
				for range o {
					s.must(s.step()) // so that syncs and data overlap in every way
				}
			}
		}
		s.must(s.settle())
		s.sync()
	})
}

func TestD7SyncDuringSync(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for v := meta.Version(1); v < 6; v++ {
			for o := range s.objs {
				s.start(o, v, o, o+1)
				s.submitSync()
				for range int(v) % 3 {
					s.must(s.step())
				}
			}
			s.submitSync()
			s.submitSync()
		}
		s.must(s.settle())
	})
}

func TestD8HalfRemovedRun(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		s.policy.inRecovery = 60
		s.write(0, 1, 0, whole)
		s.write(3, 1, 0, whole)
		s.sync()
		for v := meta.Version(2); v < 7; v++ {
			s.start(0, v, int(v)%4, int(v)%4+3)
			s.start(3, v, int(v)%4, int(v)%4+3)
			s.start(1, v, 0, 1)
			s.start(4, v, 0, 1)
			s.must(s.free(s.objs[0]))
		}
		s.must(s.settle())
		s.restartAfterLoss()
		s.restartAfterLoss()
	})
}

func TestD9TwoRollbacks(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for v := meta.Version(1); v <= 5; v++ {
			s.write(3, v, int(v), int(v)+1)
		}
		s.rollback(3, 4)
		s.write(3, 5, 0, 1)
		s.rollback(3, 3)
		s.restartAfterLoss()
		s.write(3, 4, 6, 8)
		s.rollback(3, 2)
		s.stabilize(3, 2)
		s.compact()
	})
}

func TestD14FullStoreDoesNotHang(t *testing.T) {
	full := func(c *Config) { c.Store.Areas.DataLen = 4 * 32768 }
	scenarios(t, full, func(s *scenario) {
		s.policy.perMille = 200
		for round := range meta.Version(3) {
			for o := range s.objs { // the last ones get ENOSPC
				s.start(o, 1+round, 0, whole)
			}
			s.must(s.settle())
			if s.h.Stats.ENOSPC == 0 {
				s.t.Fatal("six objects fit into four blocks")
			}
			s.restartAfterLoss()
			for o := range s.objs {
				s.remove(o)
			}
			s.sync()
			s.write(5, 1, 0, 3)
			if len(s.objs[5].live) == 0 {
				s.t.Fatal("no space in an empty store")
			}
			s.remove(5)
		}
	})
}

func TestD15IntentsAfterLSNGaps(t *testing.T) {
	trim := func(c *Config) { c.Store.IntentTrimInterval = 1 }
	scenarios(t, trim, func(s *scenario) {
		s.write(0, 1, 0, whole)
		for round := range meta.Version(3) {
			v := 2 + 10*round
			s.write(0, v, 1, 2)
			s.write(0, v+1, 1, 2)
			s.write(1, 1, 0, whole)
			s.compact()
			s.remove(1)
			s.sync()
			s.write(0, v+2, 3, 4)
			s.restartAfterLoss()
			s.write(0, v+3, 4, 5) // its LSN must be over completed_lsn
			s.write(0, v+4, 4, 5)
			s.restartAfterLoss()
		}
	})
}

func TestD18ListWithAFailingItem(t *testing.T) {
	scenarios(t, nil, func(s *scenario) {
		for _, o := range []int{3, 4, 5} {
			s.write(o, 1, 0, whole)
			s.write(o, 2, 1, 2)
		}
		for _, kind := range []MutationKind{Stabilize, Rollback} {
			bad := &Mutation{Kind: kind, Version: 7, MustFail: true}
			if kind == Rollback {
				bad.Version, bad.MustFail, bad.MayFail = 0, false, true // stable by now, or not
			}
			s.submitItems(kind, []*object{s.objs[3], s.objs[4], s.objs[5]}, []*Mutation{{Kind: kind, Version: 1}, bad, {Kind: kind, Version: 1}})
			s.must(s.settle())
			s.restartAfterLoss()
		}
	})
}

// TestD20LostSuperblock: a store whose superblock is gone is not initialized
// again (ondisk.md §2.3).
func TestD20LostSuperblock(t *testing.T) {
	c := plainConfig(WriteThrough, 4096)
	playOne(t, c, 1, func(s *scenario) {
		s.write(0, 1, 0, whole)
		images := s.rig.powerLoss(1)[0]
		if _, err := images[c.MetaDevice].WriteAt(make([]byte, 512), c.Store.Areas.MetaOffset); err != nil {
			t.Fatal(err)
		}
		before := images[0].Clone()
		g := s.h.newRig(c, 1, images)
		if err := g.open(); err == nil {
			t.Fatal("a store without its superblock was started")
		}
		if a, b := before.Bytes(), g.devices[0].Image().Bytes(); string(a) != string(b) {
			t.Fatal("refusing to start has changed the disk")
		}
	})
}

// TestD16RotInTheLastWrite: damage in the range that was written last does not
// make an object vanish if it cannot be a torn write (ondisk.md §7.2).
func TestD16RotInTheLastWrite(t *testing.T) {
	c := plainConfig(WriteThrough, 4096)
	playOne(t, c, 1, func(s *scenario) {
		s.policy.perMille = 0
		s.write(0, 1, 0, whole)
		s.write(0, 2, 3, 4) // in place
		s.write(1, 1, 0, 1) // gives the block of the entry another write
		s.write(1, 2, 0, 1)
		images := s.rig.powerLoss(1)[0]
		l, err := s.loadImages(images)
		s.must(err)
		e := l.Objects[0].Chain[0]
		at := c.Store.Areas.DataOffset + int64(e.Block())*32768 + 3*4096 + 77
		images[0].FlipBit(at, 3)
		g := s.h.newRig(c, 2, images)
		s.must(g.open())
		found, err := g.inspect(s.objs, 2)
		s.must(err)
		if found[0].err == nil && !found[0].state.equal(s.objs[0].live) || len(found[0].state) == 0 {
			t.Fatalf("entry %v, damaged: found %v, error %v", e, found[0].state, found[0].err)
		}
		t.Logf("entry %v: %v", e, found[0].err)
		if !found[1].state.equal(s.objs[1].live) {
			t.Fatalf("other object: %v", found[1].state)
		}
		s.must(g.close())
	})
}
