// Package connection brings a process into contact with a cluster: parameters of
// all sources, an event loop on a goroutine of its own, etcd, and a client on
// that loop.
//
//	file, command line ─▶ layers ─▶ Open ─▶ loop ─┬─ etcd
//	                                              └─ client
//
// Guarantee: Open returns a client that knows the state of the cluster, or an
// error that says what to do; nothing is left running after an error or Close.
//
// Concurrency: Open, Call, Do and Close may be called from any goroutine. Client and
// Env belong to the loop: use them inside of Call and Do.
package connection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// DefaultConfigPath is read when no other path is given.
const DefaultConfigPath = "/etc/vitastor/vitastor.conf"

// Errors that callers tell in their own words.
var (
	// ErrClosed is the result of using a connection after Close.
	ErrClosed = errors.New("the connection to the cluster was closed")
	// ErrNoEtcd means that no source has etcd_address.
	ErrNoEtcd = errors.New("nobody says where etcd is: etcd_address is not set")
)

// ParameterError is a value that cannot be used, or a parameter that nobody
// knows.
type ParameterError struct {
	Unknown string // its name
	Similar string // what may have been meant
	Err     error
}

// Error implements error.
func (e *ParameterError) Error() string {
	switch {
	case e.Similar != "":
		return fmt.Sprintf("there is no parameter %s, did you mean %s?", e.Unknown, e.Similar)
	case e.Unknown != "":
		return "there is no parameter " + e.Unknown
	}
	return e.Err.Error()
}

// Unwrap is for errors.Is.
func (e *ParameterError) Unwrap() error { return e.Err }

// Config says how to reach a cluster.
type Config struct {
	// Layers are the sources of parameters besides etcd, the strongest last.
	// Parameters of the command line that nobody knows are refused.
	Layers []option.Layer
	// Log gets what happens to connections.
	Log *slog.Logger
	// Known, if set, is called when the parameters are known and nothing was
	// logged yet.
	Known func(*option.ClientConfig)
}

// Connection is a connected client.
type Connection struct {
	Loop    *loop.Loop
	Env     *env.Env
	Client  *client.Client
	Options option.ClientConfig // as known without etcd
	Etcd    []string            // URLs

	kv     *etcd.KV
	cancel context.CancelFunc
	ended  chan struct{} // the loop has ended
}

// Open connects. It returns when the state of the cluster is known, or cannot be
// read from etcd, or ctx ends.
func Open(ctx context.Context, config Config) (*Connection, error) {
	var facts option.Facts
	facts.Hostname, _ = os.Hostname()
	c := &Connection{ended: make(chan struct{})}
	err := c.parameters(config.Layers, facts)
	if err != nil {
		return nil, err
	}
	if config.Known != nil {
		config.Known(&c.Options)
	}
	if c.Loop, err = loop.New(loop.Options{Log: config.Log}); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() {
		defer close(c.ended)
		c.Loop.Run(run)
	}()
	if err := c.start(ctx, config.Log, client.Config{Layers: config.Layers, Facts: facts}); err != nil {
		c.Do(func(done func(error)) { done(nil) }) // start's function has run
		c.stop()
		return nil, err
	}
	return c, nil
}

// parameters finds Options and etcd in the sources.
func (c *Connection) parameters(layers []option.Layer, facts option.Facts) error {
	set, err := option.Merge(option.Client, facts, layers...)
	if err != nil {
		return &ParameterError{Err: err}
	}
	for _, u := range set.Unknown { // of the command line: a spelling mistake
		if u.Source == option.CommandLine {
			return &ParameterError{Unknown: u.Name, Similar: option.Suggest(u.Name)}
		}
	}
	c.Options, _ = set.Client()
	if len(c.Options.Common.EtcdAddress) == 0 {
		return ErrNoEtcd
	}
	if c.Etcd, err = etcd.ParseEndpoints(c.Options.Common.EtcdAddress...); err != nil {
		return &ParameterError{Err: fmt.Errorf("etcd_address: %w", err)}
	}
	return nil
}

// start makes the client on the loop and waits until it is ready.
func (c *Connection) start(ctx context.Context, log *slog.Logger, config client.Config) error {
	ready := make(chan error, 1)
	c.Loop.Post(func() {
		e := c.Loop.Env()
		e.Log = log
		kv, err := etcd.Open(etcd.Config{Endpoints: c.Etcd, Log: log}, e.Exec)
		if err != nil {
			ready <- err
			return
		}
		e.KV, c.kv, c.Env = kv, kv, e
		if c.Client, err = client.New(e, config); err != nil {
			ready <- err
			return
		}
		c.Client.Start(func(err error) { ready <- err })
	})
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return fmt.Errorf("etcd (%s) did not answer: %w", strings.Join(c.Etcd, ", "), context.Cause(ctx))
	}
}

// Call runs f on the loop and waits until it calls done, once, or ctx ends.
func Call[T any](ctx context.Context, c *Connection, f func(done func(T, error))) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	results := make(chan result, 1)
	if !c.Loop.Post(func() { f(func(v T, err error) { results <- result{v, err} }) }) {
		return none, ErrClosed
	}
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-c.ended:
		select {
		case r := <-results:
			return r.value, r.err
		default:
			return none, ErrClosed
		}
	}
}

// Do is Call without a value.
func (c *Connection) Do(f func(done func(error))) error {
	_, err := Call(context.Background(), c, func(done func(struct{}, error)) {
		f(func(err error) { done(struct{}{}, err) })
	})
	return err
}

// closeTimeout limits Close: all that it waits for happens in this process.
const closeTimeout = 5 * time.Second

// Close disconnects. Operations that run end with ECANCELED. What was not synced
// may be lost: submit a Sync before.
func (c *Connection) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := Call(ctx, c, func(done func(struct{}, error)) { c.Client.Close(func() { done(struct{}{}, nil) }) })
	if errors.Is(err, ErrClosed) {
		return err
	}
	c.stop()
	return nil
}

// stop ends the loop and gives everything back.
func (c *Connection) stop() {
	if c.kv != nil {
		c.kv.Close()
		c.kv.Wait()
	}
	c.cancel()
	<-c.ended
	if c.Client != nil {
		c.Client.Free()
	}
}

// File reads a configuration file; "" is that of DefaultConfigPath, which need
// not exist. What is wrong in it is a warning, because programs of the reference
// share it.
func File(path string, warn func(error)) (option.Layer, error) {
	if path == "" {
		path = DefaultConfigPath
	}
	data, err := os.ReadFile(path)
	if err != nil && (path != DefaultConfigPath || !errors.Is(err, os.ErrNotExist)) {
		return option.Layer{}, fmt.Errorf("configuration of the cluster: %w", err)
	}
	file, problem := option.ReadLayer(option.Client, option.File, path, data)
	if problem != nil {
		warn(problem)
	}
	return file, nil
}

// Quiet is a logger of warnings and errors only.
func Quiet(l *slog.Logger) *slog.Logger { return slog.New(warnings{l.Handler()}) }

// warnings is a handler of a higher level.
type warnings struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}
