package vduse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/vduse/uapi"
	"vitastor/frontends/virtio"
)

const (
	queuesDefault    = 4 // at most
	queueSizeDefault = 256
)

// mapping is an image on its way to a device, and then its server.
type mapping struct {
	tool      *Tool
	command   *command
	name      string
	state     *state // what is wanted
	queues    int
	queueSize uint16
	pidFile   string
	takeOver  bool // wanted by --recover, or found to be necessary

	cluster *session.Session
	journal *journal
	disk    *blockdev.Image
	server  *server
	ended   chan error
	created bool // the kernel has the device
	left    bool // and shall keep it
}

// mapImage is the command map.
func (t *Tool) mapImage(c *command) error {
	if c.Device != "" {
		return fmt.Errorf("map does not take %q: the kernel chooses /dev/vdX, and --name the name of the device", c.Device)
	}
	m := &mapping{tool: t, command: c, ended: make(chan error, 1)}
	if err := m.settings(); err != nil {
		return err
	}
	return daemon.Run(c.Given("foreground"), c.Flags["logfile"], func(block string) { fmt.Fprintln(t.Out, block) }, m.run)
}

func (m *mapping) settings() (err error) {
	c := m.command
	if err := m.numbers(); err != nil {
		return err
	}
	if m.pidFile = c.Flags["pidfile"]; m.pidFile != "" {
		if m.pidFile, err = filepath.Abs(m.pidFile); err != nil {
			return err
		}
	}
	if c.Given("recover") {
		return m.recoverSettings()
	}
	target, err := session.TargetOf(c.Command)
	if err != nil {
		return err
	}
	m.state = newState(target, c.Given("readonly"), c.Options, os.Getpid())
	if m.name = c.Flags["name"]; m.name != "" {
		return uapi.CheckName(m.name)
	}
	text := target.Image
	if text == "" {
		text = fmt.Sprintf("pool%d_inode%d", target.Inode.Pool(), target.Inode.Number())
	}
	m.name = uapi.MakeName(text)
	return nil
}

func (m *mapping) numbers() error {
	queues, err := session.Number(m.command.Command, "num_queues", uint64(min(runtime.NumCPU(), queuesDefault)))
	if err != nil {
		return err
	}
	size, err := session.Number(m.command.Command, "queue_size", queueSizeDefault)
	switch {
	case err != nil:
		return err
	case queues < 1 || queues > virtio.QueuesMax:
		return fmt.Errorf("--num-queues %d: between 1 and %d", queues, virtio.QueuesMax)
	case size < 2 || size > virtio.QueueSizeMax || size&(size-1) != 0:
		return fmt.Errorf("--queue-size %d: a power of two between 2 and %d", size, virtio.QueueSizeMax)
	}
	m.queues, m.queueSize = int(queues), uint16(size)
	return nil
}

// recoverSettings are those of the server that has died.
func (m *mapping) recoverSettings() error {
	c := m.command
	m.name, m.takeOver = c.Flags["recover"], true
	for _, flag := range []string{"image", "pool", "inode", "size", "name", "readonly"} {
		if c.Given(flag) {
			return fmt.Errorf("--recover NAME does not go together with --%s: the device stays what it is", flag)
		}
	}
	if err := uapi.CheckName(m.name); err != nil {
		return err
	}
	old := m.tool.states()[m.name]
	if old == nil {
		return fmt.Errorf("nothing is known about a device %s (%s): `vitastor-vduse ls` lists devices, and map --image makes one",
			m.name, daemon.StatePath(kind, m.name))
	}
	m.adopt(old)
	return nil
}

// adopt makes the settings those of an earlier server.
func (m *mapping) adopt(old *state) {
	m.command.Options = old.layer(m.command.Options)
	m.state = newState(old.target(), old.ReadOnly, m.command.Options, os.Getpid())
}

// run serves a device until it is unmapped, or a signal.
func (m *mapping) run(ready func(block string)) (err error) {
	if m.journal, err = openJournal(m.name); err != nil {
		return m.refused(err)
	}
	defer func() { err = errors.Join(err, m.cleanUp()) }()
	if err := m.tool.Kernel.Load(); err != nil {
		return err
	}
	if err := m.look(); err != nil {
		return err
	}
	m.cluster, err = session.Connect(session.Config{Program: usage.Name, Options: m.command.Options, Log: m.tool.log, Stop: m.tool.Signals})
	if err != nil {
		return err
	}
	if err = m.sameCluster(); err != nil {
		return err
	}
	if m.takeOver {
		err = m.resume()
	} else {
		err = m.create()
	}
	if err != nil {
		return err
	}
	if path := m.pidFile; path != "" {
		if err := daemon.WritePID(path); err != nil {
			return err
		}
		defer os.Remove(path)
	}
	ready(m.tool.Kernel.BlockDevice(m.name))
	select {
	case err = <-m.ended:
		m.left = true
		return err
	case sig := <-m.tool.Signals:
		return m.leave(sig)
	}
}

// refused explains why the journal could not be had.
func (m *mapping) refused(err error) error {
	if !errors.Is(err, errServed) {
		return err
	}
	old := m.tool.states()[m.name]
	if old == nil {
		return fmt.Errorf("the name %s is taken: %w, which is just beginning or ending", m.name, err)
	}
	return fmt.Errorf("the name %s is taken: process %d serves %s as %s. Choose another one with --name, or `vitastor-vduse unmap %s` first",
		m.name, old.PID, old.describe(), orNone(m.tool.Kernel.BlockDevice(m.name)), m.name)
}

func orNone(block string) string {
	if block == "" {
		return "a device that is not attached"
	}
	return block
}

// look finds out what the kernel has under that name.
func (m *mapping) look() error {
	k := m.tool.Kernel
	old := m.tool.states()[m.name]
	switch {
	case !k.Exists(m.name):
		m.takeOver = false
		return m.journal.create(m.queues, m.queueSize)
	case !k.Attached(m.name):
		// Nobody can have requests in it.
		m.takeOver = false
		if err := k.Destroy(m.name); err != nil {
			return fmt.Errorf("the name %s is taken: %w, or choose another one with --name", m.name, err)
		}
		return m.journal.create(m.queues, m.queueSize)
	}
	m.created, m.left = true, true
	err := m.journal.load()
	if err == nil && old == nil {
		err = fmt.Errorf("%s is not there", daemon.StatePath(kind, m.name))
	}
	if err != nil {
		return fmt.Errorf("the name %s is taken by a device that cannot be taken over: %w. Choose another one with --name, or remove it "+
			"with `vitastor-vduse unmap --force %s`", m.name, err, m.name)
	}
	if !m.takeOver && (old.target() != m.state.target() || old.ReadOnly != m.state.ReadOnly) {
		return fmt.Errorf("the name %s is taken by %s, whose server (process %d) has died: `vitastor-vduse map --recover %s` serves it again, "+
			"`vitastor-vduse unmap %s` removes it; or choose another name with --name", m.name, old.describe(), old.PID, m.name, m.name)
	}
	if !m.takeOver {
		m.takeOver = true
		m.adopt(old)
	}
	return nil
}

// sameCluster refuses to serve a device with an image of another cluster, which
// may have the same name.
func (m *mapping) sameCluster() error {
	m.state.Cluster = m.cluster.Cluster()
	old := m.tool.states()[m.name]
	if m.takeOver && old != nil && !session.SameCluster(old.Cluster, m.state.Cluster) {
		return fmt.Errorf("the name %s is taken by %s of another cluster (%s), whose server has died: use --config_path or --etcd_address of that one, "+
			"or choose another name with --name", m.name, old.describe(), old.Cluster)
	}
	return nil
}

// open makes a server on the image. It runs on the loop.
func (m *mapping) open() (err error) {
	if m.disk, err = m.cluster.Open(m.state.target()); err != nil {
		return err
	}
	m.server, err = newServer(serverConfig{loop: m.cluster.Loop, env: m.cluster.Env, log: m.tool.log, disk: m.disk, serial: m.name,
		readOnly: m.state.ReadOnly, noPacked: !m.takeOver && !m.command.Given("packed"), journal: m.journal,
		ended: func(err error) { m.ended <- err }})
	if err != nil {
		m.disk.Close()
		return err
	}
	m.disk.Resized = m.server.resized
	return nil
}

// do runs something on the loop.
func (m *mapping) do(f func() error) error {
	return m.cluster.Do(func(done func(error)) { done(f()) })
}

// create makes a new device.
func (m *mapping) create() error {
	var config uapi.DeviceConfig
	err := m.do(func() error {
		if err := m.open(); err != nil {
			return err
		}
		config = m.server.deviceConfig(m.name)
		return nil
	})
	if err != nil {
		return err
	}
	k := m.tool.Kernel
	if err := k.Create(config); err != nil {
		return err
	}
	m.created = true
	device, err := k.Open(m.name)
	if err != nil {
		return err
	}
	if err := m.do(func() error { return m.server.begin(device) }); err != nil {
		return err
	}
	if err := daemon.SaveState(kind, m.name, m.state); err != nil {
		return err
	}
	return k.Attach(m.name)
}

// resume goes on with a device whose server has died.
func (m *mapping) resume() error {
	cached := false
	err := m.do(func() error {
		err := m.open()
		cached = err == nil && m.disk.Info().WriteCache
		return err
	})
	if err == nil && cached {
		err = m.cluster.MakeDurable()
	}
	if err != nil {
		return err
	}
	device, err := m.tool.Kernel.Open(m.name)
	if err != nil {
		return err
	}
	err = m.do(func() error {
		if err := m.server.resume(device); err != nil {
			return err
		}
		return m.server.announce()
	})
	if err != nil {
		return fmt.Errorf("the device %s cannot be taken over: %w", m.name, err)
	}
	m.tool.log.Info("took the device over", "name", m.name, "device", m.tool.Kernel.BlockDevice(m.name))
	return daemon.SaveState(kind, m.name, m.state)
}

// leave ends the server. SIGTERM leaves the device to the next server; SIGINT
// removes it, unless it is in use. One that is detached is removed: that is unmap.
func (m *mapping) leave(sig os.Signal) error {
	k := m.tool.Kernel
	if m.left = k.Attached(m.name); !m.left {
		return nil
	}
	why := "SIGTERM"
	if sig != syscall.SIGTERM {
		if why = m.user(); why == "" {
			err := k.Detach(m.name)
			m.left = err != nil
			return err
		}
	}
	m.tool.log.Warn("the device stays without a server, its users wait: `vitastor-vduse map --recover "+m.name+"` goes on with it",
		"device", k.BlockDevice(m.name), "because", why)
	return nil
}

// user says who uses the block device; "" = nobody.
func (m *mapping) user() string {
	block := m.tool.Kernel.BlockDevice(m.name)
	if block == "" {
		return ""
	}
	who, err := m.tool.Kernel.InUse(block)
	if err != nil {
		return err.Error()
	}
	return who
}

// cleanUp ends the server and removes what nobody needs any more. The journal is
// the last: whoever can lock it finds everything done.
func (m *mapping) cleanUp() (err error) {
	k := m.tool.Kernel
	if m.created && !m.left && k.Attached(m.name) {
		// Something failed after that; the server still answers.
		if err = k.Detach(m.name); err != nil {
			m.left = true
		}
	}
	if m.server != nil {
		err = errors.Join(err, m.endServer())
	}
	if m.cluster != nil {
		m.cluster.Close()
	}
	if m.left {
		m.journal.close()
		return err
	}
	if m.created {
		err = errors.Join(err, k.Destroy(m.name))
	}
	return errors.Join(err, m.journal.remove(m.name))
}

// endServer waits for requests in flight; a signal ends that.
func (m *mapping) endServer() error {
	ended := make(chan error, 1)
	go func() { ended <- m.cluster.Do(m.server.end) }()
	select {
	case err := <-ended:
		if err == nil {
			err = m.do(func() error { m.disk.Close(); return nil })
		}
		return err
	case <-m.tool.Signals:
		m.left = true
		return errors.New("stopped with requests in flight: the next server of the device executes them again")
	}
}
