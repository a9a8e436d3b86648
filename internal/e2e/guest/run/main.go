// Command run runs one command in a virtual machine with Debian's kernel, next
// to a cluster, for work on what needs a real kernel:
//
//	go run ./internal/e2e/guest/run -- vitastor-cli status
//	go run ./internal/e2e/guest/run -modules nbd -- sh -c 'vitastor-cli create -s 64M -p testpool a && vitastor-nbd map --image a'
//	go run ./internal/e2e/guest/run -cluster=false -- ls /dev
//	go run ./internal/e2e/guest/run -cases nbd            the tests of a front end
//
// Our programs are built first, and are in the PATH of the command, which runs
// in the machine's folder /tmp. The cluster has two OSDs and the pool
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
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/guest"
)

func main() {
	o := options{}
	flag.StringVar(&o.modules, "modules", "", "kernel modules to load before, separated by commas, with parameters after a space")
	flag.BoolVar(&o.cluster, "cluster", true, "start a cluster")
	flag.StringVar(&o.cases, "cases", "", "front ends whose tests to run instead of a command, such as nbd,nbd-netlink, or all")
	flag.IntVar(&o.osds, "osds", 2, "number of OSDs")
	flag.StringVar(&o.out, "out", "", "folder of this host for logs; the machine sees it, too (default: a temporary one)")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "kill the machine after this time")
	flag.IntVar(&o.memory, "memory", 2048, "MiB of the machine")
	flag.BoolVar(&o.console, "console", false, "print the whole console, with messages of the kernel")
	flag.Parse()
	if flag.NArg() == 0 && o.cases == "" {
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
	modules, out, cases string
	cluster, console    bool
	osds, memory        int
	limit               time.Duration
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
	if err != nil {
		return 0, err
	}
	began := time.Now()
	s, err := guest.NewSetup(out)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	s.OSDs = o.osds
	for name, why := range s.Broken {
		fmt.Fprintf(os.Stderr, "%s is missing in the machine: %v\n", name, why)
	}
	say("programs were built in %v", time.Since(began).Round(time.Millisecond))
	console, err := os.Create(filepath.Join(out, "console"))
	if err != nil {
		return 0, err
	}
	defer console.Close()
	code, err := o.start(ctx, s, console, command)
	if code != 0 || err != nil {
		fmt.Fprint(os.Stderr, guest.Logs(s.LogDir, 25))
	}
	return code, err
}

func (o *options) start(ctx context.Context, s *guest.Setup, console io.Writer, command []string) (int, error) {
	c := guest.Config{MemoryMiB: o.memory, Limit: o.limit, Out: os.Stdout, Console: console, Log: say}
	if o.console {
		c.Console, c.Out = io.MultiWriter(console, os.Stdout), nil
	}
	if o.modules != "" {
		c.Modules = strings.Split(o.modules, ",")
	}
	switch {
	case o.cases == "all":
		return s.Cases(ctx, c, guest.Suites...)
	case o.cases != "":
		return s.Cases(ctx, c, o.cases)
	case o.cluster:
		return s.Run(ctx, c, command...)
	}
	c.Args = command
	return guest.Run(ctx, s.Plain(c))
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
