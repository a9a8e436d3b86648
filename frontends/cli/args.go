package cli

import (
	"slices"
	"strconv"
	"strings"
	"syscall"

	"vitastor/internal/schema/option"
)

// line is a command line, taken apart (spec cli.md §2.1).
type line struct {
	words   []string          // what is no option
	options map[string]string // names with underscores; flags are "1"
}

// flagOptions take no value, all others take the next argument.
var flagOptions = []string{"json", "wait", "wait_list", "long", "detail", "del", "no_color", "readonly", "readwrite",
	"force", "reverse", "allow_data_loss", "allow_up", "down_ok", "dry_run", "help", "all", "exact", "matching", "tree",
	"writers_stopped", "once"}

var shortOptions = map[byte]string{'h': "help", 'l': "long", 'n': "count", 'p': "pool", 's': "size", 'r': "reverse", 'f': "force"}

// parseLine never looks at the command: options may stand anywhere.
func parseLine(args []string) (*line, error) {
	l := &line{options: map[string]string{}}
	for i := 0; i < len(args); i++ {
		a := args[i]
		name, value, inline := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		switch {
		case a == "--":
			l.words = append(l.words, args[i+1:]...)
			return l, nil
		case len(a) > 2 && a[:2] == "--":
			name = underscores(name)
		case len(a) > 1 && a[0] == '-':
			if name = shortOptions[a[1]]; len(a) != 2 || name == "" {
				return nil, fail(syscall.EINVAL, "unknown option: %s: see vitastor-cli --help", a)
			}
			inline = false
		default:
			l.words = append(l.words, a)
			continue
		}
		switch {
		case inline:
		case slices.Contains(flagOptions, name):
			value = "1"
		case i+1 < len(args):
			i++
			value = args[i]
		default:
			value = ""
		}
		l.options[name] = value
	}
	return l, nil
}

func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (l *line) given(name string) bool { _, ok := l.options[name]; return ok }

// text is the value of an option, "" if it is not given.
func (l *line) text(name string) string { return l.options[name] }

// flag is the value of a switch. What is no word for false is true.
func (l *line) flag(name string) bool {
	v, ok := l.options[name]
	return ok && !slices.Contains([]string{"", "0", "false", "no"}, v)
}

// number is a whole number; what is none is 0.
func (l *line) number(name string) uint64 {
	n, _ := parseNumber(l.options[name])
	return n
}

// size is a number of bytes; what is none is 0.
func (l *line) size(name string) uint64 {
	n, _ := parseSize(l.options[name])
	return n
}

// arg is a word by its place, "" if there is none.
func (l *line) arg(i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

// globalOptions are understood by every command.
var globalOptions = []string{"json", "color", "no_color", "progress", "iodepth", "parallel_osds", "cas", "help", "all", "log_level",
	"config_path", "etcd_address", "etcd_prefix", "wait_list"}

// parameters are the options that are meant for the client: all that the
// command does not know.
func (r *run) parameters() option.Layer {
	given := option.Layer{Source: option.CommandLine, Where: "the command line"}
	for _, name := range sortedKeys(r.options) {
		if name != "config_path" && !r.knows(name) && option.Find(name) != nil || name == "etcd_address" || name == "etcd_prefix" {
			given.Values.SetString(name, r.options[name])
		}
	}
	return given
}

// knows tells whether an option is the command's own.
func (r *run) knows(name string) bool {
	return slices.Contains(globalOptions, name) || slices.ContainsFunc(r.command.options, func(o optionHelp) bool { return o.name == name })
}

// warnUnknown tells about options that nobody knows, which are mostly spelling
// mistakes. Compat: they are accepted.
func (r *run) warnUnknown() {
	for _, name := range sortedKeys(r.options) {
		if r.knows(name) || option.Find(name) != nil || slices.Contains(flagOptions, name) || slices.Contains(ignoredOptions, name) {
			continue
		}
		text := "warning: option --" + name + " is ignored: " + r.command.names[0] + " does not have it"
		if like := option.Suggest(name); like != "" {
			text += ", and no parameter is called so; did you mean --" + like + "?"
		}
		r.note("%s", text)
	}
}

// ignoredOptions are passed by integrations, and mean nothing.
var ignoredOptions = []string{"allow_existing", "image_meta", "size", "count", "pool"}

// osdNumbers reads OSD numbers out of words and lists with commas.
func osdNumbers(words []string) (list []uint64, ok bool) {
	for _, w := range words {
		for part := range strings.SplitSeq(w, ",") {
			n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 64)
			if err != nil || n == 0 {
				return nil, false
			}
			list = append(list, n)
		}
	}
	return list, true
}

// list reads a list with commas; "" is an empty one.
func list(s string) []string {
	out := []string{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
