// Command vitastor-osd serves one disk of a cluster; see package daemon and
// docs/usage/vitastor-osd.md.
//
// One goroutine runs the loop of the OSD; those of etcd and of signals post to
// it. A child process, the sentinel, sees to it that others notice our death.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"vitastor/osd/sentinel"
)

func main() {
	if sentinel.Is() {
		os.Exit(sentinel.Main())
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // of the log
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, signals))
}
