// Command vitastor-cli manages pools, images and OSDs; see package cli and
// docs/usage/vitastor-cli.md.
package main

import (
	"os"
	"path/filepath"

	"vitastor/frontends/cli"
)

func main() {
	tool := cli.Tool{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: cli.IsTerminal(1), Name: filepath.Base(os.Args[0])}
	os.Exit(tool.Main(os.Args[1:]))
}
