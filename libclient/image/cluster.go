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
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/connection"
)

// DefaultConfigPath is read when Config.ConfigPath is not set.
const DefaultConfigPath = connection.DefaultConfigPath

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
	conn *connection.Connection
}

// ErrClosed is the result of calls after Close.
var ErrClosed = connection.ErrClosed

// Dial connects to a cluster. It returns when the state of the cluster is
// known, or cannot be read from etcd, or ctx ends.
func Dial(ctx context.Context, c Config) (*Cluster, error) {
	if c.Log == nil {
		c.Log = connection.Quiet(slog.Default())
	}
	layers, err := c.layers()
	if err != nil {
		return nil, err
	}
	conn, err := connection.Open(ctx, connection.Config{Layers: layers, Log: c.Log})
	if errors.Is(err, connection.ErrNoEtcd) {
		err = fmt.Errorf("%w: set it in %s, or Config.EtcdAddress", err, cmp.Or(c.ConfigPath, DefaultConfigPath))
	}
	if err != nil {
		return nil, err
	}
	return &Cluster{conn}, nil
}

// Close disconnects. Operations that run end with ErrClosed. What was not
// synced may be lost: call Sync before.
func (c *Cluster) Close() error { return c.conn.Close() }

// do runs f on the loop and waits until it calls done, or ctx ends.
func do[T any](ctx context.Context, c *Cluster, f func(done func(T, error))) (T, error) {
	return connection.Call(ctx, c.conn, f)
}

// layers are the sources of parameters besides etcd.
func (c *Config) layers() ([]option.Layer, error) {
	file, err := connection.File(c.ConfigPath, func(err error) { c.Log.Warn("configuration file", "err", err) })
	if err != nil {
		return nil, err
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
	return []option.Layer{file, given}, nil
}

// keys are the keys of the cluster.
func (c *Cluster) keys() schema.Keys { return c.conn.Client.Keys() }
