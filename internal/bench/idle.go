package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/loop"
)

const (
	idleArgument = "idle-process"
	idleSeconds  = 10
)

// benchIdle measures what a daemon costs that has nothing to do: a loop with a
// listener and a timer once per second, as keepalive has.
func benchIdle(_ int, report func(Row)) error {
	cmd := exec.Command(os.Args[0], idleArgument)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	text, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("idle process: %w: %s", err, text)
	}
	var ms float64
	if _, err := fmt.Sscan(string(text), &ms); err != nil {
		return fmt.Errorf("idle process said %q", text)
	}
	report(Row{Figure: "CPU of an idle process", Value: fmt.Sprintf("%.2f ms/s", ms), Target: "< 1 ms/s", OK: ms < 1})
	return nil
}

// runIdle is the idle process; it prints its CPU time in ms per second.
func runIdle() {
	l, err := loop.New(loop.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), (idleSeconds+1)*time.Second)
	defer cancel()
	go l.Post(func() { beIdle(l) })
	l.Run(ctx)
}

func beIdle(l *loop.Loop) {
	_, err := l.Listen(netip.MustParseAddrPort("127.0.0.1:0"), func(env.Stream) env.StreamHandler { return nil })
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	start, ticks := cpuTime(), 0
	tick := &env.Timer{}
	tick.Fire = func() {
		if ticks++; ticks < idleSeconds {
			l.Arm(tick, time.Second)
			return
		}
		fmt.Println(float64((cpuTime() - start).Microseconds()) / 1000 / idleSeconds)
		l.Stop()
	}
	l.Arm(tick, time.Second)
}

// cpuTime is what the whole process has used, system time included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
