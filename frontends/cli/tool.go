package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Tool is one run of the program.
type Tool struct {
	In       io.Reader
	Out, Err io.Writer
	// Terminal tells whether Out is a terminal: then it is colored, and
	// progress is a bar that is drawn again and again.
	Terminal bool
	// Name is what the program was called as: vitastor-rm means rm-data.
	Name string
}

// run is a command that runs.
type run struct {
	*Tool
	*line
	command  *command
	json     bool
	color    bool
	progress bool
	conn     *cluster // see connect
}

// Main runs a command line and returns the exit status: an errno, 0 = success.
func (t *Tool) Main(args []string) int {
	if code, done := t.complete(args); done {
		return code
	}
	l, err := parseLine(args)
	if err != nil {
		return t.exit(&run{Tool: t, line: &line{}}, result{}, err)
	}
	if len(l.words) == 0 && strings.HasSuffix(t.Name, "vitastor-rm") {
		l.words = []string{"rm-data"}
	}
	if len(l.words) == 0 || l.flag("help") {
		t.help(l)
		return 0
	}
	r := &run{Tool: t, line: l, json: l.flag("json"), color: t.Terminal, progress: true}
	if l.given("color") {
		r.color = l.flag("color")
	}
	if l.flag("no_color") {
		r.color = false
	}
	if l.given("progress") {
		r.progress = l.flag("progress")
	}
	r.command = findCommand(l.words[0])
	if r.command == nil {
		return t.exit(r, result{}, fail(syscall.EINVAL, "unknown command: %s", l.words[0]))
	}
	l.words = l.words[1:]
	r.warnUnknown()
	res, err := r.command.run(r)
	r.disconnect()
	return t.exit(r, res, err)
}

// exit prints a result (spec cli.md §2.3).
func (t *Tool) exit(r *run, res result, err error) int {
	var f *failure
	if err != nil && !errors.As(err, &f) {
		f = &failure{errno: errnoOf(err), text: err.Error()}
	}
	data, text := res.data, res.text
	if f != nil {
		data, text = f.data, f.text
	}
	switch {
	case res.printed && f != nil:
		fmt.Fprintln(t.Err, f.text)
	case res.printed:
	case r.json && data != nil:
		fmt.Fprintln(t.Out, encodeJSON(data))
	case r.json && f != nil:
		fmt.Fprintln(t.Out, encodeJSON(object{"error_code": int(f.errno), "error_text": f.text}))
	case text == "":
	case f != nil:
		fmt.Fprintln(t.Err, text)
	default:
		fmt.Fprintln(t.Out, text)
	}
	if f != nil {
		return int(f.errno) & 0xff
	}
	return 0
}

// note prints a line that is no result.
func (t *Tool) note(format string, args ...any) { fmt.Fprintf(t.Err, format+"\n", args...) }

// step tells what a command of several steps has done. Scripts read these lines
// from standard output, but with --json they must not disturb the result.
func (r *run) step(format string, args ...any) {
	switch {
	case !r.progress:
	case r.json:
		r.note(format, args...)
	default:
		fmt.Fprintf(r.Out, format+"\n", args...)
	}
}

// IsTerminal tells whether a file descriptor of this process is a terminal.
func IsTerminal(fd int) bool {
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return err == nil && (strings.HasPrefix(target, "/dev/pts/") || strings.HasPrefix(target, "/dev/tty") || target == "/dev/console")
}

// now is the time of day, and of measurements of long work.
func now() time.Time { return time.Now() }
