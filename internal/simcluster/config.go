package simcluster

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/meta"
)

// Config is a world before it lives. Everything is drawn from the seed, and may
// be changed by a scenario before the run.
type Config struct {
	Seed     uint64
	Duration time.Duration // with faults; start and end take longer

	OSDs       int // numbers 1..OSDs
	Hosts      int // OSD i is on host (i-1) mod Hosts
	Monitors   int
	Clients    int // nodes
	BlockBytes uint32
	Commit     meta.CommitMode
	Checksums  bool
	DiskBytes  int64
	Writeback  bool // clients have a write-back cache
	Global     map[string]any
	Pools      []PoolConfig
	Work       WorkConfig // Images are filled in by the world
	NetLatency time.Duration
	KVLatency  time.Duration
	// Faults are the kinds that a plan is drawn from; repeated = more often.
	Faults []FaultKind
	Every  time.Duration // mean time between faults
	// DownMax is how many OSDs may be dead, stopped or isolated at once.
	DownMax int
	RotOSD  int // the only OSD whose media decay; 0 = none

	extraPool bool // pool 9 exists
}

// extraPoolID is a pool that comes and goes, without data.
const extraPoolID meta.PoolID = 9

// PoolConfig is one pool.
type PoolConfig struct {
	ID         meta.PoolID
	Scheme     string // replicated, ec, xor
	Size       int    // pg_size
	Parity     int    // parity_chunks of ec and xor
	MinSize    int
	PGs        int
	LocalReads string // replicated: primary, nearest, random
	Images     []ImageConfig
}

// ImageConfig is one image; number in the pool from 1.
type ImageConfig struct {
	Number            uint64
	Objects           int
	Parent            uint64 // number of the parent image in the same pool; 0 = none
	Frozen            bool   // a parent: written once before the load begins
	Deletes, Compares bool
	Owner             int // client node, -1 = all
}

// clone is a copy that a run may change.
func (c *Config) clone() *Config {
	d := *c
	d.Pools = slices.Clone(c.Pools)
	return &d
}

// Replicated tells whether chunks are copies.
func (p *PoolConfig) Replicated() bool { return p.Scheme == "replicated" }

// DataChunks is k.
func (p *PoolConfig) DataChunks() int {
	if p.Replicated() {
		return 1
	}
	return p.Size - p.Parity
}

// ObjectBytes is the image range of one object.
func (c *Config) ObjectBytes(p *PoolConfig) uint64 {
	return uint64(c.BlockBytes) * uint64(p.DataChunks())
}

// PerObject is the number of granules in an object.
func (c *Config) PerObject(p *PoolConfig) int { return int(c.ObjectBytes(p) / GranuleBytes) }

// Lazy tells whether acknowledged writes may be lost before a sync.
func (c *Config) Lazy() bool { return c.Commit != meta.CommitAll || c.Writeback }

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// NewConfig draws a world.
func NewConfig(seed uint64, duration time.Duration) *Config {
	rng := rand.New(rand.NewPCG(seed, 0x5ea))
	c := &Config{Seed: seed, Duration: duration}
	c.OSDs = 3 + rng.IntN(5)
	c.Hosts = c.OSDs
	if c.OSDs >= 6 && rng.IntN(2) == 0 {
		c.Hosts = 3
	}
	c.Monitors = 1 + rng.IntN(2)
	c.Clients = 1 + rng.IntN(3)
	c.BlockBytes = pick[uint32](rng, 32<<10, 32<<10, 64<<10, 128<<10)
	c.Commit = pick(rng, meta.CommitAll, meta.CommitAll, meta.CommitNone, meta.CommitSmall)
	c.Checksums = rng.IntN(2) == 0
	c.DiskBytes = 64 << 20
	c.Writeback = c.Commit != meta.CommitAll && rng.IntN(4) == 0
	c.NetLatency = pick(rng, 0, 0, 500*time.Microsecond)
	c.KVLatency = pick(rng, 0, 0, 5*time.Millisecond)
	c.drawGlobal(rng)
	calm := rng.IntN(4) == 0
	for id := range 1 + rng.IntN(2) {
		c.Pools = append(c.Pools, c.drawPool(rng, meta.PoolID(id+1)))
	}
	c.Work = WorkConfig{Workers: 1 + rng.IntN(4), Think: time.Duration(pick(rng, 5, 20, 50, 150)) * time.Millisecond,
		Reads: 10, Writes: 10, Deletes: rng.IntN(2), Syncs: pick(rng, 1, 4), BigEvery: 15}
	c.Every = time.Duration(pick(rng, 500, 1000, 2000, 4000, 8000)) * time.Millisecond
	c.DownMax = pick(rng, 1, 1, 2, 3)
	c.Faults = calmFaults
	switch {
	case !calm:
		c.drawFaults(rng)
	case rng.IntN(3) == 0 && !c.Writeback:
		c.DiskBytes = 4096 + bufferSize + metaSize + 300*int64(c.BlockBytes)
		c.Faults = append(slices.Clone(c.Faults), Full, Full, Full)
	}
	return c
}

func (c *Config) drawGlobal(rng *rand.Rand) {
	c.Global = map[string]any{"block_size": c.BlockBytes, "bitmap_granularity": GranuleBytes, "immediate_commit": c.Commit.String(),
		"osd_out_time": pick(rng, 600, 600, 20)}
	if rng.IntN(3) == 0 {
		c.Global["recovery_queue_depth"] = pick(rng, 4, 16)
	}
	if rng.IntN(4) == 0 {
		c.Global["enable_pg_locks"] = true
	}
	if c.Writeback {
		c.Global["client_enable_writeback"] = true
		c.Global["client_writeback_allowed"] = true
	}
}

// drawPool chooses a scheme that the number of hosts can hold.
func (c *Config) drawPool(rng *rand.Rand, id meta.PoolID) PoolConfig {
	p := PoolConfig{ID: id, Scheme: "replicated", Size: 2, MinSize: 1, PGs: 1 + rng.IntN(8), LocalReads: "primary"}
	switch x := rng.IntN(6); {
	case x == 0 && c.Hosts >= 6:
		p.Scheme, p.Size, p.Parity, p.MinSize = "ec", 6, 2, pick(rng, 4, 5)
	case x <= 1:
		p.Scheme, p.Size, p.Parity, p.MinSize = "ec", 3, 1, 2
	case x == 2 && c.Hosts >= 4:
		p.Scheme, p.Size, p.Parity, p.MinSize = "ec", 4, 2, pick(rng, 2, 3)
	case x == 3:
		p.Scheme, p.Size, p.Parity, p.MinSize = "xor", 3, 1, 2
	case x == 4:
		p.Size, p.MinSize = 3, pick(rng, 1, 2)
	}
	if p.Scheme == "replicated" && rng.IntN(4) == 0 {
		p.LocalReads = pick(rng, "nearest", "random")
	}
	p.Images = []ImageConfig{
		{Number: 1, Objects: 1 + rng.IntN(3), Owner: -1, Compares: rng.IntN(2) == 0},
		{Number: 2, Objects: 2 + rng.IntN(6), Owner: rng.IntN(c.Clients)},
	}
	if rng.IntN(2) == 0 {
		p.Images = append(p.Images, ImageConfig{Number: 3, Objects: 2, Owner: -1, Deletes: true})
	}
	if rng.IntN(3) == 0 && chains {
		p.Images = append(p.Images, ImageConfig{Number: 4, Objects: 3, Frozen: true, Owner: -1},
			ImageConfig{Number: 5, Objects: 3, Parent: 4, Owner: -1, Deletes: true})
	}
	return p
}

// calmFaults are those during which every OSD takes part in everything.
var calmFaults = []FaultKind{SlowNode, SlowNet, SlowDisk, Stall, ClockJump, ClockDrift, MonitorKill, ClientKill, Out, Reweight, PGCount, PGSize,
	PoolAdd}

// chains: images with parents are part of the worlds.
const chains = true

// drawFaults chooses which kinds of faults this world has: all of them in some
// worlds, a few in others, so that each is also seen alone.
func (c *Config) drawFaults(rng *rand.Rand) {
	groups := [][]FaultKind{
		{Kill, KillSilent, PowerLoss, Blackout, Stop},
		{Pause, SlowNode, KillSilent, KVExile},
		{Isolate, Cut, CutOneWay, Reset, Blackhole, Loss, SlowNet},
		{SlowDisk, Stall, PowerLoss},
		{KVDown, KVCut, KVAnswers, KVExile, KVFlaky, KVCompact},
		{ClockJump, ClockDrift, Kill},
		{MonitorKill, ClientKill, Kill},
		{Out, Reweight, PGCount, PGSize, PoolAdd, Kill, Stop},
	}
	for _, g := range groups {
		if rng.IntN(2) == 0 {
			c.Faults = append(c.Faults, g...)
		}
	}
	if len(c.Faults) == 0 {
		c.Faults = append(c.Faults, groups[rng.IntN(len(groups))]...)
	}
	if c.Checksums && rng.IntN(4) == 0 {
		c.RotOSD = 1 + rng.IntN(c.OSDs)
		c.Faults = append(c.Faults, BitRot, Latent, DiskErrors)
	}
}

// poolsJSON is config/pools.
func (c *Config) poolsJSON() []byte {
	m := map[string]any{}
	for _, p := range c.Pools {
		o := map[string]any{"name": fmt.Sprintf("pool%d", p.ID), "scheme": p.Scheme, "pg_size": p.Size, "pg_minsize": p.MinSize,
			"pg_count": p.PGs, "failure_domain": "host", "immediate_commit": c.Commit.String(),
			"block_size": c.BlockBytes, "bitmap_granularity": GranuleBytes}
		if p.Scheme == "ec" {
			o["parity_chunks"] = p.Parity
		}
		if p.LocalReads != "primary" {
			o["local_reads"] = p.LocalReads
		}
		m[strconv.Itoa(int(p.ID))] = o
	}
	if c.extraPool {
		m[strconv.Itoa(int(extraPoolID))] = map[string]any{"name": "extra", "scheme": "replicated", "pg_size": 2, "pg_minsize": 1, "pg_count": 3, "failure_domain": "host"}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func (c *Config) globalJSON() []byte {
	b, err := json.Marshal(c.Global)
	if err != nil {
		panic(err)
	}
	return b
}

// String is a line for people.
func (c *Config) String() string {
	s := fmt.Sprintf("seed %d: %d OSDs on %d hosts, %d monitors, %d clients x %d, block %d KiB, commit %v, checksums %v, writeback %v, rot %d, %v",
		c.Seed, c.OSDs, c.Hosts, c.Monitors, c.Clients, c.Work.Workers, c.BlockBytes>>10, c.Commit, c.Checksums, c.Writeback, c.RotOSD, c.Global)
	for _, p := range c.Pools {
		s += fmt.Sprintf("\n  pool %d: %s %d-%d minsize %d, %d PGs, local_reads %s, %d images", p.ID, p.Scheme, p.Size, p.Parity, p.MinSize, p.PGs, p.LocalReads, len(p.Images))
	}
	return s
}
