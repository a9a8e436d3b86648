package disk

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vitastor/osd/store/layout"
)

// Tool is one run of the program.
type Tool struct {
	In       io.Reader
	Out, Err io.Writer
	Programs Programs
	// Terminal tells whether Out is a terminal: long work shows its progress
	// on Err then.
	Terminal bool
	// Patience is how long udev may take; 0 = 30 seconds.
	Patience time.Duration

	json, force bool
	cached      bool              // --io cached: through the page cache
	cliOptions  map[string]string // passed on to vitastor-cli
}

// Programs runs other programs. Host is the real one.
type Programs interface {
	// Output runs a program and returns its standard output. The error of a
	// program that failed contains what it printed to standard error.
	Output(stdin string, name string, args ...string) (string, error)
	// Exec replaces this process; it returns only on failure.
	Exec(name string, args ...string) error
}

// Host are the programs of this machine.
type Host struct{}

// Output implements Programs.
func (Host) Output(stdin string, name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// Messages are parsed: no translation.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Exec implements Programs.
func (Host) Exec(name string, args ...string) error {
	path, err := lookPath(name)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, append([]string{name}, args...), os.Environ()))
}

// lookPath finds a program; the folders of system programs are not in the PATH
// of ordinary users, nor of some services.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s: install it or add its folder to PATH", exec.ErrNotFound, name)
}

// IsTerminal tells whether a file descriptor of this process is a terminal.
func IsTerminal(fd int) bool {
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return err == nil && (strings.HasPrefix(target, "/dev/pts/") || strings.HasPrefix(target, "/dev/tty") || target == "/dev/console")
}

// note prints a line for the user; results go to Out, everything else here.
func (t *Tool) note(format string, args ...any) { fmt.Fprintf(t.Err, format+"\n", args...) }

// print prints a line of the result.
func (t *Tool) print(format string, args ...any) { fmt.Fprintf(t.Out, format+"\n", args...) }

// printJSON prints a result as one line with sorted keys (spec cli.md §1.1).
func (t *Tool) printJSON(v map[string]any) { t.print("%s", layout.Options(v).JSON()) }

// cli runs vitastor-cli.
func (t *Tool) cli(args ...string) (string, error) {
	for _, key := range cliKeys {
		if v := t.cliOptions[key]; v != "" {
			args = append(args, "--"+key, v)
		}
	}
	return t.Programs.Output("", "vitastor-cli", args...)
}

// cliKeys are the options that tell vitastor-cli which cluster to talk to.
var cliKeys = []string{"config_path", "etcd_address", "etcd_prefix"}

// progress reports long work on terminals, at most once per percent.
type progress struct {
	out     io.Writer // nil = silent
	what    string
	total   uint64
	percent int
}

func (t *Tool) progress(what string, total uint64) *progress {
	p := &progress{what: what, total: total, percent: -1}
	if t.Terminal && !t.json {
		p.out = t.Err
	}
	return p
}

func (p *progress) at(done uint64) {
	if p.out == nil || p.total == 0 {
		return
	}
	if percent := int(float64(done) / float64(p.total) * 100); percent != p.percent {
		p.percent = percent
		fmt.Fprintf(p.out, "\r%s: %d%% of %s ", p.what, percent, humanBytes(p.total))
	}
}

func (p *progress) done() {
	if p.out != nil && p.percent >= 0 {
		fmt.Fprint(p.out, "\r\033[K")
	}
}

// humanBytes is the size format of spec cli.md §1.1.
func humanBytes(n uint64) string {
	for i, unit := range []string{"T", "G", "M", "K"} {
		if size := uint64(1) << (10 * (4 - i)); n >= size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(size)), ".0") + " " + unit
		}
	}
	return fmt.Sprintf("%d B", n)
}
