package loop

import (
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// flusher sends what was queued on streams, once per iteration, in order of
// priority and then of first use.
type flusher struct {
	batch   *sys.Batch
	lists   [env.PriorityCount]streamList
	dropped sendQueue // sends of closed streams, whose Done is due
}

type streamList struct {
	head, tail *stream
}

func (f *flusher) open(*Loop) { f.batch = new(sys.Batch) }

// add makes s part of the next flush.
func (f *flusher) add(s *stream) {
	if s.dirty || s.state >= ending {
		return
	}
	s.dirty, s.next = true, nil
	list := &f.lists[s.priority]
	if list.tail == nil {
		list.head = s
	} else {
		list.tail.next = s
	}
	list.tail = s
}

// pending tells whether all would do something.
func (f *flusher) pending() bool {
	if f.dropped.head != nil {
		return true
	}
	for i := range f.lists {
		if f.lists[i].head != nil {
			return true
		}
	}
	return false
}

// all flushes the streams that are dirty now. Streams that get dirty meanwhile
// wait for the next turn.
func (f *flusher) all() {
	for i := range f.lists {
		s := f.lists[i].head
		f.lists[i] = streamList{}
		for s != nil {
			next := s.next
			s.dirty, s.next = false, nil
			if s.state < ending {
				s.flush(f.batch)
			}
			s = next
		}
	}
	dropped := f.dropped
	f.dropped = sendQueue{}
	for op := dropped.pop(); op != nil; op = dropped.pop() {
		op.Done(op, env.ErrStreamClosed)
	}
}

// flush sends one batch, or some more while the socket takes all of them.
func (s *stream) flush(b *sys.Batch) {
	for range sendsPerFlush {
		if s.state != open || s.full || s.queue.head == nil {
			break
		}
		s.gather(b)
		n := 0
		if b.Count() > 0 {
			var e syscall.Errno
			n, e = b.Send(s.fd)
			if e != 0 && e != syscall.EAGAIN {
				s.fail(e)
				return
			}
		}
		if n < b.Bytes() {
			s.full = true
		}
		s.advance(n)
	}
	if s.state >= ending {
		return
	}
	if s.queue.head != nil && !s.full && s.state == open {
		s.l.flush.add(s)
	}
	s.want()
}

// gather fills b from the first unsent byte on.
func (s *stream) gather(b *sys.Batch) {
	b.Reset()
	part, off := s.part, s.off
	for op := s.queue.head; op != nil; op = op.Next {
		for ; part < len(op.Parts); part++ {
			if !b.Add(op.Parts[part][off:]) {
				return
			}
			off = 0
		}
		part = 0
	}
}

// advance takes n sent bytes off the queue, then completes the sends that are
// done: their owners may do anything with the stream.
func (s *stream) advance(n int) {
	var done sendQueue
	for op := s.queue.head; op != nil; op = s.queue.head {
		for s.part < len(op.Parts) {
			rest := len(op.Parts[s.part]) - s.off
			if rest > n {
				s.off += n
				op.Sent += n
				n = 0
				break
			}
			op.Sent += rest
			n -= rest
			s.part, s.off = s.part+1, 0
		}
		if s.part < len(op.Parts) {
			break
		}
		s.part = 0
		done.push(s.queue.pop())
	}
	for op := done.pop(); op != nil; op = done.pop() {
		op.Done(op, nil)
	}
}
