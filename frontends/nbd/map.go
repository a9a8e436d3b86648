package nbd

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/frontends/nbd/netlink"
	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// connectionsMax is more than any kernel profits from.
const connectionsMax = 64

// errNoFree is the end of the search for a device.
var errNoFree = errors.New("no free devices: unmap one, or load the module nbd with a larger nbds_max")

// mapDevice is the command map, netlink-map or netlink-revive.
func (t *Tool) mapDevice(c *command) error {
	m := &mapping{tool: t, netlink: c.Verb != "map", revive: c.Verb == "netlink-revive", index: -1}
	if err := m.settings(c); err != nil {
		return err
	}
	print := func(device string) {
		if !m.given || m.netlink {
			fmt.Fprintln(t.Out, device)
		}
	}
	return daemon.Run(c.Given("foreground"), c.Flags["logfile"], print, func(ready func(string)) error { return m.run(c, ready) })
}

// mapping is an image on its way to a device.
type mapping struct {
	tool            *Tool
	netlink, revive bool
	index           int
	given           bool // index was
	images          *images
	readOnly        bool
	connections     int
	memory          int
	clientFlags     uint64

	cluster *session.Session
	server  *Server
	disk    *blockdev.Image
	device  Device // by ioctl
	empty   chan struct{}
}

func (m *mapping) settings(c *command) (err error) {
	if m.images, err = chosen(c); err != nil {
		return err
	}
	if m.images.all || len(m.images.names) != 1 {
		return fmt.Errorf("%s attaches one image to one device", c.Verb)
	}
	device := c.Device
	if device == "" {
		device = c.Flags["dev_num"]
	}
	if m.given = device != ""; m.given {
		if m.index, err = netlink.Index(device); err != nil {
			return err
		}
	} else if m.revive {
		return errors.New("which device? Use netlink-revive /dev/nbdN --image NAME")
	}
	n, err := c.number("connections", 1)
	if err != nil {
		return err
	}
	if n == 0 || n > connectionsMax {
		return fmt.Errorf("--connections %d: between 1 and %d", n, connectionsMax)
	}
	memory, err := c.number("memory", MemoryDefault)
	m.connections, m.memory = int(n), int(memory)
	m.readOnly = c.Given("readonly") || m.netlink && isOn(c.Flags["nbd_ro"])
	if isOn(c.Flags["nbd_destroy_on_disconnect"]) {
		m.clientFlags |= netlink.DestroyOnDisconnect
	}
	if isOn(c.Flags["nbd_disconnect_on_close"]) {
		m.clientFlags |= netlink.DisconnectOnClose
	}
	return err
}

func isOn(text string) bool { return text != "" && text != "0" && text != "false" && text != "no" }

// run serves a device until it is disconnected, or a signal.
func (m *mapping) run(c *command, ready func(device string)) error {
	var err error
	if m.cluster, err = m.tool.connect(c); err != nil {
		return err
	}
	defer m.cluster.Close()
	err = m.cluster.Do(func(done func(error)) { done(m.open()) })
	if m.server != nil {
		defer m.server.Free()
	}
	o := &m.cluster.Options
	if err == nil && m.revive {
		err = m.cluster.MakeDurable()
	}
	if err == nil {
		err = m.tool.Kernel.Load(o.NBDMaxDevices, o.NBDMaxPart)
	}
	if err != nil {
		return err
	}
	fds, err := m.sockets()
	if err == nil {
		err = m.attach(fds)
	}
	for _, fd := range fds { // the kernel has its own references
		sys.Close(fd)
	}
	if err != nil {
		return err
	}
	err = m.wait(func() { ready(netlink.Path(m.index)) })
	if e := m.cluster.Do(func(done func(error)) { m.server.Shutdown(func() { done(nil) }) }); err == nil {
		err = e
	}
	return err
}

// open opens the image. It runs on the loop.
func (m *mapping) open() (err error) {
	m.images.cluster = m.cluster
	m.empty = make(chan struct{}, connectionsMax)
	m.server, err = NewServer(Config{Env: m.cluster.Env, Catalogue: m, ReadOnly: m.readOnly, MemoryBytes: m.memory,
		Empty: func() { m.empty <- struct{}{} }})
	if err != nil {
		return err
	}
	m.disk, err = m.images.open(m.images.names[0])
	return err
}

// Open implements Catalogue: all connections share one disk.
func (m *mapping) Open(string) (blockdev.Disk, error) { return m.disk, nil }

// List implements Catalogue.
func (m *mapping) List(func(name, description string)) {}

// sockets makes connections: one end of each is served, the other ends are for
// the kernel.
func (m *mapping) sockets() (fds []int, err error) {
	for range m.connections {
		pair, err := sys.SocketPair()
		if err != nil {
			return fds, err
		}
		fds = append(fds, pair[1])
		err = m.cluster.Do(func(done func(error)) {
			done(m.cluster.Loop.Adopt(pair[0], func(s env.Stream) env.StreamHandler { return m.server.AcceptDevice(s) }))
		})
		if err != nil {
			return fds, err
		}
	}
	return fds, nil
}

// kernelOptions are what the kernel has to know of the image.
func (m *mapping) kernelOptions() (o netlink.Options, err error) {
	config := &m.cluster.Options
	o = netlink.Options{ClientFlags: m.clientFlags, TimeoutSeconds: uint64(config.NBDTimeout.Seconds())}
	if m.netlink {
		o.DeadConnSeconds = uint64(config.NBDConnTimeout.Seconds())
	}
	if o.TimeoutSeconds == 0 && m.connections > 1 {
		o.TimeoutSeconds = patience(o.DeadConnSeconds)
	}
	err = m.cluster.Do(func(done func(error)) {
		o.SizeBytes, o.BlockBytes = kernelSize(m.disk.Info().SizeBytes)
		flags := m.server.describe(&export{disk: m.disk}).Flags
		o.ServerFlags = uint64(flags &^ nbdproto.SendDF)
		done(nil)
	})
	return o, err
}

// patience is the timeout of requests on several connections if none was asked
// for. Linux knows "never" for one connection only. Of several it gives up one
// after 30 s, because it has others, and so all of them one after the other: in
// the end a cluster that takes a minute's break costs the device. But it also
// repeats requests of a killed server only then, where that is possible.
func patience(deadConnSeconds uint64) uint64 {
	const longest = 30 * 24 * 3600 // in jiffies it has to fit into 32 bits
	if deadConnSeconds == 0 {
		return longest
	}
	return deadConnSeconds
}

// kernelSize is the size of a device, and its blocks. They are of 4 KiB, unless
// the end of the image would be lost.
func kernelSize(bytes uint64) (size, block uint64) {
	const sector, page = 512, 4096
	if bytes%page == 0 {
		return bytes, page
	}
	return bytes / sector * sector, sector
}

// attach finds a device and gives it the sockets.
func (m *mapping) attach(fds []int) error {
	o, err := m.kernelOptions()
	if err != nil {
		return err
	}
	k := m.tool.Kernel
	switch {
	case m.revive:
		err = k.Reconfigure(m.index, fds, o)
	case m.netlink:
		m.index, err = k.Connect(m.index, fds, o)
	case m.given:
		m.device, err = k.Attach(m.index, fds, o)
	default:
		err = m.attachFree(fds, o)
	}
	if err != nil {
		return err
	}
	return m.cluster.Do(func(done func(error)) {
		m.disk.Resized = m.resized
		if size, _ := kernelSize(m.disk.Info().SizeBytes); size != o.SizeBytes {
			m.resized(size) // meanwhile
		}
		done(nil)
	})
}

// attachFree tries devices in order.
func (m *mapping) attachFree(fds []int, o netlink.Options) (err error) {
	used := m.tool.mapped()
	for m.index = 0; m.tool.Kernel.Exists(m.index); m.index++ {
		if _, is := used[m.index]; is {
			continue
		}
		m.device, err = m.tool.Kernel.Attach(m.index, fds, o)
		switch {
		case errors.Is(err, syscall.EBUSY):
			continue
		case errors.Is(err, syscall.ENOENT):
			return errNoFree
		}
		return err
	}
	return errNoFree
}

// resized tells the kernel. It is called on the loop, which must not wait.
func (m *mapping) resized(bytes uint64) {
	size, _ := kernelSize(bytes)
	index, device, log := m.index, m.device, m.tool.log
	go func() {
		var err error
		if device != nil {
			err = device.Resize(size)
		} else {
			err = m.tool.Kernel.Resize(index, size)
		}
		if err != nil {
			log.Error("the new size of the image is not seen by the device: unmap and map it", "err", err)
		}
	}()
}

// wait returns when the device was disconnected. A signal disconnects it. ready
// is called when the device can be used.
func (m *mapping) wait(ready func()) error {
	if m.device != nil {
		var others sync.WaitGroup
		defer others.Wait()
		ended := make(chan struct{})
		defer close(ended)
		others.Go(func() { m.announce(ready, ended) })
		others.Go(func() {
			select {
			case <-m.tool.Signals:
				if err := m.device.Disconnect(); err != nil {
					m.tool.log.Error("disconnect", "err", err)
				}
			case <-ended:
			}
		})
		return m.device.Run()
	}
	ready()
	select {
	case <-m.empty:
		return nil
	case <-m.tool.Signals:
		return m.tool.Kernel.Disconnect(m.index)
	}
}

const (
	announceLimit = 10 * time.Second
	announcePause = 2 * time.Millisecond
)

// announce calls ready when the device has its size, which the kernel gives it
// only in Device.Run.
func (m *mapping) announce(ready func(), ended <-chan struct{}) {
	for end := time.Now().Add(announceLimit); m.tool.Kernel.SizeBytes(m.index) == 0 && time.Now().Before(end); {
		select {
		case <-ended:
			return
		case <-time.After(announcePause):
		}
	}
	ready()
}

// unmap is the command, and netlink-unmap.
func (t *Tool) unmap(c *command) error {
	if c.Device == "" {
		return fmt.Errorf("which device? Use %s /dev/nbdN (`vitastor-nbd ls` lists them)", c.Verb)
	}
	index, err := netlink.Index(c.Device)
	if err != nil {
		return err
	}
	if t.Kernel.PID(index) == 0 && !c.Given("force") {
		return fmt.Errorf("%s is not mapped (there is no /sys/block/nbd%d/pid): `vitastor-nbd ls` lists mapped devices, --force disconnects anyway",
			netlink.Path(index), index)
	}
	if mount := mountOf(t.Kernel.Mounts(), netlink.Path(index)); mount != "" && !c.Given("force") {
		return fmt.Errorf("%s is in use: it is mounted on %s. Unmount it, or use --force, with which its users get I/O errors", netlink.Path(index), mount)
	}
	if c.Verb == "netlink-unmap" {
		return t.Kernel.Disconnect(index)
	}
	return t.Kernel.Detach(index, c.Given("force"))
}

// mountOf finds where a device or one of its partitions is mounted, in the lines of
// /proc/mounts.
func mountOf(mounts, device string) string {
	for line := range strings.Lines(mounts) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if rest, is := strings.CutPrefix(words[0], device); is && (rest == "" || rest[0] == 'p') {
			return words[1]
		}
	}
	return ""
}
