package crashtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
	"vitastor/internal/sim"
	"vitastor/osd/store"
)

// Stats count what a Harness has done.
type Stats struct {
	Cases           uint64
	Points          uint64 // crashes of which the result was started and compared
	Moments         uint64 // different moments at which they were taken
	Reopens         uint64
	RecoveryCrashes uint64 // ... among them while starting
	Branches        uint64 // histories that went on after one
	Loads           uint64 // images read by layout.LoadImage

	Ops, Writes, Reads, Lists, Syncs, ENOSPC uint64
	Events, DiskEvents                       uint64

	// Paths are what the engines counted: rare paths that were reached.
	Paths map[string]uint64
}

func (s *Stats) addPaths(c store.Counters) {
	if s.Paths == nil {
		s.Paths = map[string]uint64{}
	}
	for name, n := range map[string]uint64{
		"big writes": c.BigWrites, "small writes": c.SmallWrites, "in-place writes": c.IntentWrites,
		"compactions": c.Compactions, "compactions given up": c.CompactionsGivenUp, "superblock writes": c.SuperblockWrites,
		"waits for space": c.SpaceWaits, "ENOSPC": c.ENOSPCs, "discards": c.Discards, "read retries": c.ReadRetries,
		"deletes": c.Deletes, "stabilized": c.Stabilized, "rolled back": c.RolledBack, "disk syncs": c.DiskSyncs,
	} {
		s.Paths[name] += n
	}
}

// Unreached are the paths that no engine took.
func (s *Stats) Unreached() (names []string) {
	for name, n := range s.Paths {
		if n == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Add sums up.
func (s *Stats) Add(t *Stats) {
	for _, p := range []struct{ to, from *uint64 }{
		{&s.Cases, &t.Cases}, {&s.Points, &t.Points}, {&s.Moments, &t.Moments}, {&s.Reopens, &t.Reopens},
		{&s.RecoveryCrashes, &t.RecoveryCrashes}, {&s.Branches, &t.Branches}, {&s.Loads, &t.Loads},
		{&s.Ops, &t.Ops}, {&s.Writes, &t.Writes}, {&s.Reads, &t.Reads}, {&s.Lists, &t.Lists}, {&s.Syncs, &t.Syncs},
		{&s.ENOSPC, &t.ENOSPC}, {&s.Events, &t.Events}, {&s.DiskEvents, &t.DiskEvents},
	} {
		*p.to += *p.from
	}
	if s.Paths == nil {
		s.Paths = map[string]uint64{}
	}
	for name, n := range t.Paths {
		s.Paths[name] += n
	}
}

func (s *Stats) String() string {
	return fmt.Sprintf("%d cases: %d crash points (%d moments, %d while starting), %d starts, %d histories continued, %d images read; "+
		"%d operations (%d writes, %d ENOSPC, %d reads, %d lists, %d syncs), %d events (%d of disks)",
		s.Cases, s.Points, s.Moments, s.RecoveryCrashes, s.Reopens, s.Branches, s.Loads,
		s.Ops, s.Writes, s.ENOSPC, s.Reads, s.Lists, s.Syncs, s.Events, s.DiskEvents)
}

// Harness runs cases with one engine. It belongs to one goroutine.
type Harness struct {
	Open Opener
	// Wrap puts something between an engine and its devices; may be nil.
	Wrap func(*env.Env, env.Disk) env.Disk
	// NoLayout: the engine has a disk format of its own.
	NoLayout bool
	// ExtraBytes is space of devices behind the areas.
	ExtraBytes int64
	// PointsMax stops crashing (not the history) when Stats.Points reaches it;
	// 0 = no limit.
	PointsMax uint64
	Stats     Stats

	log       io.Writer // the history in words; nil = not formatted
	engineLog io.Writer
	buffers   map[int][][]byte // idle ones by size
	mapped    [][]byte         // all
	areas     [3][]byte
}

// Case is one history on one kind of disks.
type Case struct {
	Seed, Number uint64
	Config       *Config
	Script       Script
	Dense        bool // every event is a crash point, with several images
	Salt         uint64
}

// NewCase draws case number of a seed.
func NewCase(seed, number uint64) *Case {
	d := rand.New(rand.NewPCG(seed, number))
	c := &Case{Seed: seed, Number: number, Config: NewConfig(d)}
	c.Script = NewScript(d, 20+d.IntN(120))
	return c
}

// Run runs a case; the error is the first thing that is wrong.
func (h *Harness) Run(c *Case) error {
	h.Stats.Cases++
	rng := rand.New(rand.NewPCG(c.Seed^0x5ca1ab1e, c.Number<<16^c.Salt))
	p := policy{perMille: oneOf(rng, 100, 300, 1000), images: oneOf(rng, 1, 1, 2), inRecovery: oneOf(rng, 0, 10, 40), goOn: oneOf(rng, 0, 2, 10)}
	if c.Dense {
		p = policy{perMille: 1000, images: 4, inRecovery: 20}
	}
	defer h.freeBuffers()
	return h.newRunner(c.Config, rng, p).run(c.Script, nil)
}

// freeBuffers ends the use of all buffers, those that abandoned engines still
// had included: their worlds are over.
func (h *Harness) freeBuffers() {
	for _, b := range h.mapped {
		pinned.Free(b)
	}
	h.mapped, h.buffers = nil, nil
}

func (h *Harness) exhausted() bool { return h.PointsMax > 0 && h.Stats.Points >= h.PointsMax }

func (h *Harness) logf(format string, args ...any) {
	fmt.Fprintln(h.log, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// buffer returns memory that a disk accepts, with n bytes.
func (h *Harness) buffer(n int) []byte {
	size := (n + 4095) &^ 4095
	if free := h.buffers[size]; len(free) > 0 {
		h.buffers[size] = free[:len(free)-1]
		return free[len(free)-1][:n]
	}
	b, err := pinned.AlignedBuffer(size)
	if err != nil {
		panic(err)
	}
	h.mapped = append(h.mapped, b)
	return b[:n:size]
}

func (h *Harness) giveBack(b []byte) {
	if cap(b) == 0 {
		return
	}
	if h.buffers == nil {
		h.buffers = map[int][][]byte{}
	}
	h.buffers[cap(b)] = append(h.buffers[cap(b)], b[:cap(b)])
}

// area copies a part of an image into scratch memory number i.
func (h *Harness) area(i int, m *sim.Image, off, n int64) []byte {
	if int64(cap(h.areas[i])) < n {
		h.areas[i] = make([]byte, n)
	}
	b := h.areas[i][:n]
	if _, err := m.ReadAt(b, off); err != nil {
		panic(err)
	}
	return b
}
