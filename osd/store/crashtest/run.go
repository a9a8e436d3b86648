package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
	"vitastor/osd/store"
)

// policy says how densely crashes are tried.
type policy struct {
	perMille   int // chance of a disk event to be a crash point
	images     int // of each crash point
	inRecovery int // percent: crash again during the start-up after it
	goOn       int // percent: continue the history on what is left
}

// runner drives one engine through one history, or a branch of it.
type runner struct {
	h       *Harness
	c       *Config
	rng     *rand.Rand
	rig     *rig
	objs    []*object
	pgCount uint32
	policy  policy
	depth   int // 0 = the history itself, more = a branch after a crash

	life     int // engines started so far; answers of dead ones are ignored
	inFlight int
	err      error
	seen     uint64 // rig.activity at the last crash point
	seeds    *uint64
	// sickReads: reads may fail with EIO, because disks do.
	sickReads bool
}

// newRunner prepares the history of a case.
func (h *Harness) newRunner(c *Config, rng *rand.Rand, p policy) *runner {
	r := &runner{h: h, c: c, rng: rng, policy: p, pgCount: uint32(1 + rng.IntN(3)), seeds: new(uint64)}
	*r.seeds = 100
	for i := range 2 * c.Objects {
		pool, stripe := replicatedPool, uint64(i)*uint64(c.Store.BlockBytes)
		if i >= c.Objects {
			j := uint64(i - c.Objects)
			pool, stripe = ecPool, j/2*2*uint64(c.Store.BlockBytes)|j%2
		}
		id := meta.ObjectID{Inode: meta.MakeInode(pool, uint64(1+i%2)), Stripe: stripe}
		r.objs = append(r.objs, newObject(i, id, c.granules(), c.bitmapBytes()))
	}
	return r
}

// run is the whole history: script on blank disks, then a last crash.
func (r *runner) run(script Script, images []*sim.Image) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	r.rig = r.h.newRig(r.c, r.rng.Uint64(), images)
	if err := r.begin(); err != nil {
		return err
	}
	for i := range script {
		if err := r.execute(&script[i]); err != nil {
			return err
		}
	}
	return r.end()
}

// end lets everything finish and compares once more.
func (r *runner) end() error {
	if err := r.settle(); err != nil {
		return err
	}
	if err := r.compareLive("at the end"); err != nil {
		return err
	}
	if r.depth == 0 {
		if err := r.compacted(); err != nil {
			return err
		}
	}
	if err := r.crashPoint(1, 100); err != nil {
		return err
	}
	return r.rig.close()
}

// begin opens an engine for the next life. Crashes while it opens a blank disk
// are crash points like others.
func (r *runner) begin() error {
	r.life++
	r.inFlight = 0
	r.rig.start()
	for !r.rig.opened {
		if r.rig.w.Idle() || r.rig.w.Now() > openLimit {
			return fmt.Errorf("start-up hangs")
		}
		if err := r.step(); err != nil {
			return err
		}
	}
	if r.rig.openErr != nil {
		return fmt.Errorf("start-up refused: %w", r.rig.openErr)
	}
	if err := r.rig.reshard(r.pgCount); err != nil {
		return err
	}
	return nil
}

// step lets one event happen, and perhaps the power fail.
func (r *runner) step() error {
	r.rig.w.Step()
	r.h.Stats.Events++
	if r.err = errors.Join(r.err, r.rig.broken()); r.err != nil {
		return r.err
	}
	if r.rig.activity == r.seen {
		return nil
	}
	r.seen = r.rig.activity
	r.h.Stats.DiskEvents++
	if r.rng.IntN(1000) < r.policy.perMille {
		return r.crashPoint(r.policy.images, 20)
	}
	return nil
}

// until steps until cond holds.
func (r *runner) until(what string, cond func() bool) error {
	end := r.rig.w.Now() + opLimit
	for !cond() {
		if r.rig.w.Idle() || r.rig.w.Now() > end {
			return fmt.Errorf("%s: hangs at %v with %d operations in flight", what, r.rig.w.Now(), r.inFlight)
		}
		if err := r.step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) settle() error {
	return r.until("waiting for all operations", func() bool { return r.inFlight == 0 })
}

// execute does one step of a script.
func (r *runner) execute(s *Step) error {
	for range s.Gap {
		if r.inFlight > 0 && !r.rig.w.Idle() {
			if err := r.step(); err != nil {
				return err
			}
		}
	}
	if s.Kind < StepSettle {
		if err := r.until("waiting for a slot", func() bool { return r.inFlight < r.c.Depth }); err != nil {
			return err
		}
	}
	switch s.Kind {
	case StepWrite, StepDelete:
		return r.stepMutation(s)
	case StepStabilize:
		return r.stepItems(s, Stabilize)
	case StepRollback:
		return r.stepItems(s, Rollback)
	case StepSync:
		r.submitSync()
	case StepRead:
		r.submitRead(s)
	case StepStat:
		r.checkStat(s)
	case StepList:
		r.submitList(s)
	case StepMisuse:
		return r.stepMisuse(s)
	case StepCompact:
		r.submitCompact()
	case StepReshard:
		r.stepReshard(s)
	case StepSettle:
		return r.settle()
	case StepPowerLoss:
		return r.powerLoss()
	case StepKill:
		return r.kill()
	case StepStop:
		return r.stop(s.A%2 == 0)
	}
	return r.err
}

// free waits until no mutation of o is in flight: the primary has at most one
// (rule 5).
func (r *runner) free(o *object) error {
	return r.until(fmt.Sprintf("waiting for object %d", o.index), func() bool { return o.inFlight == nil })
}

// submit gives an operation to the engine; done is its answer, unless the
// engine dies first.
func (r *runner) submit(op *store.Op, text string, done func(*store.Op)) {
	r.inFlight++
	r.h.Stats.Ops++
	life, g := r.life, r.rig
	if r.h.log != nil {
		r.logf("%s", text)
	}
	buf := op.Buf
	answered := false
	op.Done = func(op *store.Op) {
		if answered {
			g.fail(fmt.Errorf("%s: answered twice", text))
			return
		}
		answered = true
		if life == r.life {
			r.inFlight--
			if r.h.log != nil {
				r.logf("    -> %s: %s", text, resultText(op))
			}
			done(op)
		}
		r.h.giveBack(buf)
	}
	r.rig.node.Do(func(*env.Env) { r.rig.engine.Submit(op) })
}

func resultText(op *store.Op) string {
	if op.Err != 0 {
		return op.Err.Error()
	}
	return fmt.Sprintf("ok v%d", op.Version)
}

func (r *runner) failf(format string, args ...any) {
	r.err = errors.Join(r.err, fmt.Errorf(format, args...))
}

func (r *runner) logf(format string, args ...any) {
	if r.h.log != nil {
		indent := "                                "[:4*min(r.depth, 8)]
		r.h.logf("%slife %d %6d us  %s", indent, r.life, r.rig.w.Now().Microseconds(), fmt.Sprintf(format, args...))
	}
}

// compareLive compares what a running engine at rest says with the model.
func (r *runner) compareLive(when string) error {
	found, err := r.rig.inspect(r.objs, r.pgCount)
	if err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	for i, o := range r.objs {
		if err := found[i].err; err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		if !o.live.equal(found[i].state) {
			return fmt.Errorf("%s: object %d (%v) is %v\n  expected: %v", when, i, o.id, found[i].state, o.live)
		}
	}
	if err := r.rig.engine.Check(); err != nil {
		return fmt.Errorf("%s: Check: %w", when, err)
	}
	return nil
}
