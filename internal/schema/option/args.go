package option

import (
	"fmt"
	"slices"
	"strings"
)

// Tool is a program that takes options on its command line.
type Tool struct {
	Name      string // vitastor-osd
	Summary   string // one sentence for the help text
	Component Component
	// Flags are the tool's own, beside those of the table.
	Flags []Flag
	// Arguments tells that the tool takes other arguments than options; their
	// form in the usage line. "" = it does not.
	Arguments string
}

// Flag is an option of one tool.
type Flag struct {
	Name  string // with underscores
	Value string // what it is called in the help text; "" = the flag takes no value
	Doc   string
}

// Command is a command line that was understood.
type Command struct {
	Options Layer             // parameters of the table, and unknown ones
	Flags   map[string]string // the tool's own; "1" for one without a value
	Rest    []string
	Help    bool
}

// Parse reads a command line (without the program's name):
//
//	--name value    also when value begins with one dash
//	--name=value    any value
//	--flag          the tool's own, without a value
//	-h, --help      only tells that help is wanted
//	--              the rest are no options
//
// Names may be written with - or _. As in reference programs every name is
// accepted; Merge reports those that are not known. The last of several counts.
func (t *Tool) Parse(args []string) (Command, error) {
	c := Command{Options: Layer{Source: CommandLine, Where: "the command line"}, Flags: map[string]string{}}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			c.Rest, args = append(c.Rest, args...), nil
		case arg == "-h" || arg == "--help":
			c.Help = true
		case strings.HasPrefix(arg, "--"):
			used, err := t.option(&c, arg, args)
			if err != nil {
				return c, err
			}
			args = args[used:]
		default:
			c.Rest = append(c.Rest, arg)
		}
	}
	if t.Arguments == "" && len(c.Rest) > 0 && !c.Help {
		return c, fmt.Errorf("unexpected argument %q: %s only takes options, written --name value (see %s --help)",
			c.Rest[0], t.Name, t.Name)
	}
	return c, nil
}

// option reads one option and returns how many of the following arguments
// belong to it.
func (t *Tool) option(c *Command, arg string, next []string) (used int, err error) {
	written, value, assigned := strings.Cut(arg, "=")
	name := strings.ReplaceAll(written[2:], "-", "_")
	if name == "" {
		return 0, fmt.Errorf("%q is not an option: write --name value", arg)
	}
	i := slices.IndexFunc(t.Flags, func(f Flag) bool { return f.Name == name })
	switch {
	case i >= 0 && t.Flags[i].Value == "" && assigned:
		return 0, fmt.Errorf("option %s does not take a value", written)
	case i >= 0 && t.Flags[i].Value == "":
		c.Flags[name] = "1"
		return 0, nil
	case assigned:
	case len(next) == 0 || strings.HasPrefix(next[0], "--"):
		return 0, fmt.Errorf("option %s needs a value: write %s value, or %s=value if the value begins with --%s",
			written, written, written, onHint(name))
	default:
		value, used = next[0], 1
	}
	if i >= 0 {
		c.Flags[name] = value
	} else {
		c.Options.Values.SetString(name, value)
	}
	return used, nil
}

// onHint helps with a switch that is given like a flag.
func onHint(name string) string {
	if o := Find(name); o != nil && o.Kind.IsBool() {
		return fmt.Sprintf(" (to switch it on: --%s 1)", name)
	}
	return ""
}
