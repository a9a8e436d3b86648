package virtio

import (
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
)

// blkQueue serves one queue of a Blk.
type blkQueue struct {
	b        *Blk
	index    int
	ring     Queue
	stable   bool // memory may be handed to the disk
	broken   bool
	stopping func(State)

	free     *blkSlot
	slots    int // that exist
	inFlight int
	requests uint64
	full     bool     // there may be requests that found no slot
	starving *blkSlot // was popped and waits for memory
	wakeTask env.Task
	stats    BlkStats
}

func newBlkQueue(b *Blk, i int) *blkQueue {
	q := &blkQueue{b: b, index: i}
	q.wakeTask.Run = q.wake
	return q
}

// run starts all requests that there are and for which there is a slot.
func (q *blkQueue) run() {
	if q.broken || q.stopping != nil || q.starving != nil || !q.ring.Running() {
		return
	}
	if !q.ring.EventIdx {
		if _, err := q.ring.Kicks(false); err != nil {
			q.fail(err)
			return
		}
	}
	for more := true; more; {
		if !q.popAll() {
			return
		}
		var err error
		if more, err = q.ring.Kicks(true); err != nil {
			q.fail(err)
			return
		}
	}
}

// popAll starts requests until there are no more (true), or it has to wait for
// slots or memory, or the queue is broken (false). After as many as the ring has
// descriptors others have their turn.
func (q *blkQueue) popAll() bool {
	q.full = false
	for range q.ring.Size {
		s := q.slot()
		if s == nil {
			q.full = true
			return false
		}
		ok, err := q.ring.Pop(&s.chain)
		if err != nil || !ok {
			q.put(s)
			if err != nil {
				q.fail(err)
			}
			return err == nil
		}
		q.requests++
		if s.begin(); q.broken || q.starving != nil {
			return false
		}
	}
	q.full = true
	q.b.c.Env.Exec.Defer(&q.wakeTask)
	return false
}

// resume goes on with a request that waited for memory.
func (q *blkQueue) resume() {
	if s := q.starving; s != nil {
		q.starving = nil
		s.start()
		q.run()
	}
}

// slot takes an idle slot; nil = there are as many as the ring is large.
func (q *blkQueue) slot() *blkSlot {
	s := q.free
	switch {
	case s != nil:
		q.free = s.next
	case q.slots >= int(q.ring.Size):
		return nil
	default:
		s = newBlkSlot(q)
		q.slots++
	}
	q.inFlight++
	return s
}

func (q *blkQueue) put(s *blkSlot) {
	s.next, q.free = q.free, s
	q.inFlight--
}

// done gives a request back to the driver.
func (q *blkQueue) done(s *blkSlot, written uint32) {
	if err := q.ring.Push(&s.chain, written); err != nil {
		q.fail(err)
	}
	q.put(s)
	q.b.c.Env.Exec.Defer(&q.wakeTask)
}

// wake tells the driver what was completed, and goes on with what waits.
func (q *blkQueue) wake() {
	if !q.broken {
		if yes, err := q.ring.Interrupt(); err != nil {
			q.fail(err)
		} else if yes {
			q.stats.Interrupts++
			q.b.c.Interrupt(q.index)
		}
	}
	if q.full {
		q.run()
	}
	q.stopped()
}

// fail breaks the queue.
func (q *blkQueue) fail(err error) {
	if q.broken {
		return
	}
	q.broken = true
	if s := q.starving; s != nil {
		q.starving = nil
		s.finish(syscall.EIO)
	}
	q.b.c.Broken(q.index, err)
}

// stopped ends Stop when nothing is in flight any more.
func (q *blkQueue) stopped() {
	if q.stopping == nil || q.inFlight > 0 {
		return
	}
	if !q.broken {
		if yes, err := q.ring.Interrupt(); err == nil && yes {
			q.stats.Interrupts++
			q.b.c.Interrupt(q.index)
		}
	}
	done, state := q.stopping, q.ring.State()
	q.stopping = nil
	q.ring.Stop()
	q.broken, q.full = false, false
	done(state)
}

// count is what a request of a kind adds to the statistics.
func (q *blkQueue) count(k blockdev.Kind, bytes uint64) {
	s := &q.stats
	switch k {
	case blockdev.Read:
		s.Reads++
		s.ReadBytes += bytes
	case blockdev.Write:
		s.Writes++
		s.WriteBytes += bytes
	case blockdev.Flush:
		s.Flushes++
	case blockdev.Discard:
		s.Discards++
	case blockdev.WriteZeroes:
		s.Zeroes++
	}
}
