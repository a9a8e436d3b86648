package ublk

import (
	"fmt"
	"syscall"
	"time"

	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/ublk/ublkproto"
)

const (
	// recoverPatience is for the kernel to notice that a server has died, and to
	// take its requests back: milliseconds, unless the host is overloaded.
	recoverPatience = 5 * time.Minute
	recoverTell     = 5 * time.Second
	recoverPause    = 50 * time.Millisecond
)

// orphan is the device to take over: the given one, if it has no server any more,
// or one of the same image. nil = make a new one.
func (m *mapping) orphan() (*ublkproto.DevInfo, error) {
	devices := m.tool.Kernel.Devices()
	if m.given {
		devices = []uint32{m.device}
	}
	var failed error
	for _, device := range devices {
		i, err := m.control.info(device)
		if err != nil {
			failed = err
			continue
		}
		switch dead := m.tool.dead(&i); {
		case m.given && !dead:
			return nil, fmt.Errorf("%s is served by process %d: `vitastor-ublk unmap %[1]s` detaches it", blockPath(device), i.ServerPID)
		case !dead || i.State == ublkproto.Dead && !m.given || i.Mark != markOf(m.target) && !m.given:
			continue
		}
		if !m.sameCluster(&i) {
			if m.given || m.recover {
				return nil, fmt.Errorf("%s belongs to another cluster: use --config_path or --etcd_address of that one", blockPath(device))
			}
			continue
		}
		return &i, m.fits(&i)
	}
	switch {
	case m.recover && m.given:
		return nil, failed
	case m.recover:
		return nil, fmt.Errorf("%v has no device without a server: `vitastor-ublk ls` lists devices", m.target)
	}
	return nil, nil // a new one
}

// sameCluster tells whether a device may have an image of this cluster: others
// may have images of the same name.
func (m *mapping) sameCluster(i *ublkproto.DevInfo) bool {
	s := m.tool.states()[stateName(i.Device)]
	return m.force || s == nil || s.Mark != i.Mark || session.SameCluster(s.Cluster, m.cluster.Cluster())
}

// fits tells why a dead device must not be served with this image.
func (m *mapping) fits(i *ublkproto.DevInfo) error {
	name := blockPath(i.Device)
	ours := i.Mark == markOf(m.target)
	switch {
	case i.State == ublkproto.Dead:
		return fmt.Errorf("%s exists, but cannot be served: it was not started, or has ended; `vitastor-ublk unmap %[1]s` removes it", name)
	case i.Flags&ublkproto.UserRecovery == 0:
		return fmt.Errorf("%s cannot be recovered, because it was made without that: `vitastor-ublk unmap %[1]s` removes it", name)
	case m.recover && (ours || m.force || i.Mark == 0): // 0: made by the reference
		return nil
	case ours: // what somebody means who maps the same image again
		return nil
	case m.recover:
		return fmt.Errorf("%s was made for another image than %v; --force serves it with this one", name, m.target)
	}
	return fmt.Errorf("%s exists and has no server: map it with --recover and the image that it had, or unmap it", name)
}

// takeOver makes us the server of a device.
func (m *mapping) takeOver(i ublkproto.DevInfo) (err error) {
	m.recovered = true
	if err = m.startRecovery(&i); err != nil {
		return err
	}
	if m.info, err = m.control.info(i.Device); err != nil {
		return err
	}
	if m.info.Tags() > tagsMax {
		return fmt.Errorf("%s has %d queues of %d requests: more than %d requests cannot be served", blockPath(i.Device), m.info.Queues, m.info.Depth, tagsMax)
	}
	if m.params, err = m.control.params(&m.info); err != nil {
		return err
	}
	m.tool.log.Info("the device gets a new server", "device", blockPath(i.Device), "image", m.target.String())
	if !m.diskInfo().WriteCache {
		return nil
	}
	return m.cluster.MakeDurable()
}

// startRecovery waits until the driver has taken the device from the dead server.
func (m *mapping) startRecovery(i *ublkproto.DevInfo) error {
	name, told := blockPath(i.Device), false
	for began := time.Now(); ; {
		err := m.control.do(ublkproto.StartUserRecovery, i, 0, nil)
		if !isAny(err, syscall.EBUSY) || time.Since(began) > recoverPatience {
			return err
		}
		if now, err := m.control.info(i.Device); err != nil {
			return err
		} else if !m.tool.dead(&now) {
			return fmt.Errorf("%s is served by process %d, which was faster", name, now.ServerPID)
		}
		if !told && time.Since(began) > recoverTell {
			told = true
			m.tool.log.Warn("waiting for the kernel to take the device from its dead server", "device", name)
		}
		select {
		case <-time.After(recoverPause):
		case <-m.tool.Signals:
			return session.ErrStopped
		}
	}
}
