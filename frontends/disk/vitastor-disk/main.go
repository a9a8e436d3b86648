// Command vitastor-disk prepares, inspects, checks and starts the disks of
// OSDs; see package disk and docs/usage/vitastor-disk.md.
package main

import (
	"os"
	"path/filepath"

	"vitastor/frontends/disk"
)

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "vitastor-dump-journal" {
		args = append([]string{"dump-journal"}, args...)
	}
	tool := disk.Tool{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Programs: disk.Host{}, Terminal: disk.IsTerminal(1)}
	os.Exit(tool.Main(args))
}
