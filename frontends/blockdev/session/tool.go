package session

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"vitastor/internal/schema/option"
)

// Exit codes of front ends.
const (
	ExitOK     = 0
	ExitFailed = 1
)

// Tool is a front end's command line: COMMAND [DEVICE] and options.
type Tool struct {
	Usage *option.Tool
	// Commands is the part of the help about them.
	Commands string
	// Switches are options with a value that may be missing at the end of the
	// line. Compat: as the reference reads it.
	Switches []string
}

// Line is a command line that was read.
type Line struct {
	option.Command
	Verb   string
	Device string // as given
}

// Given tells whether a flag was given.
func (l *Line) Given(flag string) bool { return l.Flags[flag] != "" }

// Names are the parts of a flag that is a list.
func (l *Line) Names(flag string) (list []string) {
	for name := range strings.SplitSeq(l.Flags[flag], ",") {
		if name = strings.TrimSpace(name); name != "" {
			list = append(list, name)
		}
	}
	return list
}

// Parse reads a command line without the program's name.
func (t *Tool) Parse(args []string) (option.Command, error) {
	if n := len(args); n > 0 && slices.Contains(t.Switches, args[n-1]) {
		args = append(args[:n:n], "1")
	}
	return t.Usage.Parse(args)
}

// Main runs a command line and returns the exit code. find tells what executes a
// command, nil = there is no such. As in the reference, help is no failure.
func (t *Tool) Main(args []string, out, errs io.Writer, find func(verb string) func(*Line) error) int {
	parsed, err := t.Parse(args)
	if err == nil {
		err = t.run(&Line{Command: parsed}, out, errs, find)
	}
	if err != nil {
		fmt.Fprintf(errs, "%s: %v\n", t.Usage.Name, err)
		return ExitFailed
	}
	return ExitOK
}

func (t *Tool) run(l *Line, out, errs io.Writer, find func(verb string) func(*Line) error) error {
	if len(l.Rest) > 0 {
		l.Verb = l.Rest[0]
	}
	do := find(l.Verb)
	if l.Help || do == nil {
		if l.Verb != "" && do == nil {
			fmt.Fprintf(errs, "%s: there is no command %q\n", t.Usage.Name, l.Verb)
		}
		fmt.Fprint(out, t.Commands, t.Usage.Help())
		return nil
	}
	if len(l.Rest) > 1 {
		l.Device = l.Rest[1]
	}
	if len(l.Rest) > 2 {
		return fmt.Errorf("unexpected argument %q", l.Rest[2])
	}
	return do(l)
}
