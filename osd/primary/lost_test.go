package primary

import (
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

type nobody struct{}

func (nobody) Conn(meta.OSDNum) *msgr.Conn { return nil }

type lostOwner map[*sub]int

func (l lostOwner) answered(b *sub) { l[b]++ }

// Several requests of one owner to OSDs that were lost a moment ago: each is
// answered once, and the owner's list stays whole. (It did not: a SYNC could
// send requests twice, or wait for ever.)
func TestSeveralLostRequests(t *testing.T) {
	w := sim.NewWorld(1, sim.Options{})
	owner := lostOwner{}
	var list *sub
	w.NewNode("osd").Do(func(e *env.Env) {
		s := &Server{env: e, peers: nobody{}, config: Config{OSD: 1}}
		s.lostTask.Run = s.failLost
		for osd := meta.OSDNum(5); osd > 1; osd-- {
			b := s.takeSub(owner, osd, 0)
			b.next, list = list, b
		}
		n := 0
		for b := list; b != nil; b = b.next {
			if n++; n > 4 {
				t.Fatal("the list of the owner has no end")
			}
			b.sync()
		}
		if n != 4 || len(owner) != 0 {
			t.Errorf("%d requests were sent, %d answered inside", n, len(owner))
		}
	})
	for b := list; b != nil; b = b.next {
		if owner[b] != 1 || !b.lost || b.ret != wire.EPIPE {
			t.Errorf("OSD %d: %d answers, %v", b.osd, owner[b], b.ret)
		}
	}
	if len(owner) != 4 {
		t.Errorf("%d requests were answered", len(owner))
	}
}
