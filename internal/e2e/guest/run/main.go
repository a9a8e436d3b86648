// Command run runs one command in a virtual machine with Debian's kernel, next
// to a cluster, for work on what needs a real kernel:
//
//	go run ./internal/e2e/guest/run -- vitastor-cli status
//	go run ./internal/e2e/guest/run -modules nbd -- sh -c 'vitastor-cli create -s 64M -p testpool a && vitastor-nbd map --image a'
//	go run ./internal/e2e/guest/run -cluster=false -- ls /dev
//
// Our programs are built first, and are in the PATH of the command, which runs
// in the machine's folder /tmp. The cluster has three OSDs and the pool
// "testpool"; /etc/vitastor/vitastor.conf says where it is. The exit code is that
// of the command; when it is not 0 the ends of all logs follow.
//
// Guarantee: nothing is left running or changed on this host, apart from -out.
// Concurrency: one goroutine.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/guest"
)

func main() {
	o := options{}
	flag.StringVar(&o.modules, "modules", "", "kernel modules to load before, separated by commas, with parameters after a space")
	flag.BoolVar(&o.cluster, "cluster", true, "start a cluster")
	flag.IntVar(&o.osds, "osds", 3, "number of OSDs")
	flag.StringVar(&o.out, "out", "", "folder of this host for logs; the machine sees it, too (default: a temporary one)")
	flag.StringVar(&o.bin, "bin", "", "folder with our programs (default: they are built)")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "kill the machine after this time")
	flag.IntVar(&o.memory, "memory", 2048, "MiB of the machine")
	flag.BoolVar(&o.console, "console", false, "print the whole console, with messages of the kernel")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "run: which command? go run ./internal/e2e/guest/run -- COMMAND ARGUMENTS...")
		os.Exit(2)
	}
	code, err := o.run(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

type options struct {
	modules, out, bin string
	cluster, console  bool
	osds, memory      int
	limit             time.Duration
}

func (o *options) run(command []string) (int, error) {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if o.out == "" {
		dir, err := os.MkdirTemp("", "guest-run-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		o.out = dir
	}
	out, err := filepath.Abs(o.out)
	logs := filepath.Join(out, "log")
	if err == nil {
		err = os.MkdirAll(logs, 0o755)
	}
	if err == nil {
		err = o.build(filepath.Join(out, "bin"))
	}
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(filepath.Join(out, "bin"))
	c := guest.Config{Args: command, Dir: "/tmp", Shared: []string{out}, MemoryMiB: o.memory, Limit: o.limit, Out: os.Stdout, Log: say,
		Env: append(os.Environ(), "PATH="+o.bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"+os.Getenv("PATH"))}
	if o.cluster {
		c.Args = append([]string{filepath.Join(o.bin, "inside"), "-bin", o.bin, "-log", logs, "-osds", strconv.Itoa(o.osds)}, command...)
	}
	if o.modules != "" {
		c.Modules = strings.Split(o.modules, ",")
	}
	console, err := os.Create(filepath.Join(out, "console"))
	if err != nil {
		return 0, err
	}
	defer console.Close()
	if c.Console = console; o.console {
		c.Console, c.Out = io.MultiWriter(console, os.Stdout), nil
	}
	code, err := guest.Run(ctx, c)
	if code != 0 || err != nil {
		fmt.Fprint(os.Stderr, guest.Logs(logs, 25))
	}
	return code, err
}

// build makes the programs; a broken one is told, and may not be needed.
func (o *options) build(dir string) error {
	if o.bin != "" {
		return nil
	}
	o.bin = dir
	began := time.Now()
	programs, err := guest.Programs()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	broken, err := guest.BuildPrograms(dir, programs)
	for name, why := range broken {
		fmt.Fprintf(os.Stderr, "%s is missing in the machine: %v\n", name, why)
	}
	say("programs were built in %v", time.Since(began).Round(time.Millisecond))
	return err
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
