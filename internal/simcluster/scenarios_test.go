package simcluster

import (
	"fmt"
	"testing"
	"time"

	"vitastor/internal/meta"
)

// Worlds that are made by hand, each about one thing.

// quiet is a small healthy world to put faults into.
func quiet(seed uint64, pool PoolConfig) *Config {
	pool.ID = 1
	if pool.LocalReads == "" {
		pool.LocalReads = "primary"
	}
	if pool.Images == nil {
		pool.Images = []ImageConfig{{Number: 1, Objects: 4, Owner: -1, Compares: true}}
	}
	c := &Config{Seed: seed, Duration: 20 * time.Second, OSDs: 3, Hosts: 3, Monitors: 1, Clients: 2, BlockBytes: 32 << 10,
		Commit: meta.CommitAll, DiskBytes: 64 << 20, Pools: []PoolConfig{pool}, DownMax: 1,
		Work: WorkConfig{Workers: 3, Think: 20 * time.Millisecond, Reads: 10, Writes: 10, Syncs: 1, BigEvery: 15}}
	c.Global = map[string]any{"block_size": c.BlockBytes, "bitmap_granularity": GranuleBytes, "immediate_commit": c.Commit.String()}
	return c
}

func replicated(size, minSize, pgs int) PoolConfig {
	return PoolConfig{Scheme: "replicated", Size: size, MinSize: minSize, PGs: pgs}
}

// schemes are the kinds of pools for three OSDs.
var schemes = map[string]PoolConfig{
	"replicated 2": replicated(2, 1, 4),
	"replicated 3": replicated(3, 2, 4),
	"ec 2+1":       {Scheme: "ec", Size: 3, Parity: 1, MinSize: 2, PGs: 4},
	"xor 2+1":      {Scheme: "xor", Size: 3, Parity: 1, MinSize: 2, PGs: 4},
}

func TestQuietWorld(t *testing.T) {
	for _, name := range sortedKeys(schemes) {
		for _, commit := range []meta.CommitMode{meta.CommitAll, meta.CommitSmall, meta.CommitNone} {
			t.Run(name+" "+commit.String(), func(t *testing.T) {
				c := quiet(1, schemes[name])
				c.Duration, c.Commit = 5*time.Second, commit
				c.Global["immediate_commit"] = commit.String()
				r := judge(t, c, nil)
				if r.Ops < 300 || len(r.Failed) > 0 || r.Exits > 0 {
					t.Errorf("%d operations, failed %v, %d exits", r.Ops, r.Failed, r.Exits)
				}
				if r.Slowest > 500*time.Millisecond {
					t.Errorf("an operation took %v", r.Slowest)
				}
			})
		}
	}
}

// The pause that clients see is at most 1 s after kill -9 of an OSD, and 6 s
// when it freezes and wakes up later, with all its connections.
func TestFailover(t *testing.T) {
	for _, name := range sortedKeys(schemes) {
		for osd := 1; osd <= 3; osd++ {
			for kind, limit := range map[FaultKind]time.Duration{Kill: time.Second, Pause: 6 * time.Second} {
				t.Run(fmt.Sprintf("%v %v %d", name, kind, osd), func(t *testing.T) {
					c := quiet(uint64(osd), schemes[name])
					r := judge(t, c, Plan{{At: 3 * time.Second, Heal: 15 * time.Second, Kind: kind, A: osd}})
					t.Logf("pause %v", r.Slowest)
					if r.Slowest > limit {
						t.Errorf("an operation took %v, more than %v", r.Slowest, limit)
					}
				})
			}
		}
	}
}

// Frozen primaries wake up again and again, at any moment around the end of
// their lease.
func TestFrozenPrimaries(t *testing.T) {
	for seed := range uint64(4) {
		for _, name := range sortedKeys(schemes) {
			t.Run(fmt.Sprintf("%v %d", name, seed), func(t *testing.T) {
				c := quiet(seed, schemes[name])
				c.Duration = 40 * time.Second
				var p Plan
				for i := range 5 {
					at := time.Duration(i)*8*time.Second + time.Second
					p = append(p, Fault{At: at, Heal: at + 3500*time.Millisecond + time.Duration(seed*300+uint64(i)*200)*time.Millisecond,
						Kind: Pause, A: 1 + (i+int(seed))%3})
				}
				judge(t, c, p)
			})
		}
	}
}

// Nothing is left behind where PGs have moved away from, also when the OSDs
// there are slow, and with locks, which end for OSDs that are not needed.
func TestNothingIsLeftBehind(t *testing.T) {
	for seed := range uint64(5) {
		for _, name := range sortedKeys(schemes) {
			t.Run(fmt.Sprintf("%v %d", name, seed), func(t *testing.T) {
				c := quiet(seed, schemes[name])
				c.OSDs, c.Hosts, c.Duration = 5, 5, 30*time.Second
				c.BlockBytes, c.Clients, c.Work.Think = 128<<10, 1, 60*time.Millisecond
				c.Global["block_size"], c.Global["enable_pg_locks"] = c.BlockBytes, seed != 0
				c.Pools[0].Images[0].Objects = 12
				judge(t, c, Plan{
					{At: time.Second, Heal: 29 * time.Second, Kind: Stall, A: 1 + int(seed), Amount: int64(800 * time.Millisecond)},
					{At: 2 * time.Second, Heal: 10 * time.Second, Kind: Out, A: 2},
					{At: 14 * time.Second, Heal: 22 * time.Second, Kind: Out, A: 4},
				})
			})
		}
	}
}

// focuses are worlds of three or five OSDs in which few kinds of faults meet.
var focuses = map[string]struct {
	faults []FaultKind
	rot    bool
}{
	"rot":     {[]FaultKind{BitRot, Latent, BitRot, Latent, Kill, PowerLoss}, true},
	"deletes": {[]FaultKind{Kill, PowerLoss, KillSilent, Pause, Reset, Out, Blackout, ClientKill}, false},
	"power":   {[]FaultKind{PowerLoss, Blackout, Kill, SlowDisk, Stall}, false},
	"network": {[]FaultKind{Cut, CutOneWay, Reset, Blackhole, Loss, SlowNet, Isolate}, false},
	"lease":   {[]FaultKind{Pause, Isolate, KVCut, KVAnswers, KVExile, KVExile, KVDown, KillSilent, Kill}, false},
	"moves":   {[]FaultKind{Out, Reweight, Kill, Stop, PGCount, Pause}, false},
}

// TestFocus draws plans of one sort, for every scheme and commit mode.
func TestFocus(t *testing.T) {
	first, last := seedRange(t)
	if *seedFlag == "" {
		last = first
	}
	for _, focus := range sortedKeys(focuses) {
		for _, name := range sortedKeys(schemes) {
			for _, commit := range []meta.CommitMode{meta.CommitAll, meta.CommitSmall, meta.CommitNone} {
				for seed := first; seed <= last; seed++ {
					t.Run(fmt.Sprintf("%s %s %v %d", focus, name, commit, seed), func(t *testing.T) {
						c := quiet(seed, schemes[name])
						c.Duration, c.Every, c.Commit = *durationFlag, 1500*time.Millisecond, commit
						c.Global["immediate_commit"] = commit.String()
						c.Faults = focuses[focus].faults
						c.DownMax = 1 + int(seed%3)
						if focus == "moves" {
							c.OSDs, c.Hosts = 5, 5
						}
						if focus == "deletes" {
							c.OSDs, c.Hosts, c.Work.Deletes = 4, 4, 10
							c.Pools[0].Images = []ImageConfig{{Number: 1, Objects: 3, Owner: -1, Deletes: true}}
						}
						if focuses[focus].rot {
							c.Checksums, c.RotOSD = true, 1+int(seed%3)
						}
						judge(t, c, kept(t, NewPlan(c)))
					})
				}
			}
		}
	}
}

// The deletion of a copy that has moved away must be durable before its OSD is
// forgotten: a power loss right after it brings nothing back.
func TestDeletedCopiesStayDeleted(t *testing.T) {
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c := quiet(uint64(i), schemes["xor 2+1"])
			c.OSDs, c.Hosts, c.Clients, c.Duration, c.Commit = 5, 5, 1, 15*time.Second, meta.CommitNone
			c.Global["immediate_commit"], c.Global["recovery_queue_depth"] = c.Commit.String(), 16
			c.Work.Think = 100 * time.Millisecond
			off := 3*time.Second + 20*time.Millisecond + time.Duration(i*i)*10*time.Millisecond
			judge(t, c, Plan{
				{At: 2 * time.Second, Heal: 15 * time.Second, Kind: Out, A: 1 + i%5},
				{At: off, Heal: off + time.Second, Kind: PowerLoss, A: 1 + i%5},
			})
		})
	}
}

// A client that does not know that a PG has moved reads from an OSD that it has
// left (localized reads, wire.md §11): it must be refused.
func TestLocalReadsWhereNothingIsLeft(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			pool := schemes["replicated 2"]
			pool.LocalReads = "random"
			c := quiet(uint64(i), pool)
			c.OSDs, c.Hosts, c.Duration = 5, 5, 20*time.Second
			c.KVLatency, c.Work.Think = 200*time.Millisecond, 5*time.Millisecond
			judge(t, c, Plan{
				{At: time.Second, Heal: 18 * time.Second, Kind: KVAnswers, A: c.OSDs + c.Monitors + 1 + i%2},
				{At: 2 * time.Second, Heal: 16 * time.Second, Kind: Out, A: 1 + i%5},
			})
		})
	}
}
