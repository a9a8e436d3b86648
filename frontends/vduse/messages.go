package vduse

import (
	"fmt"

	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
)

// receive reads what the kernel wants. It waits for an answer, but not for ever
// (30 seconds, see /sys/class/vduse/NAME/msg_timeout): after that the device is
// broken.
func (s *server) receive() {
	for range messagesPerEvent {
		r, ok, err := s.device.Receive()
		if err != nil {
			s.watch.Close()
			s.ended(err)
			return
		}
		if !ok {
			return
		}
		if err := s.handle(r); err != nil {
			s.log.Error("a request of the kernel is refused", "request", r.Type, "err", err)
			s.answer(uapi.Response{ID: r.ID, Failed: true})
		}
	}
}

func (s *server) answer(r uapi.Response) {
	if s.closed {
		return
	}
	if err := s.device.Answer(r); err != nil {
		s.log.Error("the kernel does not take an answer", "err", err)
	}
}

// handle answers a request, now or later; in case of an error it is not
// answered.
func (s *server) handle(r uapi.Request) error {
	switch r.Type {
	case uapi.SetStatus:
		return s.setStatus(r)
	case uapi.UpdateIOTLB:
		if err := s.moved(r.Start, r.Last); err != nil {
			return err
		}
		s.answer(uapi.Response{ID: r.ID})
		return nil
	case uapi.GetQueueState:
		return s.queueState(r)
	}
	return fmt.Errorf("%v is not known", r.Type)
}

// setStatus follows the driver. The journal knows the status before the driver
// does; a server that dies in between gets the same request again.
func (s *server) setStatus(r uapi.Request) error {
	if r.Status == 0 {
		s.reset(r.ID)
		return nil
	}
	if r.Status&statusDriverOK != 0 && s.space == nil {
		if err := s.start(); err != nil {
			s.stopQueues(s.forget)
			return err
		}
	}
	s.journal.setStatus(r.Status)
	s.answer(uapi.Response{ID: r.ID})
	return nil
}

// reset answers when nothing is in flight: afterwards the memory of the driver
// belongs to others.
func (s *server) reset(id uint32) {
	s.resets = append(s.resets, id)
	if len(s.resets) > 1 {
		return
	}
	s.stopQueues(func() {
		if s.closed {
			return
		}
		s.forget()
		for _, id := range s.resets {
			s.answer(uapi.Response{ID: id})
		}
		s.resets = s.resets[:0]
	})
}

// forget is the state of a device after a reset.
func (s *server) forget() {
	s.journal.setStatus(0)
	s.journal.forget()
	s.blk.Reset()
	if s.space != nil {
		s.space.Release()
		s.space = nil
	}
}

// moved follows a change of the driver's memory: the answer allows the kernel to
// forget the old one, but requests in flight keep what they have.
func (s *server) moved(start, last uint64) error {
	if s.space == nil {
		return nil // all of it is looked up at the start
	}
	next, err := s.space.without(start, last)
	if err != nil {
		return err
	}
	before := s.space
	s.space = next
	for i := range s.queues {
		if q := &s.queues[i]; q.running {
			s.moveQueue(i, q)
		}
	}
	before.Release()
	return nil
}

func (s *server) moveQueue(i int, q *queue) {
	rings, err := s.rings(q)
	if err != nil {
		s.broken(i, fmt.Errorf("the driver has taken its memory away: %w", err))
		if q.stopped == nil {
			s.stop(i, func(virtio.State) {})
		}
		return
	}
	s.blk.Move(i, s.space, rings)
}

// queueState tells where a queue is, which is stopped for that: another server
// goes on there.
func (s *server) queueState(r uapi.Request) error {
	if r.Index >= uint32(len(s.queues)) {
		return fmt.Errorf("there is no queue %d", r.Index)
	}
	i := int(r.Index)
	q := &s.queues[i]
	reply := uapi.Response{ID: r.ID, Index: r.Index, Packed: s.packed()}
	if !q.running {
		info, err := s.device.Queue(i, reply.Packed)
		if err != nil {
			return err
		}
		reply.State = info.State
		s.answer(reply)
		return nil
	}
	s.stop(i, func(state virtio.State) {
		reply.State = state
		s.answer(reply)
	})
	return nil
}
