package pggen

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/meta"
)

// objects are numbered; PGs take them by remainder. 0..59 cover all
// combinations of remainders of up to 6 PGs.
const objects = 60

// holders knows where data of each object may be, and the epochs of it, as a
// cluster would that never moves anything.
type holders struct {
	sets   [objects][][]meta.OSDNum
	epochs [objects]uint64
}

// note adds the present targets.
func (h *holders) note(c *cluster) {
	pgs := c.config().Pool(1)
	for x := range h.sets {
		if n := pgs.Count(); n > 0 {
			set := pgs.PG(meta.PGNum(uint32(x)%n + 1)).OSDSet
			if !slices.ContainsFunc(h.sets[x], func(s []meta.OSDNum) bool { return slices.Equal(s, set) }) && slices.Max(set) > 0 {
				h.sets[x] = append(h.sets[x], set)
			}
		}
	}
}

// check finds data that nobody would look for.
func (h *holders) check(c *cluster) error {
	s := c.state()
	n := s.Config.Pool(1).Count()
	for x := range h.sets {
		if n == 0 {
			return nil
		}
		pg := meta.PG{Pool: 1, Num: meta.PGNum(uint32(x)%n + 1)}
		known := [][]meta.OSDNum{s.Config.Pool(1).PG(pg.Num).OSDSet}
		epoch := uint64(0)
		if history := s.Histories[pg]; history != nil {
			known = append(known, history.OSDSets...)
			epoch = history.Epoch
		}
		if epoch < h.epochs[x] {
			return fmt.Errorf("object %d was written in epoch %d, PG %v has %d", x, h.epochs[x], pg, epoch)
		}
		for _, set := range h.sets[x] {
			if !slices.ContainsFunc(known, func(k []meta.OSDNum) bool { return slices.Equal(k, set) }) {
				return fmt.Errorf("object %d is on %v, PG %v knows %v", x, set, pg, known)
			}
		}
	}
	return nil
}

// TestNothingIsForgotten: through any changes of sets and counts, all places
// where an object may be stay known, epochs never fall, and the number of PGs
// never changes under a running PG.
func TestNothingIsForgotten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t, 5)
		var h holders
		hash := 0
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				hash++
				count := rapid.IntRange(1, 6).Draw(rt, "pg_count")
				c.pools(`{"1":` + pool(count) + `}`)
				c.applyAll(rt, hash, count)
			case 2: // an OSD runs a PG and writes in a new epoch
				n := c.config().Pool(1).Count()
				if n == 0 {
					continue
				}
				pg := meta.PG{Pool: 1, Num: meta.PGNum(rapid.Uint32Range(1, n).Draw(rt, "pg"))}
				c.put(keys.PGState(pg), `{"primary":1,"state":["active"],"peers":[1]}`)
				history := c.state().history(pg)
				history.Epoch += uint64(rapid.IntRange(1, 3).Draw(rt, "epoch"))
				c.put(keys.PGHistory(pg), string(history.EncodeMon()))
				for x := range h.epochs {
					if uint32(x)%n+1 == uint32(pg.Num) {
						h.epochs[x] = history.Epoch
					}
				}
			case 3:
				o := meta.OSDNum(rapid.IntRange(1, 5).Draw(rt, "osd"))
				c.up[o] = !c.up[o]
				outcome, err := Recheck(c.state(), c.decision("", nil))
				if err != nil {
					rt.Fatal(err)
				}
				c.commit(outcome)
			}
			h.note(c)
			if err := h.check(c); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// applyAll distributes at random, and lets OSDs stop PGs when they are told to.
func (c *cluster) applyAll(rt *rapid.T, hash, count int) {
	sets := make([][]meta.OSDNum, count)
	for i := range sets {
		sets[i] = []meta.OSDNum{meta.OSDNum(rapid.IntRange(0, 5).Draw(rt, "a")), meta.OSDNum(rapid.IntRange(0, 5).Draw(rt, "b"))}
	}
	d := c.decision(fmt.Sprint("h", hash), nil)
	d.Placed[1] = &Placed{Sets: sets}
	for range 3 {
		before := c.state()
		switch o := c.apply(d); o.Kind {
		case Writing:
			if n := before.Config.Pool(1).MaxNum(); n != 0 && int(n) != count {
				for _, state := range before.PGStates {
					if !state.Offline() {
						rt.Fatal("the number of PGs was changed while some ran")
					}
				}
			}
			return
		case Pausing:
		case Waiting:
			for _, pg := range o.Running {
				c.remove(keys.PGState(pg))
			}
		}
	}
	rt.Fatal("the distribution is never applied")
}
