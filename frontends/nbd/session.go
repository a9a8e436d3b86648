package nbd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

const defaultConfigPath = "/etc/vitastor/vitastor.conf"

// connection is that of this process to a cluster: a loop on a goroutine
// of its own, and a client on it.
type connection struct {
	loop    *loop.Loop
	env     *env.Env
	kv      *etcd.KV
	client  *client.Client
	options option.ClientConfig
	cancel  context.CancelFunc
	ended   chan struct{}
}

// errStopped is the result of being told to stop while something is started.
var errStopped = errors.New("stopped")

// connect returns when the state of the cluster is known.
func (t *Tool) connect(c *command) (*connection, error) {
	layers, facts, err := sources(c, t.log)
	if err != nil {
		return nil, err
	}
	set, err := option.Merge(option.Client, facts, layers...)
	if err != nil {
		return nil, err
	}
	for _, u := range set.Unknown {
		if u.Source == option.CommandLine {
			return nil, unknownOption(u.Name)
		}
	}
	cl := &connection{ended: make(chan struct{})}
	cl.options, _ = set.Client()
	if len(cl.options.Common.EtcdAddress) == 0 {
		return nil, fmt.Errorf(`nobody says where etcd is: write {"etcd_address":["10.0.0.1:2379"]} into %s, or use --etcd_address 10.0.0.1:2379`,
			configPath(c))
	}
	endpoints, err := etcd.ParseEndpoints(cl.options.Common.EtcdAddress...)
	if err != nil {
		return nil, fmt.Errorf("etcd_address: %w", err)
	}
	if cl.loop, err = loop.New(loop.Options{Log: t.log}); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	cl.cancel = cancel
	go func() {
		defer close(cl.ended)
		cl.loop.Run(run)
	}()
	if err := cl.start(t, endpoints, client.Config{Layers: layers, Facts: facts}); err != nil {
		cl.stop()
		return nil, err
	}
	return cl, nil
}

func (cl *connection) start(t *Tool, endpoints []string, config client.Config) error {
	ready := make(chan error, 1)
	cl.loop.Post(func() {
		e := cl.loop.Env()
		e.Log = slog.New(atLeast{t.log.Handler(), slog.LevelWarn})
		kv, err := etcd.Open(etcd.Config{Endpoints: endpoints, Log: e.Log}, e.Exec)
		if err != nil {
			ready <- err
			return
		}
		e.KV, cl.kv, cl.env = kv, kv, e
		if cl.client, err = client.New(e, config); err != nil {
			ready <- err
			return
		}
		cl.client.Start(func(err error) { ready <- err })
	})
	select {
	case err := <-ready:
		return err
	case <-t.Signals:
		return errStopped
	}
}

// do runs f on the loop and waits until it calls done.
func (cl *connection) do(f func(done func(error))) error {
	result := make(chan error, 1)
	if !cl.loop.Post(func() { f(func(err error) { result <- err }) }) {
		return loop.ErrStopped
	}
	select {
	case err := <-result:
		return err
	case <-cl.ended:
		return loop.ErrStopped
	}
}

// close disconnects after everything was made durable; another signal ends the
// waiting for that.
func (cl *connection) close(t *Tool) {
	synced := make(chan syscall.Errno, 1)
	cl.loop.Post(func() {
		cl.client.Submit(&client.Op{Kind: client.Sync, Done: func(op *client.Op) { synced <- op.Err }})
	})
	select {
	case err := <-synced:
		if err != 0 {
			t.log.Error("the last writes may be lost", "err", err)
		}
	case <-t.Signals:
		t.log.Error("stopped before the last writes were durable", "bytes", cl.client.Unsynced())
	}
	cl.do(func(done func(error)) { cl.client.Close(func() { done(nil) }) })
	cl.stop()
}

func (cl *connection) stop() {
	if cl.kv != nil {
		cl.kv.Close()
		cl.kv.Wait()
	}
	cl.cancel()
	<-cl.ended
	if cl.client != nil {
		cl.client.Free()
	}
}

func configPath(c *command) string {
	var path string
	if json.Unmarshal(c.Options.Values.Get("config_path"), &path) == nil && path != "" {
		return path
	}
	return defaultConfigPath
}

// sources are the configuration file and the command line. Data may be cached
// here, because clients flush.
func sources(c *command, log *slog.Logger) (layers []option.Layer, facts option.Facts, err error) {
	facts.Hostname, _ = os.Hostname()
	path := configPath(c)
	data, err := os.ReadFile(path)
	if err != nil && (path != defaultConfigPath || !errors.Is(err, fs.ErrNotExist)) {
		return nil, facts, fmt.Errorf("configuration of the cluster: %w", err)
	}
	file, problem := option.ReadLayer(option.Client, option.File, path, data)
	if problem != nil {
		log.Warn("configuration file", "err", problem)
	}
	allowed := option.Layer{Source: option.File, Where: "vitastor-nbd"}
	allowed.Values.SetString("client_writeback_allowed", "true")
	return []option.Layer{allowed, file, c.Options}, facts, nil
}

func unknownOption(name string) error {
	if like := option.Suggest(name); like != "" {
		return fmt.Errorf("there is no option --%s, did you mean --%s?", name, like)
	}
	return fmt.Errorf("there is no option --%s: see vitastor-nbd --help", name)
}

// atLeast is a handler of a higher level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

// Enabled implements slog.Handler.
func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}
