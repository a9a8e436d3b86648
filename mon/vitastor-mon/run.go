package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/loop"
	"vitastor/mon/daemon"
	"vitastor/mon/web"
)

// Exit codes.
const (
	exitOK     = 0 // stopped by a signal
	exitFailed = 1 // could not start, or cannot go on
	exitUsage  = 2 // the command line is not understood
)

// run is the program. It ends with the first signal; the second one does not
// wait for etcd.
func run(args []string, out, errs io.Writer, signals <-chan os.Signal) int {
	command, err := tool.Parse(args)
	switch {
	case err != nil:
		fmt.Fprintln(errs, "vitastor-mon:", err)
		return exitUsage
	case len(command.Rest) > 0 && command.Rest[0] != "make-etcd" || len(command.Rest) > 2:
		fmt.Fprintf(errs, "vitastor-mon: unexpected argument %q: see vitastor-mon --help; the only command is make-etcd [CONFIG_FILE]\n", command.Rest[len(command.Rest)-1])
		return exitUsage
	case command.Help:
		fmt.Fprint(out, tool.Help())
		return exitOK
	}
	log := slog.New(slog.NewTextHandler(errs, nil))
	if w := command.Rest; len(w) > 0 {
		err = thisHost(out).makeEtcd(append(w, defaultConfigPath)[1], out)
	} else {
		err = serve(&command, out, log, signals)
	}
	if err != nil {
		fmt.Fprintln(errs, "vitastor-mon:", err)
		return exitFailed
	}
	return exitOK
}

// program is what runs until the end.
type program struct {
	settings *settings
	log      *slog.Logger
	loop     *loop.Loop
	server   *embed.Server // nil = not embedded
	monitor  *daemon.Monitor
	failed   error
	stopping atomic.Bool
}

func serve(command *command, out io.Writer, log *slog.Logger, signals <-chan os.Signal) (err error) {
	p := &program{log: log}
	if p.settings, err = readSettings(command, os.ReadFile); err != nil {
		return err
	}
	if dir := command.Flags[flagEmbed]; dir != "" {
		p.server, err = embed.Start(embed.Config{Dir: dir, Client: command.Flags[flagListen], Log: slog.New(quiet{log.Handler(), &p.stopping})})
		if err != nil {
			return err
		}
		defer p.server.Stop()
		p.settings.useEtcd(p.server.Endpoint())
		fmt.Fprintln(out, "etcd_address for the other programs of this cluster:", p.server.Endpoint())
	}
	endpoints, err := p.settings.endpoints()
	if err != nil {
		return err
	}
	if p.loop, err = loop.New(loop.Options{Log: log}); err != nil {
		return fmt.Errorf("event loop: %w", err)
	}
	kv, err := etcd.Open(etcd.Config{Endpoints: endpoints, Log: log}, p.loop)
	if err != nil {
		return fmt.Errorf("etcd_address: %w", err)
	}
	defer kv.Close()
	e := p.loop.Env()
	e.KV, e.Log = kv, log
	ended := make(chan struct{})
	defer close(ended)
	go p.supervise(signals, ended)
	var http *web.Server
	p.loop.Post(func() {
		p.monitor, p.failed = daemon.Start(e, p.settings.options)
		if p.failed != nil {
			p.loop.Stop()
			return
		}
		http = web.Start(web.Options{HTTP: p.monitor.Config().HTTP, Exec: e.Exec, Snapshot: p.monitor.Snapshot, Log: log})
	})
	p.loop.Run(context.Background())
	http.Close()
	return p.failed
}

// supervise ends the program after a signal, or when the embedded etcd ends.
func (p *program) supervise(signals <-chan os.Signal, ended <-chan struct{}) {
	var etcdFailed <-chan error
	if p.server != nil {
		etcdFailed = p.server.Failed()
	}
	select {
	case <-ended:
	case s := <-signals:
		p.log.Info("stopping", "signal", s)
		p.stopping.Store(true)
		p.loop.Post(func() {
			if p.monitor == nil {
				p.loop.Stop()
				return
			}
			p.monitor.Shutdown(p.loop.Stop)
		})
		select {
		case <-ended:
		case <-signals:
			p.fail(errors.New("stopped without waiting for etcd"))
		}
	case err := <-etcdFailed:
		p.fail(fmt.Errorf("the embedded etcd has ended: %w", err))
	}
}

func (p *program) fail(err error) {
	p.loop.Post(func() {
		p.failed = err
		p.loop.Stop()
	})
}

// quiet leaves out what an embedded etcd says of its everyday life and of its
// end.
type quiet struct {
	slog.Handler
	ending *atomic.Bool
}

// Enabled implements slog.Handler.
func (q quiet) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && !q.ending.Load()
}
