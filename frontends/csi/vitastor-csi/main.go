// Command vitastor-csi is the driver of Kubernetes (CSI); see package csi and
// docs/usage/kubernetes.md.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"vitastor/frontends/csi"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	tool := csi.Tool{Out: os.Stdout, Err: os.Stderr, Env: os.Getenv, Signals: signals}
	os.Exit(tool.Main(os.Args[1:]))
}
