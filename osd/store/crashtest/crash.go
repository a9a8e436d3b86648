package crashtest

import (
	"fmt"

	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// branchDepthMax limits crashes within branches.
const branchDepthMax = 3

// crashPoint tries what a crash at this moment may leave: n power losses, and
// with the given percentage a kill instead.
func (r *runner) crashPoint(n, killPercent int) error {
	if r.h.exhausted() {
		return nil
	}
	kill := chance(r.rng, killPercent)
	of, what := (*sim.Disk).PowerLossImages, "power loss"
	if kill {
		of, what = (*sim.Disk).CrashImages, "kill"
	}
	r.h.Stats.Moments++
	for i, images := range r.rig.crashImages(n, of) {
		if err := r.verify(images, fmt.Sprintf("%s: image %d of %d", what, i+1, n)); err != nil {
			return fmt.Errorf("after a %s at %v of life %d (image %d of %d):\n%w", what, r.rig.w.Now(), r.life, i+1, n, err)
		}
	}
	return nil
}

// verify reads the images as another daemon would, starts an engine on them in
// a world of its own, and compares both with what is permitted.
func (r *runner) verify(images []*sim.Image, what string) error {
	r.h.Stats.Points++
	log, _ := r.h.log.(*tailBuffer)
	mark := 0
	if log != nil {
		mark = log.mark()
	}
	r.logf("%s", what)
	err := r.verifyImages(images)
	if err == nil && log != nil {
		log.forget(mark) // nothing to see there
	}
	return err
}

func (r *runner) verifyImages(images []*sim.Image) error {
	space, err := r.checkImages(images)
	if err != nil {
		return fmt.Errorf("read by layout.LoadImage: %w", err)
	}
	g := r.h.newRig(r.c, r.rng.Uint64(), images)
	if err := r.restart(g); err != nil {
		return err
	}
	if space != nil && r.c.Caching == WriteThrough {
		if err := r.sameSpace(g, space); err != nil {
			return err
		}
	}
	left, err := r.survivors(g)
	if err != nil {
		return err
	}
	if chance(r.rng, r.policy.goOn) && r.depth < branchDepthMax {
		return r.branch(g, left)
	}
	return g.close()
}

// restart opens an engine on what a crash left; perhaps it crashes again while
// it starts, and what that leaves has to be as good.
func (r *runner) restart(g *rig) error {
	crashes := 0
	if chance(r.rng, r.policy.inRecovery) && r.depth < branchDepthMax {
		crashes = 1 + r.rng.IntN(3)
	}
	g.start()
	seen := g.activity
	for events := 0; !g.opened; events++ {
		if g.w.Idle() || g.w.Now() > openLimit {
			return fmt.Errorf("start-up hangs at %v", g.w.Now())
		}
		g.w.Step()
		if err := g.broken(); err != nil {
			return fmt.Errorf("start-up: %w", err)
		}
		// It is most interesting where start-up repairs something.
		if crashes > 0 && (g.activity != seen && r.rng.IntN(2) == 0 || r.rng.IntN(30) == 0) {
			crashes--
			if err := r.crashInRecovery(g); err != nil {
				return err
			}
		}
		seen = g.activity
	}
	r.h.Stats.Reopens++
	if g.openErr != nil {
		return fmt.Errorf("start-up refused: %w", g.openErr)
	}
	return nil
}

func (r *runner) crashInRecovery(g *rig) error {
	r.h.Stats.RecoveryCrashes++
	r.depth++
	defer func() { r.depth-- }()
	if err := r.verify(g.powerLoss(1)[0], "power loss while starting"); err != nil {
		return fmt.Errorf("after another power loss while starting, at %v:\n%w", g.w.Now(), err)
	}
	return nil
}

// sameSpace compares the accounting of an engine that has just started with
// what LoadImage found.
func (r *runner) sameSpace(g *rig, space map[meta.Inode]uint64) error {
	var err error
	g.engine.Inodes(func(i meta.Inode, bytes uint64) bool {
		if space[i] != bytes {
			err = fmt.Errorf("inode %v: %d bytes accounted, layout.LoadImage says %d", i, bytes, space[i])
		}
		delete(space, i)
		return true
	})
	for i, bytes := range space {
		if bytes != 0 {
			err = fmt.Errorf("inode %v: nothing accounted, layout.LoadImage says %d", i, bytes)
		}
	}
	return err
}

// survivors compares an engine that was started after a crash with what is
// permitted, and tells for each object which of that it is.
func (r *runner) survivors(g *rig) ([]candidate, error) {
	found, err := g.inspect(r.objs, r.pgCount)
	if err != nil {
		return nil, err
	}
	left := make([]candidate, len(r.objs))
	for i, o := range r.objs {
		if err := found[i].err; err != nil {
			return nil, err
		}
		if left[i], err = o.match(found[i].state); err != nil {
			return nil, err
		}
	}
	if err := g.engine.Check(); err != nil {
		return nil, fmt.Errorf("Check: %w", err)
	}
	return left, nil
}

// branch continues the history on what a crash left, for a few steps, and lets
// it end there.
func (r *runner) branch(g *rig, left []candidate) error {
	r.h.Stats.Branches++
	b := &runner{h: r.h, c: r.c, rng: r.rng, rig: g, pgCount: r.pgCount, depth: r.depth + 1, life: 1, seeds: r.seeds,
		policy: policy{perMille: 20, images: 1, inRecovery: 20}}
	for i, o := range r.objs {
		p := o.clone()
		p.afterCrash(left[i], true)
		b.objs = append(b.objs, p)
	}
	script := NewScript(r.rng, 4+r.rng.IntN(12))
	for i := range script {
		if script[i].Kind > StepSettle {
			script[i].Kind = StepSettle
		}
		if err := b.execute(&script[i]); err != nil {
			return fmt.Errorf("going on after it: %w", err)
		}
	}
	if err := b.end(); err != nil {
		return fmt.Errorf("going on after it: %w", err)
	}
	return nil
}

// powerLoss ends a life.
func (r *runner) powerLoss() error {
	images := r.rig.powerLoss(1)[0]
	r.logf("POWER LOSS")
	if _, err := r.checkImages(images); err != nil {
		return fmt.Errorf("after a power loss, read by layout.LoadImage: %w", err)
	}
	r.life++
	r.rig.abandon()
	r.rig = r.h.newRig(r.c, r.rng.Uint64(), images)
	return r.nextLife("power loss", true)
}

// kill ends a life while the caches of the devices live on.
func (r *runner) kill() error {
	r.logf("KILL -9")
	r.life++
	r.rig.kill()
	return r.nextLife("kill", r.c.Caching == WriteThrough)
}

// nextLife starts an engine after a crash and continues with what is there.
func (r *runner) nextLife(what string, durable bool) error {
	r.seen = r.rig.activity
	r.inFlight = 0
	if err := r.restart(r.rig); err != nil {
		return fmt.Errorf("after a %s: %w", what, err)
	}
	left, err := r.survivors(r.rig)
	if err != nil {
		return fmt.Errorf("after a %s:\n%w", what, err)
	}
	for i, o := range r.objs {
		o.afterCrash(left[i], durable)
	}
	r.logf("STARTED")
	return nil
}

// stop ends a life by a clean stop, after which everything is durable.
func (r *runner) stop(compact bool) error {
	if err := r.settle(); err != nil {
		return err
	}
	if compact {
		if err := r.compacted(); err != nil {
			return err
		}
	}
	r.logf("STOP")
	r.life++
	if err := r.rig.close(); err != nil {
		return err
	}
	images := r.rig.powerLoss(1)[0]
	for _, o := range r.objs {
		if seq, ok := o.lastAcked(); ok {
			o.settleThrough(seq)
		}
	}
	r.rig = r.h.newRig(r.c, r.rng.Uint64(), images)
	return r.nextLife("clean stop", true)
}

// compacted compacts everything: then every object without unstable versions
// has exactly one block, and the disk is fit to be given to another daemon.
func (r *runner) compacted() error {
	r.submitSync()
	if err := r.settle(); err != nil {
		return err
	}
	r.submitCompact()
	if err := r.settle(); err != nil {
		return err
	}
	found, err := r.rig.inspect(r.objs, r.pgCount)
	if err != nil {
		return fmt.Errorf("after compaction: %w", err)
	}
	objects, open := uint64(0), false
	for i, o := range r.objs {
		if !o.live.equal(found[i].state) {
			return fmt.Errorf("after compaction: object %d (%v) is %v\n  expected: %v", i, o.id, found[i].state, o.live)
		}
		if len(o.live) > 0 {
			objects++
		}
		open = open || len(o.live) > 0 && !o.live.newest().Stable
	}
	t := r.rig.engine.Totals()
	if used := t.TotalBlocks - t.FreeBlocks; !open && used != objects || used < objects {
		return fmt.Errorf("after compaction: %d objects take %d blocks", objects, used)
	}
	if !open && t.BufferUsed != 0 {
		return fmt.Errorf("after compaction: %d bytes of the buffer area are still in use", t.BufferUsed)
	}
	for _, o := range r.objs { // COMPACT leaves everything durable: SYNC came first
		if seq, ok := o.lastAcked(); ok {
			o.settleThrough(seq)
		}
	}
	if open {
		return nil
	}
	return r.checkHandover(r.rig.powerLoss(1)[0])
}
