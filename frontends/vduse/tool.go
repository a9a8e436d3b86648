package vduse

import (
	"io"
	"log/slog"
	"os"
	"slices"

	"vitastor/frontends/blockdev/session"
	"vitastor/internal/schema/option"
)

// Tool is the program vitastor-vduse.
type Tool struct {
	Out, Err io.Writer
	// Kernel is this host; nil = the real one.
	Kernel Kernel
	// Signals ends map.
	Signals <-chan os.Signal

	log *slog.Logger
}

// usage is the command line.
var usage = option.Tool{
	Name:      "vitastor-vduse",
	Summary:   "Attaches images to the kernel of this host as block devices (VDUSE).",
	Component: option.Client,
	Arguments: "COMMAND [DEVICE]",
	Flags: slices.Concat(session.Flags, []option.Flag{
		{Name: "name", Value: "NAME", Doc: "map: name of the device on the vDPA bus (default: the image's, with _ for what is not possible in names)"},
		{Name: "num_queues", Value: "NUMBER", Doc: "map: queues of requests (default: one per processor, 4 at most)"},
		{Name: "queue_size", Value: "NUMBER", Doc: "map: requests in a queue, a power of two from 2 to 1024 (default 256)"},
		{Name: "packed", Doc: "map: let the driver use packed rings"},
		{Name: "recover", Value: "NAME", Doc: "map: serve a device again whose server has died, with the same image and options"},
		{Name: "json", Doc: "ls: print JSON"},
		{Name: "force", Doc: "unmap: also a device that is in use"},
		{Name: "logfile", Value: "FILE", Doc: "map: where the process in the background logs to (default /dev/null)"},
		{Name: "foreground", Value: "1", Doc: "map: stay in the foreground"},
		{Name: "pidfile", Value: "FILE", Doc: "map: write the number of the process there"},
	}),
}

const commandHelp = `Commands of vitastor-vduse:

  map     attach an image (--image NAME); prints the block device, /dev/vdX
          If the server of the device has died, map with the same image and name
          takes it over: its users have only waited. See also --recover.
  unmap   detach a device: NAME, /dev/vdX or a link to it, or --image NAME
  ls      list the mapped images of this host (also: list, list-mapped)

The server of a device runs in the background. After SIGTERM, as after its death,
the device stays, and its users wait for the next server. After SIGINT the device
is detached, unless it is in use.

Examples:

  vitastor-vduse map --image disk1
  vitastor-vduse map --image disk1@monday --readonly --name backup --num-queues 1
  vitastor-vduse map --recover disk1
  vitastor-vduse unmap /dev/vda

Files:

  /run/vitastor/vduse-NAME.json, vduse-NAME.journal   state of devices ($VITASTOR_RUN_DIR)
  /dev/vduse/NAME, /sys/bus/vdpa/devices/NAME         what the kernel has of them

It needs root and the kernel modules vduse, virtio_vdpa and virtio_blk (Linux >= 5.15).

`

// command is a command line.
type command struct{ session.Line }

var commandLine = session.Tool{Usage: &usage, Commands: commandHelp, Switches: []string{"--foreground"}}

// commands are what the first argument may be.
var commands = map[string]func(*Tool, *command) error{
	"map":         (*Tool).mapImage,
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
	t.log = slog.New(slog.NewTextHandler(t.Err, nil))
	return commandLine.Main(args, t.Out, t.Err, func(verb string) func(*session.Line) error {
		if do := commands[verb]; do != nil {
			return func(l *session.Line) error { return do(t, &command{*l}) }
		}
		return nil
	})
}
