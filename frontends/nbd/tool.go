package nbd

import (
	"io"
	"log/slog"
	"os"
	"slices"

	"vitastor/frontends/blockdev/session"
	"vitastor/internal/schema/option"
)

// Tool is the program vitastor-nbd.
type Tool struct {
	Out, Err io.Writer
	// Kernel is this host; nil = the real one.
	Kernel Kernel
	// Signals ends serve and map.
	Signals <-chan os.Signal

	log *slog.Logger
}

// usage is the command line.
var usage = option.Tool{
	Name:      "vitastor-nbd",
	Summary:   "Gives images to NBD clients, and to the kernel of this host as block devices.",
	Component: option.Client,
	Arguments: "COMMAND [DEVICE]",
	Flags: slices.Concat(session.Flags, []option.Flag{
		{Name: "all", Doc: "serve: all images; the list of exports shows them"},
		{Name: "json", Doc: "ls: print JSON"},
		{Name: "force", Doc: "unmap: also a device that does not look used"},
		{Name: "listen", Value: "HOST:PORT", Doc: "serve: TCP address, or several (default 127.0.0.1:10809, unless --socket is given)"},
		{Name: "socket", Value: "PATH", Doc: "serve: unix socket, or several"},
		{Name: "tls_cert", Value: "FILE", Doc: "serve: certificate (PEM) for TLS"},
		{Name: "tls_key", Value: "FILE", Doc: "serve: its key"},
		{Name: "tls_ca", Value: "FILE", Doc: "serve: authorities of client certificates, which are then required"},
		{Name: "tls_require", Doc: "serve: refuse clients that do not use TLS"},
		{Name: "memory", Value: "BYTES", Doc: "serve, map: memory for data in flight (default 268435456)"},
		{Name: "max_connections", Value: "NUMBER", Doc: "serve: number of clients (default 1024)"},
		{Name: "connections", Value: "NUMBER", Doc: "map: sockets between the kernel and us (default 1)"},
		{Name: "dev_num", Value: "NUMBER", Doc: "map: N of /dev/nbdN (default: the first free one)"},
		{Name: "logfile", Value: "FILE", Doc: "map: where the process in the background logs to (default /dev/null)"},
		{Name: "foreground", Value: "1", Doc: "map: stay in the foreground"},
		{Name: "pidfile", Value: "FILE", Doc: "serve: write the number of the process there"},
		{Name: "nbd_destroy_on_disconnect", Value: "1", Doc: "netlink-map: the kernel removes the device when it is disconnected"},
		{Name: "nbd_disconnect_on_close", Value: "1", Doc: "netlink-map: the kernel disconnects the device when its last user closes it"},
		{Name: "nbd_ro", Value: "1", Doc: "netlink-map: the same as --readonly"},
	}),
}

const commandHelp = `Commands of vitastor-nbd:

  serve          serve images (--image A,B,C) to NBD clients over TCP or unix sockets, until a signal
  map            attach an image to /dev/nbdN of this host, by ioctl; prints the device
  unmap          detach /dev/nbdN
  ls             list the mapped images of this host (also: list, list-mapped)
  netlink-map    attach by netlink: survives the death of this program, see netlink-revive
  netlink-revive /dev/nbdN  serve a device again whose server has died
  netlink-unmap  detach by netlink

`

// command is a command line.
type command struct{ session.Line }

var commandLine = session.Tool{Usage: &usage, Commands: commandHelp, Switches: []string{"--foreground"}}

// commands are what the first argument may be.
var commands = map[string]func(*Tool, *command) error{
	"serve":          (*Tool).serve,
	"map":            (*Tool).mapDevice,
	"unmap":          (*Tool).unmap,
	"ls":             (*Tool).list,
	"list":           (*Tool).list,
	"list-mapped":    (*Tool).list,
	"netlink-map":    (*Tool).mapDevice,
	"netlink-revive": (*Tool).mapDevice,
	"netlink-unmap":  (*Tool).unmap,
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

// connect returns when the state of the cluster is known.
func (t *Tool) connect(c *command) (*session.Session, error) {
	return session.Connect(session.Config{Program: programName, Options: c.Options, Log: t.log, Stop: t.Signals,
		WriteBack: c.Verb == "map"}) // such a device dies with its server
}

// number reads a flag; missing = what it is if it was not given.
func (c *command) number(flag string, missing uint64) (uint64, error) {
	return session.Number(c.Command, flag, missing)
}
