// Package session is the part of block front ends that is the same for all: the
// command line, the flags that choose an image, and the connection to its cluster.
//
//	vitastor-nbd map /dev/nbd1 --image disk1 --etcd_address ...
//	└─────── Tool ───────────┘ └─ TargetOf ┘ └─── Connect ───┘
//
// Guarantee: Connect returns a session whose client knows the cluster; Close
// makes everything durable first, unless it is told to stop meanwhile.
//
// Concurrency: everything but Open may be called from any goroutine; Open, Env
// and Client belong to the loop (Do).
package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
	"vitastor/libclient/connection"
)

// Config says who connects.
type Config struct {
	Program string       // such as "vitastor-nbd"
	Options option.Layer // of the command line
	Log     *slog.Logger
	// WriteBack lets the client keep writes back until a flush, as the reference
	// does. Compat: only for servers whose death the user sees as that of the
	// disk. Where another server takes over, what the dead one had in its memory
	// would be gone without anybody knowing. Command lines may say otherwise.
	WriteBack bool
	// Stop ends the waiting for the cluster, and for the last writes.
	Stop <-chan os.Signal
}

// ErrStopped is the result of being told to stop while connecting.
var ErrStopped = errors.New("stopped")

// Session is a connection to a cluster.
type Session struct {
	*connection.Connection
	config Config
}

// Connect returns when the state of the cluster is known.
func Connect(c Config) (*Session, error) {
	path := configPath(c.Options)
	file, err := connection.File(path, func(err error) { c.Log.Warn("configuration file", "err", err) })
	if err != nil {
		return nil, err
	}
	writeBack := option.Layer{Source: option.CommandLine, Where: c.Program}
	writeBack.Values.SetString("client_writeback_allowed", strconv.FormatBool(c.WriteBack))
	layers := []option.Layer{file, writeBack, c.Options}
	if c.WriteBack { // unless somebody forbids it
		writeBack.Source = option.File
		layers = []option.Layer{writeBack, file, c.Options}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan struct{})
	stopped := make(chan bool, 1)
	go func() {
		select {
		case <-c.Stop:
			cancel(ErrStopped)
			stopped <- true
		case <-ended:
			stopped <- false
		}
	}()
	conn, err := connection.Open(ctx, connection.Config{Layers: layers, Log: connection.Quiet(c.Log)})
	close(ended)
	wasStopped := <-stopped
	cancel(nil)
	var bad *connection.ParameterError
	switch {
	case wasStopped && err == nil:
		conn.Close()
		return nil, ErrStopped
	case errors.Is(err, connection.ErrNoEtcd):
		return nil, fmt.Errorf(`%w: write {"etcd_address":["10.0.0.1:2379"]} into %s, or use --etcd_address 10.0.0.1:2379`, err, path)
	case errors.As(err, &bad) && bad.Similar != "":
		return nil, fmt.Errorf("there is no option --%s, did you mean --%s?", bad.Unknown, bad.Similar)
	case errors.As(err, &bad) && bad.Unknown != "":
		return nil, fmt.Errorf("there is no option --%s: see %s --help", bad.Unknown, c.Program)
	case err != nil:
		return nil, err
	}
	return &Session{conn, c}, nil
}

// configPath is the configuration file that the command line names, or the
// usual one.
func configPath(l option.Layer) string {
	var path string
	if json.Unmarshal(l.Values.Get("config_path"), &path) == nil && path != "" {
		return path
	}
	return connection.DefaultConfigPath
}

// Close disconnects after everything was made durable; another signal ends the
// waiting for that.
func (s *Session) Close() {
	synced := make(chan syscall.Errno, 1)
	s.Loop.Post(func() {
		s.Client.Submit(&client.Op{Kind: client.Sync, Done: func(op *client.Op) { synced <- op.Err }})
	})
	select {
	case err := <-synced:
		if err != 0 {
			s.config.Log.Error("the last writes may be lost", "err", err)
		}
	case <-s.config.Stop:
		s.config.Log.Error("stopped before the last writes were durable", "bytes", s.Client.Unsynced())
	}
	s.Connection.Close()
}

// Open opens what a command line has chosen. It is called on the loop.
func (s *Session) Open(t Target) (*blockdev.Image, error) {
	if t.Inode != 0 {
		return blockdev.OpenInode(s.Env, s.Client, t.Inode, t.SizeBytes)
	}
	disk, err := blockdev.OpenImage(s.Env, s.Client, t.Image)
	if err == nil && disk.Info().SizeBytes == 0 {
		disk.Close()
		return nil, fmt.Errorf("image %s has size 0: `vitastor-cli modify --resize SIZE %s` makes it larger", t.Image, t.Image)
	}
	return disk, err
}
