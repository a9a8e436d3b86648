// Command vitastor-mon is the monitor of a cluster: it places data, chooses
// primaries and sums up statistics; see package daemon and
// docs/usage/vitastor-mon.md.
//
// One goroutine runs the loop of the monitor; those of etcd and of the HTTP
// server post to it.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, signals))
}
