package store

import "time"

// Tunables are the parameters that may change while the store runs. Zero values
// mean the defaults of Config.
type Tunables struct {
	IntentDepth, MaxWriteDepth                                 int
	MinCompactors, MaxCompactors, CompactQueueStart            int
	IntentTrimInterval                                         int
	ThrottleSmallWrites                                        bool
	ThrottleTargetIOPS, ThrottleTargetMBs, ThrottleParallelism int
	ThrottleThreshold                                          time.Duration
	ReshardChunkObjects                                        int
	ReshardChunkPause                                          time.Duration
}

// Tune changes parameters from now on.
func (s *Store) Tune(t Tunables) {
	c := s.cfg
	c.IntentDepth, c.MaxWriteDepth = t.IntentDepth, t.MaxWriteDepth
	c.MinCompactors, c.MaxCompactors, c.CompactQueueStart = t.MinCompactors, t.MaxCompactors, t.CompactQueueStart
	c.IntentTrimInterval = t.IntentTrimInterval
	c.ThrottleSmallWrites, c.ThrottleTargetIOPS, c.ThrottleTargetMBs = t.ThrottleSmallWrites, t.ThrottleTargetIOPS, t.ThrottleTargetMBs
	c.ThrottleParallelism, c.ThrottleThreshold = t.ThrottleParallelism, t.ThrottleThreshold
	c.ReshardChunkObjects, c.ReshardChunkPause = t.ReshardChunkObjects, t.ReshardChunkPause
	c.setDefaults()
	s.cfg = c
	for range s.cfg.MaxWriteDepth - s.writing { // a higher limit admits more
		op := s.admission.pop()
		if op == nil {
			break
		}
		op.step = stepAdmit
		s.ready(op)
	}
	s.compactMore()
}
