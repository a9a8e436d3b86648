package store

// barrier lets a listing run after everything submitted before it. Mutations
// are counted in phases; a listing ends the current phase and runs when all
// phases up to it are empty. It does not hold up what comes after it.
type barrier struct {
	oldest, current uint64 // phases
	counts          [barrierPhases]int
	waiting         opQueue
}

const barrierPhases = 64

func (b *barrier) enter(op *Op) {
	op.counted, op.phase = true, b.current
	b.counts[b.current%barrierPhases]++
}

func (b *barrier) leave(s *Store, op *Op) {
	if !op.counted {
		return
	}
	op.counted = false
	b.counts[op.phase%barrierPhases]--
	b.advance(s)
}

func (b *barrier) advance(s *Store) {
	for b.oldest <= b.current && b.counts[b.oldest%barrierPhases] == 0 && !b.waiting.empty() {
		for op := b.waiting.first; op != nil && op.phase <= b.oldest; op = b.waiting.first {
			b.waiting.pop()
			s.ready(op)
		}
		if b.oldest == b.current {
			b.current++
		}
		b.oldest++
	}
}

// wait makes op run after everything that was submitted before; false if that
// has finished already.
func (b *barrier) wait(op *Op) bool {
	idle := true
	for p := b.oldest; p <= b.current; p++ {
		idle = idle && b.counts[p%barrierPhases] == 0
	}
	if idle {
		return false
	}
	op.phase = b.current
	b.waiting.push(op)
	if b.current-b.oldest < barrierPhases-1 {
		b.current++
	}
	return true
}
