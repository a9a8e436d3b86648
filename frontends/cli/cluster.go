package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
	"vitastor/libclient/connection"
)

// etcdTimeout is for one transaction; startTimeout for learning the state of
// the cluster; attemptsMax bounds the repetitions when others change the same
// keys.
const (
	etcdTimeout  = 5 * time.Second
	startTimeout = 30 * time.Second
	attemptsMax  = 100
)

// cluster is a connection, and what commands ask of it.
type cluster struct {
	conn   *connection.Connection
	env    *env.Env
	client *client.Client
	keys   schema.Keys
}

var errDisconnected = errors.New("the connection to the cluster was lost")

// connect makes the client when a command first needs it. It returns when the
// state of the cluster is known.
func (r *run) connect() (*cluster, error) {
	if r.conn != nil {
		return r.conn, nil
	}
	c, err := dial(r)
	if err != nil {
		var f *failure
		if !errors.As(err, &f) {
			err = fail(errStart, "%v", err)
		}
		return nil, err
	}
	r.conn = c
	return c, nil
}

func dial(r *run) (*cluster, error) {
	layers, err := r.layers()
	if err != nil {
		return nil, err
	}
	out := &heldLog{out: r.Err}
	level := &slog.LevelVar{}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: plainLog}))
	ctx, cancel := context.WithTimeoutCause(context.Background(), startTimeout, fmt.Errorf("waited for %v", startTimeout))
	defer cancel()
	conn, err := connection.Open(ctx, connection.Config{Layers: layers, Log: log, Known: func(o *option.ClientConfig) {
		level.Set(logLevel(o.Network.LogLevel))
		out.held = o.Network.LogLevel <= 0
	}})
	var bad *connection.ParameterError
	switch {
	case errors.Is(err, connection.ErrNoEtcd):
		return nil, fmt.Errorf("etcd_address is missing in Vitastor configuration: set it in %s or with --etcd_address", r.configPath())
	case errors.As(err, &bad):
		return nil, fail(syscall.EINVAL, "%v", err)
	case err != nil:
		return nil, err
	}
	out.release()
	return &cluster{conn, conn.Env, conn.Client, conn.Client.Keys()}, nil
}

// disconnect ends what connect began; unsynced writes must have been synced.
func (r *run) disconnect() {
	if r.conn != nil {
		r.conn.conn.Close()
	}
}

// await runs f on the loop and waits until it calls done.
func await[T any](c *cluster, f func(done func(T))) (T, error) {
	v, err := connection.Call(context.Background(), c.conn, func(done func(T, error)) { f(func(v T) { done(v, nil) }) })
	if err != nil {
		err = errDisconnected
	}
	return v, err
}

// on runs f on the loop and waits for its end.
func (c *cluster) on(f func()) error {
	_, err := await(c, func(done func(bool)) { f(); done(true) })
	return err
}

// txn runs a transaction. An error means that its outcome is not known, or that
// etcd refuses it.
func (c *cluster) txn(t *env.Txn) (*env.TxnResponse, error) {
	type answer struct {
		r   *env.TxnResponse
		err error
	}
	a, err := await(c, func(done func(answer)) {
		c.env.KV.Txn(t, etcdTimeout, func(r *env.TxnResponse, err error) { done(answer{r, err}) })
	})
	if err == nil {
		err = a.err
	}
	if err != nil {
		return nil, etcdFailure(err)
	}
	return a.r, nil
}

// read reads keys and ranges at one moment.
func (c *cluster) read(ops ...env.KVOp) ([]env.KVOpResponse, int64, error) {
	r, err := c.txn(&env.Txn{Then: ops})
	if err != nil {
		return nil, 0, fail(syscall.EIO, "etcd: %v", errors.Unwrap(err))
	}
	return r.Responses, r.Revision, nil
}

// get reads a key; the zero value is one that does not exist.
func (c *cluster) get(key string) (env.KeyValue, error) {
	r, _, err := c.read(getOp(key))
	if err != nil || len(r[0].KVs) == 0 {
		return env.KeyValue{}, err
	}
	return r[0].KVs[0], nil
}

func getOp(key string) env.KVOp { return env.KVOp{Kind: env.KVGet, Key: key} }

// until waits until the client knows what config/ was at a revision.
func (c *cluster) until(revision int64) error {
	for {
		seen := int64(0)
		if err := c.on(func() { seen = c.client.View().ConfigRevision() }); err != nil || seen >= revision {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// do executes an operation on images and waits for it.
func (c *cluster) do(op *client.Op) (syscall.Errno, error) {
	return await(c, func(done func(syscall.Errno)) {
		op.Done = func(op *client.Op) { done(op.Err) }
		c.client.Submit(op)
	})
}

// request sends a request to an OSD and waits for the answer.
func (c *cluster) request(raw *client.Raw) error {
	_, err := await(c, func(done func(bool)) {
		raw.Done = func(*client.Raw) { done(true) }
		c.client.Request(raw)
	})
	return err
}

// view runs f with the present state of the cluster.
func (c *cluster) view(f func(v *clusterview.View)) error {
	return c.on(func() { f(c.client.View()) })
}

func (r *run) configPath() string {
	if p := r.text("config_path"); p != "" {
		return p
	}
	return connection.DefaultConfigPath
}

// layers are the sources of parameters besides etcd.
func (r *run) layers() ([]option.Layer, error) {
	file, err := connection.File(r.configPath(), func(err error) { r.note("warning: %v", err) })
	if err != nil && !errors.Is(err, os.ErrNotExist) { // Compat: that is an empty one
		return nil, err
	}
	// People wait: daemons try for longer.
	impatient := option.Layer{Source: option.File, Where: "vitastor-cli"}
	impatient.Values.SetUint("max_etcd_attempts", 1)
	return []option.Layer{impatient, file, r.parameters()}, nil
}

// heldLog keeps messages back while connecting: if that fails, the result tells
// the reason, once.
type heldLog struct {
	mu   sync.Mutex
	out  io.Writer
	held bool
	text []byte
}

// Write implements io.Writer.
func (h *heldLog) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.held {
		return h.out.Write(p)
	}
	if len(h.text) < 1<<20 {
		h.text = append(h.text, p...)
	}
	return len(p), nil
}

func (h *heldLog) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	h.out.Write(h.text)
	h.text = nil
}

// logLevel: warnings and worse, unless more is wanted.
func logLevel(n int) slog.Level {
	switch {
	case n <= 0:
		return slog.LevelWarn
	case n < 10:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// plainLog leaves the time out: people are watching.
func plainLog(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
