// Package image gives Go programs blocking access to the images of a cluster.
//
//	cluster, err := image.Dial(ctx, image.Config{})
//	img, err := cluster.Open("disk1")
//	n, err := img.ReadAt(buf, 0)
//
// A Cluster is a client (libclient/client) on an event loop of its own
// goroutine; calls are handed to the loop and wait for it.
//
// Guarantee: what WriteAt has acknowledged is seen by every later ReadAt of this
// Cluster, and survives crashes of OSDs; after Sync it survives this process
// too. Errors name the image and say what can be done.
//
// Concurrency: everything may be called from any number of goroutines.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// DefaultConfigPath is read when Config.ConfigPath is not set.
const DefaultConfigPath = "/etc/vitastor/vitastor.conf"

// Config says how to reach a cluster. The zero value is good where the
// configuration file has an etcd_address.
type Config struct {
	ConfigPath  string // "" = DefaultConfigPath, which need not exist
	EtcdAddress string // addresses separated by commas; "" = from the file
	EtcdPrefix  string // "" = from the file, or /vitastor
	// Options are further parameters of clients, by their names in
	// docs/config: they count more than the file and etcd.
	Options map[string]string
	// Log gets what happens to connections. nil = only warnings and errors, to
	// the default logger.
	Log *slog.Logger
}

// Cluster is a connected client.
type Cluster struct {
	loop   *loop.Loop
	kv     *etcd.KV
	env    *env.Env
	client *client.Client
	cancel context.CancelFunc
	ended  chan struct{} // the loop has ended
}

// ErrClosed is the result of calls after Close.
var ErrClosed = errors.New("the connection to the cluster was closed")

// Dial connects to a cluster. It returns when the state of the cluster is
// known, or cannot be read from etcd, or ctx ends.
func Dial(ctx context.Context, c Config) (*Cluster, error) {
	if c.Log == nil {
		c.Log = slog.New(atLeast{slog.Default().Handler(), slog.LevelWarn})
	}
	layers, facts, err := c.layers()
	if err != nil {
		return nil, err
	}
	set, err := option.Merge(option.Client, facts, layers...)
	if err != nil {
		return nil, err
	}
	if err := unknown(set); err != nil {
		return nil, err
	}
	opts, _ := set.Client()
	if len(opts.Common.EtcdAddress) == 0 {
		return nil, fmt.Errorf("nobody says where etcd is: set etcd_address in %s or Config.EtcdAddress", c.path())
	}
	endpoints, err := etcd.ParseEndpoints(opts.Common.EtcdAddress...)
	if err != nil {
		return nil, err
	}
	cl := &Cluster{ended: make(chan struct{})}
	if cl.loop, err = loop.New(loop.Options{Log: c.Log}); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	cl.cancel = cancel
	go func() {
		defer close(cl.ended)
		cl.loop.Run(run)
	}()
	if err := cl.start(ctx, c, endpoints, client.Config{Layers: layers, Facts: facts}); err != nil {
		cl.stop()
		return nil, err
	}
	return cl, nil
}

// start makes the client on the loop and waits until it is ready.
func (c *Cluster) start(ctx context.Context, config Config, endpoints []string, cc client.Config) error {
	ready := make(chan error, 1)
	c.loop.Post(func() {
		e := c.loop.Env()
		e.Log = config.Log
		kv, err := etcd.Open(etcd.Config{Endpoints: endpoints, Log: config.Log}, e.Exec)
		if err != nil {
			ready <- err
			return
		}
		e.KV, c.kv, c.env = kv, kv, e
		if c.client, err = client.New(e, cc); err != nil {
			ready <- err
			return
		}
		c.client.Start(func(err error) { ready <- err })
	})
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return fmt.Errorf("etcd (%s) did not answer: %w", strings.Join(endpoints, ", "), ctx.Err())
	}
}

// Close disconnects. Operations that run end with ErrClosed. What was not
// synced may be lost: call Sync before.
func (c *Cluster) Close() error {
	closed := make(chan struct{})
	posted := c.loop.Post(func() {
		c.client.Close(func() { close(closed) })
	})
	if !posted {
		return ErrClosed
	}
	select {
	case <-closed:
	case <-c.ended:
	}
	c.stop()
	return nil
}

// stop ends the loop and gives everything back.
func (c *Cluster) stop() {
	if c.kv != nil {
		c.kv.Close()
		c.kv.Wait()
	}
	c.cancel()
	<-c.ended
	if c.client != nil {
		c.client.Free()
	}
}

// do runs f on the loop and waits until it calls done, or ctx ends.
func do[T any](ctx context.Context, c *Cluster, f func(done func(T, error))) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	results := make(chan result, 1)
	if !c.loop.Post(func() { f(func(v T, err error) { results <- result{v, err} }) }) {
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

func (c *Config) path() string {
	if c.ConfigPath == "" {
		return DefaultConfigPath
	}
	return c.ConfigPath
}

// layers are the sources of parameters besides etcd.
func (c *Config) layers() ([]option.Layer, option.Facts, error) {
	var facts option.Facts
	facts.Hostname, _ = os.Hostname()
	data, err := os.ReadFile(c.path())
	if err != nil && (c.ConfigPath != "" || !errors.Is(err, os.ErrNotExist)) {
		return nil, facts, fmt.Errorf("configuration of the cluster: %w", err)
	}
	file, problem := option.ReadLayer(option.Client, option.File, c.path(), data)
	if problem != nil {
		c.Log.Warn("configuration file", "err", problem)
	}
	given := option.Layer{Source: option.CommandLine, Where: "image.Config"}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		given.Values.SetString(name, c.Options[name])
	}
	if c.EtcdAddress != "" {
		given.Values.SetString("etcd_address", c.EtcdAddress)
	}
	if c.EtcdPrefix != "" {
		given.Values.SetString("etcd_prefix", c.EtcdPrefix)
	}
	return []option.Layer{file, given}, facts, nil
}

// unknown refuses parameters that nobody knows, which are spelling mistakes.
func unknown(s *option.Set) error {
	for _, u := range s.Unknown {
		if u.Source == option.CommandLine {
			text := fmt.Sprintf("there is no parameter %s", u.Name)
			if like := option.Suggest(u.Name); like != "" {
				text += fmt.Sprintf(", did you mean %s?", like)
			}
			return errors.New(text)
		}
	}
	return nil
}

// atLeast is a handler of a higher level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

// keys are the keys of the cluster.
func (c *Cluster) keys() schema.Keys { return c.client.Keys() }
