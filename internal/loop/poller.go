package loop

import (
	"fmt"
	"syscall"

	"vitastor/internal/sys"
)

// pollee is something with a descriptor in the epoll set.
type pollee interface {
	ready(events uint32)
}

// poller maps descriptors to pollees. An event carries the descriptor and the
// generation of its registration, so that an event of a descriptor that was
// closed, and maybe opened again, in the same batch reaches nobody.
type poller struct {
	fd      int
	events  []sys.EpollEvent
	sources []source // by descriptor
}

type source struct {
	p          pollee // nil = not registered
	generation int32
}

func (p *poller) open() (err error) {
	p.events = make([]sys.EpollEvent, eventsPerWait)
	p.fd, err = sys.NewEpoll()
	return err
}

func (p *poller) close() { sys.Close(p.fd) }

func (p *poller) add(fd int, events uint32, who pollee) error {
	if fd < 0 {
		return fmt.Errorf("epoll_ctl: %w", syscall.EBADF)
	}
	for len(p.sources) <= fd {
		p.sources = append(p.sources, source{})
	}
	s := &p.sources[fd]
	s.generation++
	if e := sys.EpollCtl(p.fd, sys.EpollAdd, fd, p.event(fd, events)); e != 0 {
		s.generation-- // it may be registered already
		return fmt.Errorf("epoll_ctl: %w", e)
	}
	s.p = who
	return nil
}

// change sets the wanted events of a registered descriptor. The kernel cannot
// refuse that for one that is registered.
func (p *poller) change(fd int, events uint32) {
	if e := sys.EpollCtl(p.fd, sys.EpollModify, fd, p.event(fd, events)); e != 0 {
		panic("epoll_ctl: " + e.Error())
	}
}

// remove is to be called before fd is closed.
func (p *poller) remove(fd int) {
	sys.EpollCtl(p.fd, sys.EpollDelete, fd, sys.EpollEvent{})
	p.sources[fd].p = nil
}

func (p *poller) event(fd int, events uint32) sys.EpollEvent {
	return sys.EpollEvent{Events: events, Fd: int32(fd), Pad: p.sources[fd].generation}
}

func (p *poller) dispatch(ev *sys.EpollEvent) {
	s := &p.sources[ev.Fd]
	if s.p != nil && s.generation == ev.Pad {
		s.p.ready(ev.Events)
	}
}
