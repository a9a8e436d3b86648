package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/guest/boot"
	"vitastor/internal/e2e/machine"
)

// bootModules are what process 1 needs to see the host's files.
var bootModules = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng"}

// Config says what to run in a machine.
type Config struct {
	Args []string // the program first
	Env  []string // nil = that of this process
	Dir  string   // where it runs; "" = /
	// Modules are loaded before; a name may be followed by parameters. Others are
	// where modprobe finds them.
	Modules []string
	// Shared are folders of the host that the machine may write to.
	Shared    []string
	MemoryMiB int // 0 = 2048; memory that is not used costs nothing
	// Limit is for the whole run; 0 = 3 minutes.
	Limit time.Duration
	// Console gets everything the machine prints, Out only what the command
	// prints, line by line; nil = nobody.
	Console io.Writer
	Out     io.Writer
	// Log tells of what is done before the command begins; nil = nothing.
	Log func(format string, args ...any)
}

// Errors of Run.
var (
	ErrNotUp = errors.New("the machine does not come up")
	ErrLost  = errors.New("the machine has ended without the exit code of its command")
	ErrLimit = errors.New("the command takes too long")
)

const (
	attempts  = 2
	bootLimit = 60 * time.Second
	offLimit  = 10 * time.Second // to switch off
	tailLines = 25
)

// Run boots a machine, runs the command, and returns its exit code.
func Run(ctx context.Context, c Config) (code int, err error) {
	c.defaults()
	k, err := machine.FetchKernel(machine.CacheDir())
	if err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("", "guest-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	image := filepath.Join(work, "initramfs")
	if err := c.build(k, work, image); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Limit, ErrLimit)
	defer cancel()
	return c.boot(ctx, c.qemu(k, image))
}

// boot runs QEMU, once more if the machine does not come up.
func (c *Config) boot(ctx context.Context, args []string) (int, error) {
	for attempt := 1; ; attempt++ {
		r := &running{config: c, began: time.Now()}
		code, err := r.run(ctx, args)
		if errors.Is(err, ErrNotUp) && attempt < attempts && ctx.Err() == nil {
			c.Log("%v; once more", err)
			continue
		}
		return code, err
	}
}

func (c *Config) defaults() {
	if c.Env == nil {
		c.Env = os.Environ()
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 2048
	}
	if c.Limit == 0 {
		c.Limit = 3 * time.Minute
	}
	if c.Console == nil {
		c.Console = io.Discard
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
}

// build makes the initramfs.
func (c *Config) build(k *machine.Kernel, work, image string) error {
	began := time.Now()
	root, err := cluster.Root()
	if err != nil {
		return err
	}
	program := filepath.Join(work, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/e2e/guest/init")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	modules, err := k.Modules(append(bootModules[:len(bootModules):len(bootModules)], c.Modules...)...)
	if err != nil {
		return err
	}
	data, err := c.initramfs(k, code, modules)
	if err != nil {
		return err
	}
	c.Log("initramfs: %d modules, %d KiB, made in %v", len(modules), len(data)>>10, time.Since(began).Round(time.Millisecond))
	return os.WriteFile(image, data, 0o644)
}

func (c *Config) initramfs(k *machine.Kernel, program []byte, modules []machine.Module) ([]byte, error) {
	task, err := json.Marshal(boot.Task{Args: c.Args, Env: c.Env, Dir: c.Dir, Modules: k.ModulesDir(), Shared: c.Shared})
	if err != nil {
		return nil, err
	}
	var a machine.Archive
	for _, name := range []string{"dev", "proc", "sys", boot.ModulesDir[1:]} {
		a.Dir(name)
	}
	a.Device("dev/console", 5, 1)
	a.File("init", 0o755, program)
	a.File(boot.TaskFile[1:], 0o644, task)
	for i, m := range modules {
		name := fmt.Sprintf("%s/%03d-%s", boot.ModulesDir[1:], i, m.Name)
		a.File(name+".ko", 0o644, m.Data)
		if m.Parameters != "" {
			a.File(name+".parameters", 0o644, []byte(m.Parameters))
		}
	}
	return a.End(), nil
}

// qemu is the command line.
func (c *Config) qemu(k *machine.Kernel, image string) []string {
	args := append(machine.QEMUArgs(c.MemoryMiB), "-kernel", k.ELF(), "-initrd", image, "-append", machine.CommandLine,
		"-device", "virtio-rng-pci")
	share := func(tag, dir, more string) {
		args = append(args, "-fsdev", "local,id="+tag+",path="+strings.ReplaceAll(dir, ",", ",,")+",security_model=none,multidevs=remap"+more,
			"-device", "virtio-9p-pci,fsdev="+tag+",mount_tag="+tag)
	}
	share(boot.RootTag, "/", ",readonly=on")
	for i, dir := range c.Shared {
		share(boot.ShareTag(i), dir, "")
	}
	return args
}

// running is one boot.
type running struct {
	config  *Config
	began   time.Time
	up      bool // the command has begun
	code    int
	ended   bool     // code is known
	failure string   // of process 1
	tail    []string // of the console
}

// run starts QEMU and reads the console until its end.
func (r *running) run(ctx context.Context, args []string) (int, error) {
	fmt.Fprintf(r.config.Console, "--- %s %s\n", time.Now().Format("15:04:05.000"), strings.Join(args, " "))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(bootLimit, func() { cancel(ErrNotUp) })
	defer func() { late.Stop() }()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var problems bytes.Buffer
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w (Debian: qemu-system-x86)", err)
	}
	lines := bufio.NewReader(console)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			r.line(line, late)
		}
		if r.ended { // whatever the kernel still waits for
			late.Stop()
			late = time.AfterFunc(offLimit, func() { cancel(nil) })
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	r.config.Log("the machine was on for %v and used %v of processors", time.Since(r.began).Round(time.Second),
		(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Second))
	return r.verdict(errors.Join(err, context.Cause(ctx)), problems.String())
}

// line takes one line of the console.
func (r *running) line(line string, late *time.Timer) {
	io.WriteString(r.config.Console, line)
	if r.tail = append(r.tail, strings.TrimRight(line, "\r\n")); len(r.tail) > tailLines {
		r.tail = r.tail[1:]
	}
	// Messages of the kernel may stand before it.
	_, said, ours := strings.Cut(strings.TrimRight(line, "\r\n"), boot.Prefix)
	word, text, _ := strings.Cut(said, " ")
	switch {
	case ours && word == boot.Start && !r.up:
		late.Stop()
		r.up = true
		r.config.Log("the machine is up after %v", time.Since(r.began).Round(time.Millisecond))
	case ours && word == boot.Failed:
		r.failure = text
	case ours && word == boot.Exit && r.up:
		n, err := strconv.Atoi(text)
		r.code, r.ended = n, err == nil
	case r.up && !r.ended:
		io.WriteString(r.config.Out, strings.ReplaceAll(line, "\r\n", "\n"))
	}
}

// verdict is the result, after the end of QEMU.
func (r *running) verdict(err error, problems string) (int, error) {
	switch {
	case r.ended:
		return r.code, nil
	case r.failure != "":
		return 0, fmt.Errorf("process 1 of the machine: %s\n%s", r.failure, strings.Join(r.tail, "\n"))
	case errors.Is(err, ErrLimit):
		return 0, fmt.Errorf("%w\n%s", ErrLimit, strings.Join(r.tail, "\n"))
	case r.up:
		return 0, fmt.Errorf("%w: %w\n%s%s", ErrLost, orEnded(err), problems, strings.Join(r.tail, "\n"))
	}
	return 0, fmt.Errorf("%w: %w\n%s%s", ErrNotUp, orEnded(err), problems, strings.Join(r.tail, "\n"))
}

var errEnded = errors.New("QEMU has ended")

func orEnded(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

// Logs is the end of every file in a folder: for failed runs.
func Logs(dir string, lines int) string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			data = []byte(err.Error())
		}
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&b, "=== %s\n%s\n", filepath.Base(f), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}
