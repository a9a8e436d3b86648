// Package ublk attaches images to the kernel of this host as block devices
// /dev/ublkbN, with its driver ublk_drv: the program vitastor-ublk.
//
//	/dev/ublkbN ─▶ ublk_drv ─ shared memory, io_uring ─▶ Server ─▶ blockdev.Disk ─▶ client
//	                  ▲
//	/dev/ublk-control ┘ Call: ADD_DEV, SET_PARAMS, START_DEV, STOP_DEV, DEL_DEV ...
//
// The kernel copies data between requests and buffers of ours, one per tag,
// while it completes or takes the command of the tag: no system call is needed
// for it. (USER_COPY would be one more per request, and is not for users without
// privileges; zero copy only serves what goes on in the same ring, and our data
// leaves by sockets.)
//
// Guarantee: a device survives the death of its server: requests wait, and the
// next server gets again what was not answered. What the kernel believes durable
// is so in the cluster, also across servers.
//
// Concurrency: the loop's thread has the ring of the device, for all its queues,
// because the driver wants all commands of a queue from one thread. Control
// commands wait on other goroutines.
package ublk

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"vitastor/frontends/blockdev/session"
	"vitastor/internal/schema/option"
)

// programName is what command lines of our processes begin with.
const programName = "vitastor-ublk"

// Tool is the program vitastor-ublk.
type Tool struct {
	Out, Err io.Writer
	// Kernel is this host; nil = the real one.
	Kernel Kernel
	// Signals ends map.
	Signals <-chan os.Signal
	// Patience is how long unmap waits for requests in flight before it says, or
	// with --force does, something about it; 0 = 5 s.
	Patience time.Duration

	log *slog.Logger
}

// usage is the command line.
var usage = option.Tool{
	Name:      programName,
	Summary:   "Attaches images to the kernel of this host as block devices /dev/ublkbN.",
	Component: option.Client | option.UBLK,
	Arguments: "COMMAND [DEVICE]",
	Flags: slices.Concat(session.Flags, []option.Flag{
		{Name: "queue_depth", Value: "NUMBER", Doc: "map: requests in flight of each queue (the same as --ublk_queue_depth)"},
		{Name: "max_io_size", Value: "SIZE", Doc: "map: longest request, a power of two (the same as --ublk_max_io_size)"},
		{Name: "queues", Value: "NUMBER", Doc: "map: queues of the kernel; one thread serves all of them (default 1)"},
		{Name: "hdd", Doc: "map: tell the kernel that the device is a rotating disk"},
		{Name: "recover", Doc: "map: serve a device again whose server has died; without DEVICE, that of the image"},
		{Name: "dev_num", Value: "NUMBER", Doc: "map: N of /dev/ublkbN (default: the first free one)"},
		{Name: "pidfile", Value: "FILE", Doc: "map: write the number of the process there"},
		{Name: "logfile", Value: "FILE", Doc: "map: where the process in the background logs to (default /dev/null)"},
		{Name: "foreground", Value: "1", Doc: "map: stay in the foreground"},
		{Name: "unpriv", Value: "1", Doc: "map: make a device that a user without privileges may serve; the default without them"},
		{Name: "wait", Value: "1", Doc: "unmap: return when everything is durable and the device is gone"},
		{Name: "force", Doc: "unmap: also a device that is in use, or does not answer; map --recover: also a device of another image"},
		{Name: "json", Doc: "ls: print JSON"},
		{Name: "all", Doc: "accepted, without a meaning here"},
	}),
}

const commandHelp = `Commands of vitastor-ublk:

  map [/dev/ublkbN] --image I   attach an image; prints the device
  map --recover [/dev/ublkbN] --image I
                                serve a device again whose server has died
  unmap /dev/ublkbN             detach; also unmap --image I
  ls                            list the devices of this host (also: list, list-mapped)

`

// command is a command line.
type command struct{ session.Line }

var commandLine = session.Tool{Usage: &usage, Commands: commandHelp, Switches: []string{"--foreground", "--wait", "--unpriv"}}

// commands are what the first argument may be.
var commands = map[string]func(*Tool, *command) error{
	"map":         (*Tool).mapDevice,
	"unmap":       (*Tool).unmap,
	"ls":          (*Tool).list,
	"list":        (*Tool).list,
	"list-mapped": (*Tool).list,
}

// Main runs a command line, without the program's name, and returns the exit
// code.
func (t *Tool) Main(args []string) int {
	if t.Kernel == nil {
		t.Kernel = Host{}
	}
	if t.Patience == 0 {
		t.Patience = stopPatience
	}
	t.log = slog.New(slog.NewTextHandler(t.Err, nil))
	return commandLine.Main(args, t.Out, t.Err, func(verb string) func(*session.Line) error {
		if do := commands[verb]; do != nil {
			return func(l *session.Line) error { return do(t, &command{*l}) }
		}
		return nil
	})
}

// flag tells whether a flag was given, and is not off.
func (c *command) flag(name string) bool {
	switch c.Flags[name] {
	case "", "0", "false", "no":
		return false
	}
	return true
}

// number is the device that was chosen, and whether one was.
func (c *command) number() (device uint32, given bool, err error) {
	text := c.Device
	if text == "" {
		text = c.Flags["dev_num"]
	}
	if text == "" {
		return 0, false, nil
	}
	device, err = deviceNumber(text)
	return device, true, err
}
