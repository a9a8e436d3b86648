package store

import (
	"syscall"
	"time"
)

// throttle delays the acknowledgement of a buffered write when the buffer area
// fills up, so that on a fast buffer over a slow disk the speed goes down
// smoothly to what the disk can do instead of suddenly to nothing. With a full
// buffer a write takes what it would take on the target disk; with a part of it
// used, that part of the time. True: the timer will finish op.
func (s *Store) throttle(op *Op) bool {
	if !s.cfg.ThrottleSmallWrites || op.Len == 0 {
		return false
	}
	c := &s.cfg
	queue := max(1, (s.writing+c.ThrottleParallelism-1)/c.ThrottleParallelism)
	target := time.Second / time.Duration(c.ThrottleTargetIOPS) * time.Duration(queue)
	if bw := time.Duration(op.Len) * time.Second / time.Duration(c.ThrottleTargetMBs<<20); bw > target {
		target = bw
	}
	target = target * time.Duration(s.buffer.used) / time.Duration(s.buffer.n)
	delay := target - s.env.Clock.Now().Sub(op.started)
	if delay < c.ThrottleThreshold {
		return false
	}
	s.env.Clock.Arm(&op.timer, delay)
	return true
}

// timerFired ends a throttled write.
func (op *Op) timerFired() {
	if op.s.failed != nil {
		op.s.finish(op, syscall.EIO)
		return
	}
	op.s.finish(op, 0)
}
