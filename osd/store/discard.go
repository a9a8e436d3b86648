package store

import "vitastor/internal/env"

// discarder tells the device about windows of free data blocks. A window is
// MinDiscardBytes of blocks. While its discard runs its blocks are not free.
type discarder struct {
	on      bool
	blocks  int      // per window
	dirty   []uint64 // bit per window: a block was used since the last discard
	align   int64
	queue   fifo[uint32]
	running int
	ops     [discardDepth]discardOp
}

const discardDepth = 4

type discardOp struct {
	s      *Store
	op     env.DiskOp
	window int // -1 = idle
}

func (s *Store) initDiscard() {
	d := &s.discard
	info := s.dataDev.disk.Info()
	d.align = s.cfg.DiscardGranularityBytes
	if d.align == 0 {
		d.align = info.DiscardGranularityBytes
	}
	if d.align <= 0 || info.DiscardGranularityBytes == 0 {
		return
	}
	d.align = max(d.align, int64(info.BlockBytes))
	d.blocks = int(max((max(s.cfg.MinDiscardBytes, d.align)+int64(s.geo.BlockBytes)-1)/int64(s.geo.BlockBytes), 1))
	d.on = true
	windows := s.blocks.n / d.blocks
	d.dirty = make([]uint64, windows/64+1)
	for i := range d.ops {
		o := &d.ops[i]
		o.s, o.window = s, -1
		o.op.Done = o.done
	}
	for w := range windows {
		if s.blocks.anyUsed(w*d.blocks, (w+1)*d.blocks) {
			s.touchWindow(w)
		} else if s.cfg.DiscardOnStart {
			s.touchWindow(w)
			d.queue.push(uint32(w))
		}
	}
	s.discardMore()
}

func (s *Store) touchWindow(w int) { s.discard.dirty[w>>6] |= 1 << (w & 63) }

// trimBlock looks whether a freed block completes a free window.
func (s *Store) trimBlock(n uint32) {
	d := &s.discard
	if !d.on {
		return
	}
	w := int(n) / d.blocks
	if w >= s.blocks.n/d.blocks {
		return
	}
	s.touchWindow(w)
	if !s.blocks.anyUsed(w*d.blocks, (w+1)*d.blocks) && s.failed == nil && s.closing == nil {
		d.queue.push(uint32(w))
		s.discardMore()
	}
}

// discardMore starts discards of queued windows that are still free.
func (s *Store) discardMore() {
	d := &s.discard
	for d.on && d.running < discardDepth && d.queue.len() > 0 && s.failed == nil {
		w := int(d.queue.pop())
		if d.dirty[w>>6]>>(w&63)&1 == 0 || s.blocks.anyUsed(w*d.blocks, (w+1)*d.blocks) {
			continue
		}
		from := (s.blockOffset(uint32(w*d.blocks)) + d.align - 1) / d.align * d.align
		to := s.blockOffset(uint32((w+1)*d.blocks)) / d.align * d.align
		if from >= to {
			continue
		}
		for i := range d.ops {
			if o := &d.ops[i]; o.window < 0 {
				o.start(w, from, to)
				break
			}
		}
	}
}

func (o *discardOp) start(w int, from, to int64) {
	s := o.s
	o.window = w
	for b := w * s.discard.blocks; b < (w+1)*s.discard.blocks; b++ {
		s.blocks.set(b)
	}
	s.discard.dirty[w>>6] &^= 1 << (w & 63)
	s.discard.running++
	s.counters.Discards++
	o.op.Kind, o.op.Offset, o.op.Length = env.DiskDiscard, from, to-from
	s.ioStart()
	s.dataDev.disk.Submit(&o.op)
}

func (o *discardOp) done(op *env.DiskOp) {
	s := o.s
	d := &s.discard
	for b := o.window * d.blocks; b < (o.window+1)*d.blocks; b++ {
		s.blocks.clear(b)
	}
	o.window = -1
	d.running--
	if op.Err != nil { // not supported, or refused: nothing depends on it
		if s.env.Log != nil {
			s.env.Log.Warn("discard failed: no more are tried", "device", s.dataDev.disk.Info().Path, "err", op.Err)
		}
		d.on, d.queue = false, fifo[uint32]{}
	}
	s.discardMore()
	s.wake()
	s.ioEnd()
}

// discarding is the number of blocks that are used only by a running discard.
func (s *Store) discarding() int { return s.discard.running * s.discard.blocks }
