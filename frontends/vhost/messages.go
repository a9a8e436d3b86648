package vhost

import (
	"errors"
	"fmt"

	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
	"vitastor/internal/sys"
)

// errLater says that a message is answered later.
var errLater = errors.New("answered later")

// errShort is the error of a message that is too short, or says so.
var errShort = errors.New("the message does not have the fields that it should")

// execute does what a message wants. reply is its own answer, if it has one.
func (s *client) execute(m request, p *payload) (reply []byte, err error) {
	switch m {
	case getFeatures:
		return u64(s.offered()), nil
	case getProtocolFeatures:
		return u64(protocolOffered), nil
	case getQueueNum:
		return u64(uint64(len(s.rings))), nil
	case getMaxMemSlots:
		return u64(regionsMax), nil
	case setOwner, resetOwner: // the protocol advises to ignore the second
		return nil, nil
	case setLogFD: // the front-end polls the log itself
		return nil, nil
	case setFeatures:
		return nil, p.check(s.setFeatures, p.u64())
	case setProtocolFeatures:
		return nil, p.check(s.setProtocol, p.u64())
	case setVringNum, setVringBase, setVringEnable, getVringBase:
		return s.ringState(m, p)
	case setVringAddr:
		return nil, s.setAddr(p)
	case setVringKick, setVringCall, setVringErr:
		return nil, s.setFD(m, p)
	case setBackendFD:
		return nil, s.setBackend()
	case getConfig, setConfig:
		return s.config(m, p)
	case resetDevice:
		return nil, s.reset()
	}
	return s.executeMemory(m, p)
}

// executeMemory is execute for messages about shared memory.
func (s *client) executeMemory(m request, p *payload) (reply []byte, err error) {
	switch m {
	case setMemTable:
		list := p.regions()
		if p.bad {
			return nil, errShort
		}
		err = s.mem.set(list, s.fds)
	case addMemReg, remMemReg:
		r := p.oneRegion()
		switch {
		case p.bad:
			return nil, errShort
		case m == remMemReg: // a descriptor may come and is not needed
			err = s.mem.remove(r)
		case len(s.fds) != 1:
			return nil, fmt.Errorf("%d file descriptors came where one is needed", len(s.fds))
		default:
			err = s.mem.add(r, s.fds[0])
		}
	case setLogBase:
		return s.setLog(p)
	case getInflightFD:
		return nil, s.makeInflight(p)
	case setInflightFD:
		return nil, s.setInflight(p)
	default:
		return nil, errors.New("it is unknown, or was not negotiated")
	}
	if err == nil {
		for _, r := range s.rings {
			r.move()
		}
	}
	return nil, err
}

// check calls do unless the payload was too short.
func (p *payload) check(do func(uint64) error, v uint64) error {
	if p.bad {
		return errShort
	}
	return do(v)
}

func (s *client) setFeatures(f uint64) error {
	if bad := f &^ s.offered(); bad != 0 {
		return fmt.Errorf("features %#x are accepted, which were not offered", bad)
	}
	if s.running > 0 && (f^s.features)&^featureLogAll != 0 {
		return errors.New("features change while rings are running")
	}
	s.features = f
	s.blk.SetFeatures(f)
	s.updateLog()
	s.updateRings()
	return nil
}

func (s *client) setProtocol(f uint64) error {
	if bad := f &^ protocolOffered; bad != 0 {
		return fmt.Errorf("protocol features %#x are accepted, which were not offered", bad)
	}
	s.protocol = f
	return nil
}

// updateLog makes rings log, or not.
func (s *client) updateLog() {
	var log virtio.Log
	if s.features&featureLogAll != 0 && s.log != nil {
		log = s.log
	}
	for _, r := range s.rings {
		s.blk.SetLog(r.i, log, r.ringLog())
	}
}

// setLog takes the bitmap of a migration.
func (s *client) setLog(p *payload) ([]byte, error) {
	a := p.logArea()
	if p.bad || len(s.fds) != 1 {
		return nil, errShort
	}
	log, err := newDirtyLog(a, s.fds[0])
	if err != nil {
		return nil, err
	}
	if s.log != nil {
		s.log.close()
	}
	s.log = log
	s.updateLog()
	return u64(0), nil
}

// ring finds a ring.
func (s *client) ring(index uint32) (*ring, error) {
	if int64(index) >= int64(len(s.rings)) {
		return nil, fmt.Errorf("ring %d of %d", index, len(s.rings))
	}
	return s.rings[index], nil
}

func (s *client) ringState(m request, p *payload) ([]byte, error) {
	v := p.vringState()
	if p.bad {
		return nil, errShort
	}
	r, err := s.ring(v.index)
	if err != nil {
		return nil, err
	}
	switch m {
	case setVringNum:
		return nil, r.setNum(v.num)
	case setVringBase:
		return nil, r.setBase(v.num)
	case setVringEnable:
		r.enabled = v.num != 0
		r.update()
		return nil, nil
	}
	r.started = false
	s.whenStopped([]*ring{r}, func() { s.reply(getVringBase, vringState{v.index, r.base}.append(nil)) })
	return nil, errLater
}

// whenStopped stops rings, reads no messages meanwhile, and answers then.
func (s *client) whenStopped(rings []*ring, answer func()) {
	s.pause()
	left := len(rings)
	one := func() {
		if left--; left > 0 || s.dead {
			return
		}
		answer()
		if s.dead {
			return
		}
		if err := s.read(); err != nil {
			s.drop(err)
		}
	}
	for _, r := range rings {
		r.stop(one)
	}
}

func (s *client) setAddr(p *payload) error {
	a := p.vringAddr()
	if p.bad {
		return errShort
	}
	r, err := s.ring(a.index)
	if err != nil {
		return err
	}
	return r.setAddr(a)
}

// setFD takes an eventfd of a ring.
func (s *client) setFD(m request, p *payload) error {
	v := p.vringFD()
	if p.bad {
		return errShort
	}
	r, err := s.ring(v.index)
	if err != nil {
		return err
	}
	fd := -1
	if !v.none {
		if fd, err = s.takeFD(); err != nil {
			return err
		}
		if err := sys.AdoptEventfd(fd); err != nil {
			sys.Close(fd)
			return err
		}
	}
	switch m {
	case setVringCall:
		replaceFD(&r.call, fd)
	case setVringErr:
		replaceFD(&r.err, fd)
	default:
		return r.setKick(fd)
	}
	return nil
}

func replaceFD(old *int, fd int) {
	if *old >= 0 {
		sys.Close(*old)
	}
	*old = fd
}

func (s *client) setBackend() error {
	fd, err := s.takeFD()
	if err != nil {
		return err
	}
	replaceFD(&s.backend, fd)
	return nil
}

// config reads or writes the configuration space.
func (s *client) config(m request, p *payload) ([]byte, error) {
	c := p.configSpace()
	if p.bad {
		return nil, errShort
	}
	all := s.blk.Config()
	if m == getConfig {
		clear(c.data)
		if int(c.offset) < len(all) {
			copy(c.data, all[c.offset:])
		}
		return c.append(nil), nil
	}
	if c.flags&configMigration != 0 {
		// The source's configuration: the size is ours, the rest is the same.
		return nil, nil
	}
	return nil, s.blk.SetConfig(int(c.offset), c.data)
}

// reset stops everything and forgets what was negotiated about the device.
func (s *client) reset() error {
	for _, r := range s.rings {
		r.started, r.enabled = false, false
	}
	ack := s.h.flags&flagNeedReply != 0 && s.protocol&protocolReplyAck != 0
	s.whenStopped(s.rings, func() {
		s.blk.Reset()
		s.blk.SetFeatures(s.features)
		for _, r := range s.rings {
			r.forget()
		}
		s.dropInflight()
		if ack {
			s.reply(resetDevice, u64(0))
		}
	})
	return errLater
}

// inflightAlign is where areas of queues begin.
const inflightAlign = 64

// stride is the distance of the areas of two queues.
func (s *client) stride(descs uint16) uint64 {
	n := virtio.InflightBytes(descs, s.features&virtio.FeaturePacked != 0)
	return uint64((n + inflightAlign - 1) &^ (inflightAlign - 1))
}

func (s *client) checkInflight(a inflightArea) error {
	if int(a.queues) > len(s.rings) || a.queues == 0 || a.queueDescs == 0 || a.queueDescs > virtio.QueueSizeMax {
		return fmt.Errorf("requests in flight of %d queues of %d descriptors: %d queues of up to %d are possible",
			a.queues, a.queueDescs, len(s.rings), virtio.QueueSizeMax)
	}
	return nil
}

// makeInflight gives the client memory that will survive us.
func (s *client) makeInflight(p *payload) error {
	a := p.inflightArea()
	if p.bad {
		return errShort
	}
	if err := s.checkInflight(a); err != nil {
		return err
	}
	a.size, a.offset = s.stride(a.queueDescs)*uint64(a.queues), 0
	fd, m, err := guestmem.NewShared("vhost-inflight", a.size)
	if err != nil {
		return err
	}
	m.Release() // the client gives it back with setInflightFD
	s.reply(getInflightFD, a.append(nil), fd)
	sys.Close(fd)
	return errLater
}

// setInflight takes the memory of requests in flight, also that of a back-end
// that has died.
func (s *client) setInflight(p *payload) error {
	a := p.inflightArea()
	if p.bad || len(s.fds) != 1 {
		return errShort
	}
	if err := s.checkInflight(a); err != nil {
		return err
	}
	if need := s.stride(a.queueDescs) * uint64(a.queues); a.size < need {
		return fmt.Errorf("requests in flight: %d bytes where %d are needed", a.size, need)
	}
	if s.running > 0 {
		return errors.New("requests in flight: rings are running")
	}
	m, err := guestmem.MapFile(s.fds[0], a.offset, a.size, true)
	if err != nil {
		return fmt.Errorf("requests in flight: %w", err)
	}
	if !m.Stable() {
		m.Release()
		return errors.New("requests in flight: the memory is not the one that we have made, and may vanish")
	}
	s.dropInflight()
	s.inflight, s.area = m, a
	return nil
}
