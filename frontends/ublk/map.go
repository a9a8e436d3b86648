package ublk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
	"vitastor/libclient/client"
)

// mapDevice is the command map.
func (t *Tool) mapDevice(c *command) error {
	m := &mapping{tool: t, recover: c.flag("recover"), force: c.flag("force"), ended: make(chan error, 1), sizes: make(chan uint64, 1)}
	if err := m.settings(c); err != nil {
		return err
	}
	print := func(device string) { fmt.Fprintln(t.Out, device) }
	return daemon.Run(c.flag("foreground"), c.Flags["logfile"], print, func(ready func(string)) error { return m.run(c, ready) })
}

// mapping is an image and its device.
type mapping struct {
	tool    *Tool
	target  session.Target
	options map[string]string // of the command line
	pidfile string
	recover bool // a device without a server is wanted
	force   bool
	device  uint32
	given   bool // device was
	shape   shape
	unpriv  bool

	control   *control
	cluster   *session.Session
	disk      *blockdev.Image
	info      ublkproto.DevInfo
	params    ublkproto.Params
	recovered bool // the device was there before

	channel Channel
	server  *Server
	watch   *loop.Watch
	ended   chan error  // the driver has taken back everything
	sizes   chan uint64 // bytes that the image has got
}

// settings reads the command line.
func (m *mapping) settings(c *command) (err error) {
	if m.device, m.given, err = c.number(); err != nil {
		return err
	}
	m.inherit(c)
	if m.target, err = session.TargetOf(c.Command); err != nil {
		return err
	}
	m.options = optionsOf(c.Command)
	if m.pidfile = c.Flags["pidfile"]; m.pidfile != "" {
		if m.pidfile, err = filepath.Abs(m.pidfile); err != nil {
			return err
		}
	}
	m.unpriv = c.flag("unpriv") || c.Flags["unpriv"] == "" && !m.tool.Kernel.Privileged()
	m.shape.rotational, m.shape.readOnly = c.flag("hdd"), c.flag("readonly")
	m.shape.queues, err = session.Number(c.Command, "queues", 1)
	// The short names of the reference.
	for _, name := range []string{"queue_depth", "max_io_size"} {
		if value := c.Flags[name]; value != "" {
			c.Options.Values.SetString("ublk_"+name, value)
		}
	}
	return err
}

// inherit lets --recover DEVICE go on with what the dead server has served.
func (m *mapping) inherit(c *command) {
	if _, err := session.TargetOf(c.Command); err == nil || !m.recover || !m.given {
		return
	}
	s := m.tool.states()[stateName(m.device)]
	if s == nil {
		return
	}
	for _, name := range targetOptions {
		if value := s.Options[name]; value != "" && c.Flags[name] == "" {
			c.Flags[name] = value
		}
	}
}

// run serves a device until it is unmapped, or a signal.
func (m *mapping) run(c *command, ready func(device string)) error {
	t := m.tool
	var err error
	m.cluster, err = session.Connect(session.Config{Program: programName, Options: c.Options, Log: t.log, Stop: t.Signals})
	if err != nil {
		return err
	}
	defer m.cluster.Close()
	if err = m.cluster.Do(func(done func(error)) { done(m.open()) }); err != nil {
		return err
	}
	if err = t.Kernel.Load(); err != nil {
		return err
	}
	if m.control, err = newControl(t.Kernel); err != nil {
		return err
	}
	if err = m.obtain(); err != nil {
		return err
	}
	if err = m.start(); err != nil {
		m.undo()
		return err
	}
	m.announce()
	if m.pidfile != "" {
		if err = daemon.WritePID(m.pidfile); err != nil {
			t.log.Error("pidfile", "err", err)
		}
		defer os.Remove(m.pidfile)
	}
	go m.followSize()
	ready(blockPath(m.info.Device))
	return m.wait()
}

// open opens the image. It runs on the loop.
func (m *mapping) open() (err error) {
	if m.disk, err = m.cluster.Open(m.target); err != nil {
		return err
	}
	o := m.cluster.Client.Options()
	m.shape.depth, m.shape.requestBytes, m.shape.writeBack = o.UBLKQueueDepth, o.UBLKMaxIOBytes, o.WritebackAllowed
	m.disk.Resized = func(bytes uint64) {
		select { // only the newest counts
		case <-m.sizes:
		default:
		}
		m.sizes <- bytes
	}
	return m.shape.check()
}

// diskInfo asks the loop.
func (m *mapping) diskInfo() (d blockdev.Info) {
	m.cluster.Do(func(done func(error)) { d = m.disk.Info(); done(nil) })
	return d
}

// obtain finds or makes the device.
func (m *mapping) obtain() error {
	i, err := m.orphan()
	if err != nil {
		return err
	}
	if i != nil {
		return m.takeOver(*i)
	}
	if err = m.probe(); err != nil {
		return err
	}
	d := m.diskInfo()
	wanted := m.shape.info(d, markOf(m.target), m.control.features)
	if m.given {
		wanted.Device = m.device
	}
	if m.unpriv {
		wanted.Flags |= ublkproto.Unprivileged & m.control.features
	}
	if m.info, err = m.control.add(wanted); err != nil {
		return err
	}
	if err = m.control.node(m.info.Device); err == nil {
		m.params = m.shape.params(d, &m.info)
		err = m.control.setParams(&m.info, m.params)
	}
	if err != nil {
		m.control.remove(&m.info, false)
	}
	return err
}

// probe waits until the image can be read. Linux looks for partitions while it
// starts a device: if the server is killed before that has ended, the device hangs
// for ever (6.12), so that should not take long.
func (m *mapping) probe() error {
	read := make(chan syscall.Errno, 1)
	m.cluster.Loop.Post(func() {
		n := min(m.disk.Info().SizeBytes, page)
		m.disk.Submit(&blockdev.Request{Kind: blockdev.Read, Bytes: n, Iov: [][]byte{make([]byte, n)},
			Done: func(r *blockdev.Request) { read <- r.Err }})
	})
	select {
	case e := <-read:
		if e != 0 {
			return fmt.Errorf("%v cannot be read: %w", m.target, e)
		}
		return nil
	case <-m.tool.Signals:
		return session.ErrStopped
	}
}

// start serves the device and tells the driver.
func (m *mapping) start() error {
	if err := m.cluster.Do(func(done func(error)) { done(m.serve()) }); err != nil {
		return err
	}
	started := make(chan error, 1)
	go func() {
		command := ublkproto.StartDev
		if m.recovered {
			command = ublkproto.EndUserRecovery
		}
		started <- m.control.do(command, &m.info, uint64(os.Getpid()), nil)
	}()
	// The driver returns when it has all tags and, for a new device, when it has
	// looked for partitions on it: that may take as long as the cluster does.
	select {
	case err := <-started:
		return err
	case err := <-m.ended:
		return errors.Join(errors.New("the driver has ended the device while it was started"), err)
	case <-m.tool.Signals:
	}
	m.cluster.Do(func(done func(error)) { m.server.Fail(); done(nil) })
	select {
	case <-started:
	case <-m.ended:
	}
	return session.ErrStopped
}

// serve opens the driver's side. It runs on the loop, whose thread the driver will
// know as that of all queues.
func (m *mapping) serve() (err error) {
	if m.channel, err = m.tool.Kernel.Open(m.info, m.control.legacy); err != nil {
		return err
	}
	buffers, err := sys.MapSparse(BufferBytes(m.info))
	if err != nil {
		return fmt.Errorf("memory for %d requests of %d bytes: %w: use a smaller queue_depth or max_io_size",
			m.info.Tags(), m.info.RequestBytes, err)
	}
	m.server, err = NewServer(Config{Env: m.cluster.Env, Disk: m.disk, Channel: m.channel, Info: m.info, Buffers: buffers,
		NoFlush: m.params.Attributes&ublkproto.VolatileCache == 0, Ended: func(err error) { m.ended <- err }})
	if err != nil {
		return err
	}
	if m.watch, err = m.cluster.Loop.Watch(m.channel.FD(), m.server.Ready); err != nil {
		return err
	}
	m.server.Start()
	return nil
}

// undo gives up a device that could not be started.
func (m *mapping) undo() {
	if !m.recovered {
		m.control.do(ublkproto.StopDev, &m.info, 0, nil)
	}
	m.closeChannel()
	if !m.recovered {
		m.control.remove(&m.info, false)
	}
}

// closeChannel leaves the device to the driver. Memory of requests stays: the
// disk may still use it.
func (m *mapping) closeChannel() {
	m.cluster.Do(func(done func(error)) {
		if m.watch != nil {
			m.watch.Close()
			m.server.Close()
			m.tool.log.Info("served", "device", blockPath(m.info.Device), "requests", m.server.Stats.Requests, "errors", m.server.Stats.Errors)
		}
		if m.channel != nil {
			m.channel.Close()
			m.channel = nil
		}
		done(nil)
	})
}

// lookAfter is short enough for whoever waits for the next server of a device.
const lookAfter = 2 * time.Second

// announce prepares for the death of this process.
func (m *mapping) announce() {
	n := m.info.Device
	m.options["dev_num"] = strconv.FormatUint(uint64(n), 10)
	if err := daemon.SaveState(stateKind, stateName(n), state{Options: m.options, Mark: m.info.Mark, PID: os.Getpid(), Cluster: m.cluster.Cluster()}); err != nil {
		m.tool.log.Warn("state file", "err", err)
	}
	if m.info.Flags&ublkproto.UserRecovery != 0 {
		if err := m.tool.Kernel.LookAt(n, lookAfter); err != nil {
			m.tool.log.Warn("it may take the kernel 30 seconds to notice that this process is dead", "err", err)
		}
	}
}

// wait returns when the device was unmapped, or is left to the next server
// because of a signal.
func (m *mapping) wait() error {
	select {
	case err := <-m.ended:
		return m.unmapped(err)
	case s := <-m.tool.Signals:
		if m.leaves(s) {
			return m.leave()
		}
		go m.control.do(ublkproto.StopDev, &m.info, 0, nil)
		return m.removed(<-m.ended)
	}
}

// leaves tells whether a signal ends the server only: SIGTERM, so that another
// one goes on with the device (an upgrade); SIGINT, what a user types, when the
// device is in use.
func (m *mapping) leaves(s os.Signal) bool {
	if m.info.Flags&ublkproto.UserRecovery == 0 {
		return false
	}
	inUse, err := m.tool.Kernel.InUse(m.info.Device)
	return s == syscall.SIGTERM || inUse || err != nil
}

// leave ends the server, not the device.
func (m *mapping) leave() error {
	idle := make(chan struct{}, 1)
	m.cluster.Do(func(done func(error)) {
		m.server.Stop(func() { idle <- struct{}{} })
		done(nil)
	})
	select {
	case <-idle:
	case err := <-m.ended:
		return m.unmapped(err)
	case <-m.tool.Signals:
	}
	name := blockPath(m.info.Device)
	m.tool.log.Warn(name + " waits for its next server: vitastor-ublk map --recover, or unmap")
	err := m.flush()
	m.closeChannel()
	return err
}

// unmapped is the end of a device that somebody has stopped.
func (m *mapping) unmapped(err error) error {
	if err == nil {
		err = m.flush()
		daemon.RemoveState(stateKind, stateName(m.info.Device))
	}
	m.closeChannel()
	return err
}

// removed is the end of a device that we have stopped.
func (m *mapping) removed(err error) error {
	if err = m.unmapped(err); err != nil {
		return err
	}
	return m.control.remove(&m.info, false)
}

// flush makes everything durable before the driver sees us go: unmap --wait waits
// for that. A signal ends it.
func (m *mapping) flush() error {
	synced := make(chan syscall.Errno, 1)
	m.cluster.Loop.Post(func() {
		m.cluster.Client.Submit(&client.Op{Kind: client.Sync, Done: func(op *client.Op) { synced <- op.Err }})
	})
	select {
	case e := <-synced:
		if e != 0 {
			return fmt.Errorf("the last writes to %s may be lost: %w", blockPath(m.info.Device), e)
		}
	case <-m.tool.Signals:
		return fmt.Errorf("%s: stopped before the last writes were durable", blockPath(m.info.Device))
	}
	return nil
}

// followSize gives the device the sizes of the image, one after the other.
func (m *mapping) followSize() {
	name := blockPath(m.info.Device)
	current := m.params.Sectors
	follow := func(bytes uint64) {
		logical := uint64(1) << m.params.LogicalShift
		sectors := bytes / logical * logical / sector
		if sectors == current {
			return
		}
		if m.info.Flags&ublkproto.SizeUpdates == 0 {
			m.tool.log.Warn("the device keeps its size, because Linux before 6.16 cannot change it: unmap and map it",
				"device", name, "bytes", current*sector, "image", bytes)
			return
		}
		if err := m.control.do(ublkproto.UpdateSize, &m.info, sectors, nil); err != nil {
			m.tool.log.Error("the device keeps its size: unmap and map it", "device", name, "err", err)
			return
		}
		current = sectors
	}
	follow(m.diskInfo().SizeBytes)
	for bytes := range m.sizes {
		follow(bytes)
	}
}
