// Command vitastor-vhost serves images to virtual machines over vhost-user-blk;
// see package vhost and docs/usage/vitastor-vhost.md.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"vitastor/frontends/vhost"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	tool := vhost.Tool{Out: os.Stdout, Err: os.Stderr, Signals: signals}
	os.Exit(tool.Main(os.Args[1:]))
}
