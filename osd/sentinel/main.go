package sentinel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
)

// marker in the environment tells the child what it is.
const marker = "VITASTOR_SENTINEL"

// Is tells whether this process was started as a sentinel: then the program
// calls Main, and nothing else.
func Is() bool { return os.Getenv(marker) != "" && os.Args[0] == Name }

// Times of the attempts to revoke: longer than any lease there is no sense in
// trying.
const (
	revokeTimeout = time.Second
	revokePause   = 100 * time.Millisecond
	revokeTries   = 30
)

// Main is the child: it waits for the end of the pipe, revokes, and returns the
// exit code.
func Main() int {
	os.WriteFile("/proc/self/comm", []byte(Name), 0) // if that fails we only look like the OSD
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	debug.SetGCPercent(20)
	debug.FreeOSMemory()
	last, err := readOrders(os.Stdin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err) // what came before it counts
	}
	if last.Lease == 0 {
		return 0
	}
	switch err := revoke(last); {
	case errors.Is(err, env.ErrKVNoLease): // the OSD has done it itself
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: OSD %d has ended, but its lease %x could not be revoked: %v\n", Name, last.OSD, int64(last.Lease), err)
		return 1
	default:
		fmt.Fprintf(os.Stderr, "%s: OSD %d has ended, its lease is revoked\n", Name, last.OSD)
	}
	return 0
}

// readOrders reads until the end of file, which comes when no process has the
// other end any more.
func readOrders(r io.Reader) (last order, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return last, fmt.Errorf("bad order of the OSD: %w", err)
		}
		last = o
	}
	return last, lines.Err()
}

// revoke tries until it is done or etcd says that there is no such lease.
func revoke(o order) error {
	l, err := loop.New(loop.Options{})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	kv, err := etcd.Open(o.Etcd.config(), l.Env().Exec)
	if err != nil {
		return err
	}
	result := err
	tries := 0
	var attempt func()
	again := env.Timer{Fire: func() { attempt() }}
	attempt = func() {
		tries++
		kv.Revoke(o.Lease, revokeTimeout, func(err error) {
			if err == nil || errors.Is(err, env.ErrKVNoLease) || tries == revokeTries {
				result = err
				stop()
				return
			}
			l.Env().Clock.Arm(&again, revokePause)
		})
	}
	l.Env().Clock.Arm(&again, 0)
	l.Run(ctx)
	return result
}
