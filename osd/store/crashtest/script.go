package crashtest

import "fmt"

// StepKind is a kind of step of a script.
type StepKind uint8

// Kinds of steps. Except for the last four they submit one operation and do
// not wait for it.
const (
	StepWrite StepKind = iota
	StepDelete
	StepStabilize
	StepRollback
	StepSync
	StepRead
	StepStat
	StepList
	StepMisuse
	StepCompact
	StepReshard
	StepSettle    // wait until nothing is in flight
	StepPowerLoss // the next life begins
	StepKill
	StepStop
	stepKinds
)

var stepNames = [stepKinds]string{"write", "delete", "stabilize", "rollback", "sync", "read", "stat", "list",
	"misuse", "compact", "reshard", "settle", "power loss", "kill", "stop"}

// Step is one step. What its numbers mean depends on what the history has come
// to, so that a script stays meaningful when other steps are removed from it.
type Step struct {
	Kind    StepKind
	Gap     int // events that happen before
	Object  int
	A, B, C int
}

func (s Step) String() string {
	return fmt.Sprintf("%s(%d,%d,%d,%d)", stepNames[s.Kind], s.Object, s.A, s.B, s.C)
}

// Script is a history before it happens.
type Script []Step

// stepWeights are chances in 1000, in the order of the kinds.
var stepWeights = [stepKinds]int{430, 40, 120, 50, 50, 120, 20, 30, 30, 6, 6, 60, 14, 14, 10}

const anyNumber = 1 << 16 // range of the numbers of a step

// NewScript draws a script of n steps for stores like c.
func NewScript(d Dice, n int) Script {
	out := make(Script, 0, n)
	burst := 0
	for len(out) < n {
		s := newStep(d)
		if burst == 0 && chance(d, 10) {
			burst = 2 + d.IntN(8)
		}
		if burst > 0 {
			burst--
			s.Gap = 0
		}
		out = append(out, s)
	}
	return out
}

func newStep(d Dice) Step {
	s := Step{Object: d.IntN(anyNumber), A: d.IntN(anyNumber), B: d.IntN(anyNumber), C: d.IntN(anyNumber)}
	s.Gap = oneOf(d, 0, 0, 1, 2, 5, 12)
	x := d.IntN(1000)
	for k, w := range stepWeights {
		if x < w {
			s.Kind = StepKind(k)
			break
		}
		x -= w
	}
	return s
}
