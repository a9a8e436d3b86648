package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/machine"
)

// Machine says what to boot.
type Machine struct {
	// Drive is the image as QEMU names it: a file, nbd+unix:///..., and so on.
	Drive string
	Env   []string // more environment of QEMU
	// Console is the file that gets everything the machine prints, appended.
	Console string
}

// Running is a machine.
type Running struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	lines   chan string // of the console, those that begin with "VM: "; closed at the end
	ended   chan struct{}
	err     error // of Wait, after ended
	console string
	booted  time.Duration
}

// ErrEnded means that the machine does not run any more.
var ErrEnded = errors.New("the machine has ended")

// bootAttempts: TCG fails now and then before the kernel is up, on busy hosts.
const (
	bootAttempts = 2
	bootLimit    = 75 * time.Second
	linesMax     = 10000 // of a command
)

// Boot starts a machine and waits until it takes commands. It is started once
// more if the kernel does not come up.
func Boot(ctx context.Context, m Machine) (*Running, error) {
	var errs []error
	for range bootAttempts {
		r, up, err := boot(ctx, m)
		if err == nil {
			return r, nil
		}
		if errs = append(errs, err); up || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// boot also tells whether the kernel came up.
func boot(ctx context.Context, m Machine) (r *Running, up bool, err error) {
	began := time.Now()
	if r, err = start(m); err != nil {
		return nil, true, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		line, err := r.next(ctx)
		switch {
		case err != nil:
			r.Kill()
			return nil, up, fmt.Errorf("booting from %s: %w\n%s", m.Drive, err, r.tail())
		case strings.HasPrefix(line, "kernel"):
			up = true
		case line == "ready":
			r.booted = time.Since(began)
			return r, true, nil
		}
	}
}

// start runs QEMU.
func start(m Machine) (*Running, error) {
	args := append(machine.QEMUArgs(512),
		"-drive", "if=none,id=disk,format=raw,discard=unmap,file="+strings.ReplaceAll(m.Drive, ",", ",,"),
		"-device", "virtio-blk-pci,drive=disk,bootindex=0")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), m.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := os.OpenFile(m.Console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "--- %s %s\n", time.Now().Format("15:04:05.000"), strings.Join(cmd.Args, " "))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = out
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &Running{cmd: cmd, stdin: stdin, lines: make(chan string, linesMax), ended: make(chan struct{}), console: m.Console}
	go func() {
		defer close(r.ended)
		defer out.Close()
		r.read(io.TeeReader(stdout, out))
		r.err = cmd.Wait()
	}()
	return r, nil
}

// read takes what the machine prints until its end.
func (r *Running) read(console io.Reader) {
	defer close(r.lines)
	s := bufio.NewScanner(console)
	for s.Scan() {
		// Messages of the kernel may stand before it.
		if _, line, ok := strings.Cut(s.Text(), "VM: "); ok {
			select {
			case r.lines <- strings.TrimSpace(line):
			default: // nobody asked for so much
			}
		}
	}
}

// next is the next line, without "VM: ".
func (r *Running) next(ctx context.Context) (string, error) {
	select {
	case line, ok := <-r.lines:
		switch {
		case !ok:
			return "", ErrEnded
		case strings.HasPrefix(line, "failed"):
			return "", errors.New(line)
		}
		return line, nil
	case <-ctx.Done():
		return "", fmt.Errorf("the machine does not answer: %w", ctx.Err())
	}
}

// BootTime is what Boot took.
func (r *Running) BootTime() time.Duration { return r.booted }

// Do gives a command to guest/init.sh and waits until it is done. Each line of
// the answer but the last is given to line as soon as it comes.
func (r *Running) Do(ctx context.Context, command string, line func(string)) error {
	if _, err := io.WriteString(r.stdin, command+"\n"); err != nil {
		return fmt.Errorf("%s: %w: %w\n%s", command, ErrEnded, err, r.tail())
	}
	for {
		text, err := r.next(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, r.tail())
		}
		if text == "done" {
			return nil
		}
		line(text)
	}
}

// Halt shuts the machine down and waits for the end of QEMU.
func (r *Running) Halt(ctx context.Context) error {
	if err := r.Do(ctx, "halt", func(string) {}); err != nil {
		return err
	}
	select {
	case <-r.ended:
		if r.err != nil {
			return fmt.Errorf("QEMU: %w\n%s", r.err, r.tail())
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("QEMU does not end: %w\n%s", ctx.Err(), r.tail())
	}
}

// Kill ends the machine as a power failure would. It may have ended already.
func (r *Running) Kill() {
	r.cmd.Process.Kill()
	<-r.ended
}

// tail is the end of the console.
func (r *Running) tail() string {
	data, err := os.ReadFile(r.console)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-15):], []byte("\n")))
}
