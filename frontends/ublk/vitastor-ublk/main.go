// Command vitastor-ublk attaches images to the kernel of this host by its driver
// ublk_drv; see package ublk and docs/usage/vitastor-ublk.md.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"vitastor/frontends/ublk"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	tool := ublk.Tool{Out: os.Stdout, Err: os.Stderr, Signals: signals}
	os.Exit(tool.Main(os.Args[1:]))
}
