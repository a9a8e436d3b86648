package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/osd/daemon"
	"vitastor/osd/sentinel"
)

// Exit codes.
const (
	exitOK     = 0 // stopped by a signal, or the OSD runs already
	exitFailed = 1 // could not start, or cannot go on
	exitUsage  = 2 // the command line is not understood
)

// program is what runs until the end.
type program struct {
	lines    *logWriter
	log      *slog.Logger
	level    slog.LevelVar
	loop     *loop.Loop
	osd      *daemon.OSD
	etcd     etcd.Config
	sentinel *sentinel.Sentinel
	code     int
}

// run is the program. It ends with the first signal; the second one does not
// wait for anything.
func run(args []string, out, errs io.Writer, signals <-chan os.Signal) int {
	command, err := tool.Parse(args)
	switch {
	case err != nil:
		fmt.Fprintln(errs, "vitastor-osd:", err)
		return exitUsage
	case command.Help:
		fmt.Fprint(out, tool.Help())
		return exitOK
	case command.Flags[flagVersion] != "":
		fmt.Fprintln(out, "vitastor-osd, compatible with release", daemon.Version)
		return exitOK
	}
	p := &program{lines: newLogWriter(errs)}
	defer p.lines.flush()
	p.log = slog.New(slog.NewTextHandler(p.lines, &slog.HandlerOptions{Level: &p.level}))
	if err := p.serve(&command, signals); err != nil {
		fmt.Fprintln(errs, "vitastor-osd:", err)
		return exitFailed
	}
	return p.code
}

func (p *program) serve(c *command, signals <-chan os.Signal) error {
	options, local, err := settings(c, os.ReadFile, p.log)
	if err != nil {
		return err
	}
	if p.etcd.Endpoints, err = etcd.ParseEndpoints(local.Common.EtcdAddress...); err != nil {
		return fmt.Errorf(`%w; in %s: {"etcd_address":["10.0.0.1:2379"]}, or on the command line: --etcd_address 10.0.0.1:2379`,
			err, local.Common.ConfigPath)
	}
	if local.Memlock {
		if err := syscall.Mlockall(lockCurrent | lockFuture | lockOnFault); err != nil {
			return fmt.Errorf("osd_memlock: %w: raise the limit of locked memory (ulimit -l, LimitMEMLOCK)", err)
		}
	}
	if p.loop, err = loop.New(loop.Options{Log: p.log}); err != nil {
		return fmt.Errorf("event loop: %w", err)
	}
	p.etcd.Log = p.log
	kv, err := etcd.Open(p.etcd, p.loop)
	if err != nil {
		return fmt.Errorf("etcd_address: %w", err)
	}
	defer kv.Close()
	e := p.loop.Env()
	e.KV, e.Log = kv, p.log
	options.Exit, options.Leased, options.SetLogLevel = p.exit, p.leased, p.level.Set
	options.SetEtcd = func(addresses []string) error { return p.setEtcd(kv, addresses) }
	ended := make(chan struct{})
	defer close(ended)
	go p.supervise(signals, ended)
	p.loop.Post(func() { p.osd = daemon.Start(e, options) })
	p.loop.Run(context.Background())
	if p.osd != nil {
		p.osd.Free()
	}
	p.dismiss()
	return nil
}

// dismiss ends the sentinel, which has nothing to do after an orderly end.
func (p *program) dismiss() {
	if p.sentinel == nil {
		return
	}
	if p.code == exitOK { // the lease is revoked
		p.sentinel.Guard(0) // if it cannot be told, it finds out
	}
	p.sentinel.Close()
}

// exit is called on the loop when the OSD has ended. A failure does not wait
// for the disk: that may be what has failed.
func (p *program) exit(code int, err error) {
	p.code = code
	if err != nil && p.immediate() {
		p.lines.flush()
		exitNow(code)
	}
	p.loop.Stop()
}

// immediate tells whether requests to a disk may never end.
func (p *program) immediate() bool { return p.osd != nil && p.osd.HasDisk() }

// exitNow is os.Exit but in tests.
var exitNow = os.Exit

// leased starts the sentinel with the first lease, before anything is announced
// with it, and tells it of each further one.
func (p *program) leased(lease env.LeaseID, _ []string) {
	var err error
	if p.sentinel == nil {
		p.sentinel, err = sentinel.Start(p.osd.Number(), sentinel.Etcd{Endpoints: p.etcd.Endpoints, CAFile: p.etcd.CAFile,
			CertFile: p.etcd.CertFile, KeyFile: p.etcd.KeyFile, User: p.etcd.User, Password: p.etcd.Password})
	}
	if err == nil {
		err = p.sentinel.Guard(lease)
	}
	if err != nil {
		p.log.Warn("others will notice the death of this process later than they could", "err", err)
	}
}

// setEtcd goes over to other addresses of etcd, the sentinel included.
func (p *program) setEtcd(kv *etcd.KV, addresses []string) error {
	endpoints, err := etcd.ParseEndpoints(addresses...)
	if err == nil {
		err = kv.SetEndpoints(endpoints)
	}
	if err != nil {
		return err
	}
	p.etcd.Endpoints = endpoints
	if old := p.sentinel; old != nil {
		p.sentinel = nil
		p.leased(p.osd.Lease(), nil)
		old.Guard(0) // only now: one of them watches at any time
		old.Close()
	}
	return nil
}

// supervise hands the OSD over after a signal.
func (p *program) supervise(signals <-chan os.Signal, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case s := <-signals:
		p.log.Info("signal", "signal", s)
	}
	p.loop.Post(func() {
		if p.osd == nil {
			p.loop.Stop()
			return
		}
		p.osd.Shutdown()
	})
	select {
	case <-ended:
	case <-signals:
		p.log.Warn("stopped at once")
		p.lines.flush()
		exitNow(exitFailed)
	}
}

// Flags of mlockall(2), which are the same on all architectures we know.
const (
	lockCurrent = 1
	lockFuture  = 2
	lockOnFault = 4 // buffers that were never used cost nothing
)
