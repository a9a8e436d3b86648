// Command vitastor-vduse attaches images to the kernel of this host as block
// devices; see package vduse and docs/usage/vitastor-vduse.md.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"vitastor/frontends/vduse"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	tool := vduse.Tool{Out: os.Stdout, Err: os.Stderr, Signals: signals}
	os.Exit(tool.Main(os.Args[1:]))
}
