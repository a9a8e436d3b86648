// Command vitastor-nbd gives images to NBD clients and to the kernel of this
// host; see package nbd and docs/usage/vitastor-nbd.md.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"vitastor/frontends/nbd"
)

func init() {
	// The kernel remembers the thread that attaches a device as its owner, and
	// shows its number: it shall be that of the process.
	runtime.LockOSThread()
}

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	tool := nbd.Tool{Out: os.Stdout, Err: os.Stderr, Signals: signals}
	os.Exit(tool.Main(os.Args[1:]))
}
