package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vitastor/internal/e2e/guest/boot"
)

// Suites are the names of all cases, in the order in which they are run: front
// ends, and what chooses one.
var Suites = []string{"nbd", "nbd-netlink", "ublk", "vduse", "attach"}

// Setup is what a machine with a cluster in it needs of this host.
type Setup struct {
	Dir    string           // shared with the machine
	LogDir string           // in Dir: of all processes of the cluster
	Broken map[string]error // programs that do not compile
	OSDs   int
	bin    string // in Dir: our programs
}

// NewSetup builds our programs in a folder.
func NewSetup(dir string) (*Setup, error) {
	s := &Setup{Dir: dir, LogDir: filepath.Join(dir, "log"), OSDs: 2, bin: filepath.Join(dir, "bin")}
	if err := errors.Join(os.MkdirAll(s.LogDir, 0o755), os.MkdirAll(s.bin, 0o755)); err != nil {
		return nil, err
	}
	list, err := Programs()
	if err == nil {
		s.Broken, err = BuildPrograms(s.bin, list)
	}
	return s, err
}

// Close removes the programs.
func (s *Setup) Close() error { return os.RemoveAll(s.bin) }

// Run runs a command next to a cluster; c says what else there is to say.
func (s *Setup) Run(ctx context.Context, c Config, args ...string) (code int, err error) {
	return s.inside(ctx, c, append([]string{"--"}, args...))
}

// Cases runs the cases of front ends. Each prints a line that boot.ParseCase
// reads; what is wrong stands before it.
func (s *Setup) Cases(ctx context.Context, c Config, names ...string) (code int, err error) {
	return s.inside(ctx, c, []string{"-cases", strings.Join(names, ",")})
}

func (s *Setup) inside(ctx context.Context, c Config, more []string) (int, error) {
	c.Args = append([]string{filepath.Join(s.bin, filepath.Base(inside)), "-bin", s.bin, "-log", s.LogDir, "-osds", strconv.Itoa(s.OSDs)}, more...)
	return Run(ctx, s.Plain(c))
}

// Plain completes what a command needs that finds our programs, if it has no
// cluster: then they are read from the host, which is slow.
func (s *Setup) Plain(c Config) Config {
	c.Shared = append(c.Shared, s.Dir)
	c.Env = append(os.Environ(), "PATH="+boot.Programs+":"+s.bin+":/usr/local/sbin:/usr/sbin:/sbin:"+os.Getenv("PATH"))
	c.Dir = "/tmp"
	return c
}

// Lines is a writer that calls f for each whole line.
func Lines(f func(line string)) io.Writer { return &lines{f: f} }

type lines struct {
	rest []byte
	f    func(string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		l.rest = rest
		l.f(string(line))
	}
}
