package crashtest

import (
	"errors"
	"fmt"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sim"
	"vitastor/osd/store"
)

// Limits of virtual time: an operation that takes longer hangs.
const (
	openLimit = 10 * time.Minute
	opLimit   = 10 * time.Minute
)

// rig is a world with the devices of a case and one engine on them.
type rig struct {
	h       *Harness
	c       *Config
	w       *sim.World
	node    *sim.Node
	devices []*sim.Disk
	handles []env.Disk
	gates   []*gate

	engine   Engine
	opened   bool
	openErr  error
	fatal    error  // what OnFatal was told
	err      error  // the first thing that is wrong
	activity uint64 // requests that change devices, submitted or done
	quiet    bool   // faults are injected: fatal errors are expected
}

// newRig makes a world in which the devices hold images (nil = zeroes).
func (h *Harness) newRig(c *Config, seed uint64, images []*sim.Image) *rig {
	r := &rig{h: h, c: c, w: sim.NewWorld(seed, sim.Options{Log: h.engineLog})}
	r.node = r.w.NewNode("osd")
	for i, size := range c.DeviceBytes {
		dc := sim.DiskConfig{
			SizeBytes: size + h.ExtraBytes, BlockBytes: c.SectorBytes, AtomicBytes: c.AtomicBytes, TearBytes: c.SectorBytes,
			VolatileCache:           c.Caching == Cached || c.Caching == CachedData && i == 0,
			DiscardGranularityBytes: c.DiscardUnit,
			Overlap:                 sim.OverlapIgnore,
		}
		if images != nil {
			dc.Image = images[i]
		}
		d := r.node.AddDisk(fmt.Sprintf("disk%d", i), dc)
		if c.Slow > 1 {
			d.SetFaults(sim.DiskFaults{Slowdown: c.Slow})
		}
		r.devices = append(r.devices, d)
	}
	r.node.Do(func(e *env.Env) {
		for i := range r.devices {
			handle, err := e.Storage.OpenDisk(fmt.Sprintf("disk%d", i), env.DiskOptions{})
			if err != nil {
				panic(err)
			}
			r.handles = append(r.handles, handle)
		}
	})
	return r
}

// start begins to open an engine on the devices.
func (r *rig) start() {
	r.engine, r.opened, r.openErr, r.fatal = nil, false, nil, nil
	r.node.Do(func(e *env.Env) {
		r.gates = nil
		disks := make([]env.Disk, len(r.handles))
		for i, handle := range r.handles {
			if r.h.Wrap != nil {
				handle = r.h.Wrap(e, handle)
			}
			g := &gate{rig: r, number: i, disk: handle, env: e}
			r.gates = append(r.gates, g)
			disks[i] = g
		}
		c := r.c.Store
		c.OnFatal = func(err error) { r.fatal = errors.Join(r.fatal, err) }
		r.h.Open(e, store.Disks{Data: disks[0], Meta: disks[r.c.MetaDevice], Buffer: disks[r.c.BufferDevice]}, c,
			func(s Engine, err error) { r.engine, r.openErr, r.opened = s, err, true })
	})
}

// open starts an engine and waits for it.
func (r *rig) open() error {
	r.start()
	if err := r.runUntil(openLimit, "start-up", func() bool { return r.opened }); err != nil {
		return err
	}
	if r.openErr != nil {
		return fmt.Errorf("start-up refused: %w", r.openErr)
	}
	return nil
}

// runUntil lets the world go on until cond holds.
func (r *rig) runUntil(limit time.Duration, what string, cond func() bool) error {
	end := r.w.Now() + limit
	for !cond() {
		if r.w.Idle() || r.w.Now() > end {
			return fmt.Errorf("%s hangs at %v (nothing more to happen: %v)", what, r.w.Now(), r.w.Idle())
		}
		r.w.Step()
		if err := r.broken(); err != nil {
			return err
		}
	}
	return nil
}

// broken is what went wrong in this world.
func (r *rig) broken() error {
	if r.err == nil && r.fatal != nil && !r.quiet {
		r.err = fmt.Errorf("OnFatal on healthy disks: %w", r.fatal)
	}
	return r.err
}

func (r *rig) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *rig) tracef(format string, args ...any) {
	if r.h.log != nil {
		r.h.logf("        %8d us  "+format, append([]any{r.w.Now().Microseconds()}, args...)...)
	}
}

// close stops the engine and gives back its memory.
func (r *rig) close() error {
	if r.engine == nil {
		return nil
	}
	r.h.Stats.addPaths(r.engine.Counters())
	var closeErr error
	closed := false
	r.node.Do(func(*env.Env) { r.engine.Close(func(err error) { closeErr, closed = err, true }) })
	r.engine = nil
	if err := r.runUntil(opLimit, "Close", func() bool { return closed }); err != nil {
		return err
	}
	if closeErr != nil {
		return fmt.Errorf("Close: %w", closeErr)
	}
	return nil
}

// kill ends the engine as kill -9 does: what it had submitted may still happen,
// nothing else. The world and the caches of the devices go on.
func (r *rig) kill() {
	for _, g := range r.gates {
		g.killed = true
	}
	r.abandon()
	r.fatal = nil
}

// abandon closes an engine of which nothing more is wanted, as far as possible.
func (r *rig) abandon() {
	r.quiet = true
	_ = r.close() // whatever it says, nobody needs it any more
	r.quiet, r.err = false, nil
}

// powerLoss returns n times what the devices may hold after a power loss now.
func (r *rig) powerLoss(n int) [][]*sim.Image {
	return r.crashImages(n, (*sim.Disk).PowerLossImages)
}

// crashImages is powerLoss for any kind of crash.
func (r *rig) crashImages(n int, of func(*sim.Disk, int) []*sim.Image) [][]*sim.Image {
	out := make([][]*sim.Image, n)
	for _, d := range r.devices {
		for i, m := range of(d, n) {
			out[i] = append(out[i], m)
		}
	}
	return out
}
