package vhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/virtio"
	"vitastor/internal/schema/option"
)

// programName is what command lines of our processes begin with.
const programName = "vitastor-vhost"

// modeDefault lets the group of the socket connect: that of the hypervisor.
const modeDefault = 0o660

// Tool is the program vitastor-vhost.
type Tool struct {
	Out, Err io.Writer
	// Signals ends serve and map.
	Signals <-chan os.Signal

	log *slog.Logger
}

// usage is the command line.
var usage = option.Tool{
	Name:      programName,
	Summary:   "Serves images to virtual machines: the back-end of vhost-user-blk of QEMU, libvirt and others.",
	Component: option.Client,
	Arguments: "COMMAND [SOCKET]",
	Flags: slices.Concat(session.Flags, []option.Flag{
		{Name: "socket", Value: "PATH", Doc: "where the hypervisor connects; for several images (--image A,B) as many (default of map: in /run/vitastor)"},
		{Name: "mode", Value: "OCTAL", Doc: "permissions of the socket (default 660)"},
		{Name: "group", Value: "NAME", Doc: "group of the socket, whose members may connect (default: that of this process)"},
		{Name: "num_queues", Value: "NUMBER", Doc: "queues that are offered, 1 to 64 (default 16)"},
		{Name: "queue_size", Value: "NUMBER", Doc: "descriptors of a queue that requests are made for, 4 to 1024 (default 128)"},
		{Name: "serial", Value: "TEXT", Doc: "what the guest finds in /sys/block/vdX/serial (default: the name of the image)"},
		{Name: "pidfile", Value: "FILE", Doc: "serve, map: write the number of the process there"},
		{Name: "logfile", Value: "FILE", Doc: "map: where the process in the background logs to (default /dev/null)"},
		{Name: "foreground", Value: "1", Doc: "map: stay in the foreground"},
		{Name: "json", Doc: "ls: print JSON"},
	}),
}

const commandHelp = `Commands of vitastor-vhost:

  serve          serve images at unix sockets, until a signal: --image I --socket PATH
  map            the same for one image, in the background; prints the path of the socket
  unmap SOCKET   end what map has begun; also unmap --image I
  ls             list the sockets of this host (also: list, list-mapped)

`

// command is a command line.
type command struct{ session.Line }

var commandLine = session.Tool{Usage: &usage, Commands: commandHelp, Switches: []string{"--foreground"}}

// commands are what the first argument may be.
var commands = map[string]func(*Tool, *command) error{
	"serve":       (*Tool).serve,
	"map":         (*Tool).mapImage,
	"unmap":       (*Tool).unmap,
	"ls":          (*Tool).list,
	"list":        (*Tool).list,
	"list-mapped": (*Tool).list,
}

// Main runs a command line, without the program's name, and returns the exit
// code.
func (t *Tool) Main(args []string) int {
	t.log = slog.New(slog.NewTextHandler(t.Err, nil))
	return commandLine.Main(args, t.Out, t.Err, func(verb string) func(*session.Line) error {
		if do := commands[verb]; do != nil {
			return func(l *session.Line) error { return do(t, &command{*l}) }
		}
		return nil
	})
}

// serve is the command: several images until a signal.
func (t *Tool) serve(c *command) error {
	if c.Device != "" {
		return fmt.Errorf("serve does not take %q: use --socket %[1]s", c.Device)
	}
	s := &service{tool: t}
	if err := s.settings(c); err != nil {
		return err
	}
	if len(s.paths) != len(s.targets) {
		return fmt.Errorf("%d sockets for %d images: write --image A,B --socket PATH-OF-A,PATH-OF-B", len(s.paths), len(s.targets))
	}
	return s.run(c, func() error {
		for _, p := range s.paths {
			fmt.Fprintln(t.Out, p)
		}
		return nil
	})
}

// mapImage is the command map.
func (t *Tool) mapImage(c *command) error {
	s := &service{tool: t}
	if err := s.settings(c); err != nil {
		return err
	}
	if len(s.targets) != 1 || len(s.paths) > 1 {
		return errors.New("map serves one image at one socket: use serve for more")
	}
	if c.Device != "" {
		s.paths = append(s.paths, c.Device)
	}
	switch len(s.paths) {
	case 0:
		if err := os.MkdirAll(daemon.StateDir(), 0o755); err != nil {
			return fmt.Errorf("the folder of sockets: %w: use --socket PATH", err)
		}
		s.paths = []string{defaultSocket(s.targets[0])}
	case 2:
		return errors.New("the socket was given twice")
	}
	path, err := filepath.Abs(s.paths[0])
	if err != nil {
		return err
	}
	s.paths[0] = path
	print := func(path string) { fmt.Fprintln(t.Out, path) }
	return daemon.Run(c.Given("foreground"), c.Flags["logfile"], print, func(ready func(string)) error {
		return s.run(c, func() error {
			if err := daemon.SaveState(stateKind, path, s.state(c)); err != nil {
				return err
			}
			ready(path)
			return nil
		})
	})
}

// service is a running serve or map.
type service struct {
	tool    *Tool
	targets []session.Target
	paths   []string
	config  Config

	cluster *session.Session
	disks   []*blockdev.Image
	exports []*Export
}

// settings reads the options.
func (s *service) settings(c *command) error {
	if err := s.choose(c); err != nil {
		return err
	}
	queues, err := session.Number(c.Command, "num_queues", QueuesDefault)
	if err != nil {
		return err
	}
	size, err := session.Number(c.Command, "queue_size", virtio.QueueSizeDefault)
	if err != nil {
		return err
	}
	if queues < 1 || queues > virtio.QueuesMax || size < 4 || size > virtio.QueueSizeMax {
		return fmt.Errorf("--num_queues %d --queue_size %d: 1 to %d queues of 4 to %d descriptors are possible",
			queues, size, virtio.QueuesMax, virtio.QueueSizeMax)
	}
	s.config = Config{ReadOnly: c.Given("readonly"), Queues: int(queues), QueueSize: int(size), Serial: c.Flags["serial"]}
	return s.access(c)
}

// access reads who may connect.
func (s *service) access(c *command) error {
	s.config.Mode = modeDefault
	if text := c.Flags["mode"]; text != "" {
		mode, err := strconv.ParseUint(text, 8, 9)
		if err != nil {
			return fmt.Errorf("--mode %s: octal permissions are expected, such as 660", text)
		}
		s.config.Mode = os.FileMode(mode)
	}
	if name := c.Flags["group"]; name != "" {
		g, err := user.LookupGroup(name)
		if err == nil {
			s.config.GID, err = strconv.Atoi(g.Gid)
		}
		if err != nil {
			return fmt.Errorf("--group %s: %w", name, err)
		}
	}
	return nil
}

// choose reads which images are served, and where.
func (s *service) choose(c *command) error {
	if names := c.Names("image"); len(names) > 1 {
		for _, name := range names {
			s.targets = append(s.targets, session.Target{Image: name})
		}
	} else {
		target, err := session.TargetOf(c.Command)
		if err != nil {
			return err
		}
		s.targets = []session.Target{target}
	}
	paths := c.Names("socket")
	if len(s.targets) == 1 && len(paths) > 0 {
		paths = []string{c.Flags["socket"]} // which may have commas
	}
	for _, path := range paths {
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		s.paths = append(s.paths, path)
	}
	return nil
}

// run serves until a signal; ready is called when clients can connect.
func (s *service) run(c *command, ready func() error) (err error) {
	if err := s.free(); err != nil {
		return err
	}
	s.cluster, err = session.Connect(session.Config{Program: programName, Options: c.Options, Log: s.tool.log, Stop: s.tool.Signals})
	if err != nil {
		return err
	}
	defer s.cluster.Close()
	err = s.cluster.Do(func(done func(error)) { done(s.open()) })
	if err == nil { // machines of a server that has died come back, and will flush
		err = s.cluster.MakeDurable()
	}
	if err == nil {
		err = s.cluster.Do(func(done func(error)) { done(s.listen()) })
	}
	if err == nil {
		err = s.wait(c, ready)
	}
	if e := s.cluster.Do(s.close); err == nil {
		err = e
	}
	return err
}

// wait waits for a signal.
func (s *service) wait(c *command, ready func() error) error {
	if path := c.Flags["pidfile"]; path != "" {
		if err := daemon.WritePID(path); err != nil {
			return err
		}
		defer os.Remove(path)
	}
	if err := ready(); err != nil {
		return err
	}
	<-s.tool.Signals
	return s.forget()
}

// free looks, before the long way to the cluster, whether sockets are taken.
func (s *service) free() error {
	for _, path := range s.paths {
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("%s exists and is no socket: use another path", path)
		}
		if taken(path) {
			return fmt.Errorf("%s is served by another process: `%s ls` shows which, `%[2]s unmap %[1]s` ends it", path, programName)
		}
	}
	return nil
}

// open opens the images. It runs on the loop.
func (s *service) open() error {
	for _, target := range s.targets {
		disk, err := s.cluster.Open(target)
		if err != nil {
			return err
		}
		s.disks = append(s.disks, disk)
	}
	return nil
}

// listen lets machines connect. It runs on the loop.
func (s *service) listen() error {
	for i, disk := range s.disks {
		c := s.config
		c.Loop, c.Env, c.Log, c.Disk, c.Path = s.cluster.Loop, s.cluster.Env, s.tool.log, disk, s.paths[i]
		if c.Serial == "" {
			c.Serial = disk.Info().Name
		}
		x, err := New(c)
		if err != nil {
			return err
		}
		disk.Resized = func(uint64) { x.Resized() }
		s.exports = append(s.exports, x)
	}
	return nil
}

// close ends all exports, then closes the images. It runs on the loop.
func (s *service) close(done func(error)) {
	left := len(s.exports)
	one := func() {
		if left--; left > 0 {
			return
		}
		for _, disk := range s.disks {
			disk.Close()
		}
		done(nil)
	}
	if left == 0 {
		left = 1
		one()
		return
	}
	for _, x := range s.exports {
		x.Close(one)
	}
}
