package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is a program to be run.
type Command struct {
	Program string
	Args    []string
}

// String is for messages.
func (c Command) String() string { return strings.Join(append([]string{c.Program}, c.Args...), " ") }

// Result is how a program ended.
type Result struct {
	Out, Err string
	Code     int // exit status; 128 and more = killed by a signal
}

// Runner runs programs. An error means that the program could not be started, or
// was interrupted: nobody knows what it has done.
type Runner interface {
	Run(ctx context.Context, c Command) (Result, error)
}

// killDelay is how long a program may take to end after it was asked to.
const killDelay = 10 * time.Second

// Exec is the Runner of this host.
type Exec struct{ Log *slog.Logger }

// Run implements Runner.
func (e Exec) Run(ctx context.Context, c Command) (Result, error) {
	began := time.Now()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	r := Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s: interrupted: %w", c.Program, ctx.Err())
	case errors.As(err, &exit):
		r.Code, err = exitStatus(exit), nil
	case err != nil:
		err = fmt.Errorf("%s: %w: is it installed, and in $PATH?", c.Program, err)
	}
	e.Log.Debug("ran", "command", c.String(), "code", r.Code, "err", err, "stderr", strings.TrimSpace(r.Err), "took", time.Since(began))
	return r, err
}

func exitStatus(e *exec.ExitError) int {
	if w, ok := e.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return e.ExitCode()
}

// try runs a program that has to succeed.
func try(ctx context.Context, r Runner, program string, args ...string) (string, error) {
	c := Command{program, args}
	res, err := r.Run(ctx, c)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", c, res.Code, strings.TrimSpace(res.Err+" "+res.Out))
	}
	return res.Out, err
}
