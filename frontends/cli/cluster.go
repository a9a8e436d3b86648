package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// defaultConfigPath is read when --config_path is not given.
const defaultConfigPath = "/etc/vitastor/vitastor.conf"

// etcdTimeout is for one transaction; startTimeout for learning the state of
// the cluster; attemptsMax bounds the repetitions when others change the same
// keys.
const (
	etcdTimeout  = 5 * time.Second
	startTimeout = 30 * time.Second
	attemptsMax  = 100
)

// cluster is a client on the event loop of a goroutine.
type cluster struct {
	loop      *loop.Loop
	kv        *etcd.KV
	env       *env.Env
	client    *client.Client
	endpoints []string
	keys      schema.Keys
	cancel    context.CancelFunc
	ended     chan struct{} // the loop has ended
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
	layers, facts, err := r.layers()
	if err != nil {
		return nil, err
	}
	set, err := option.Merge(option.Client, facts, layers...)
	if err != nil {
		return nil, fail(syscall.EINVAL, "%v", err)
	}
	opts, _ := set.Client()
	if len(opts.Common.EtcdAddress) == 0 {
		return nil, fmt.Errorf("etcd_address is missing in Vitastor configuration: set it in %s or with --etcd_address", r.configPath())
	}
	c := &cluster{ended: make(chan struct{})}
	if c.endpoints, err = etcd.ParseEndpoints(opts.Common.EtcdAddress...); err != nil {
		return nil, fail(syscall.EINVAL, "%v", err)
	}
	out := &heldLog{out: r.Err, held: opts.Network.LogLevel <= 0}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: logLevel(opts.Network.LogLevel), ReplaceAttr: plainLog}))
	if c.loop, err = loop.New(loop.Options{Log: log}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() {
		defer close(c.ended)
		c.loop.Run(ctx)
	}()
	if err := c.start(log, client.Config{Layers: layers, Facts: facts}); err != nil {
		c.stop()
		return nil, err
	}
	out.release()
	return c, nil
}

// start makes the client on the loop and waits until it is ready.
func (c *cluster) start(log *slog.Logger, config client.Config) error {
	ready := make(chan error, 1)
	c.loop.Post(func() {
		c.env = c.loop.Env()
		c.env.Log = log
		kv, err := etcd.Open(etcd.Config{Endpoints: c.endpoints, Log: log}, c.env.Exec)
		if err != nil {
			ready <- err
			return
		}
		c.env.KV, c.kv = kv, kv
		if c.client, err = client.New(c.env, config); err != nil {
			ready <- err
			return
		}
		c.keys = c.client.Keys()
		c.client.Start(func(err error) { ready <- err })
	})
	select {
	case err := <-ready:
		return err
	case <-time.After(startTimeout):
		return fmt.Errorf("etcd (%s) did not answer within %v", strings.Join(c.endpoints, ", "), startTimeout)
	}
}

// disconnect ends what connect began; unsynced writes must have been synced.
func (r *run) disconnect() {
	c := r.conn
	if c == nil {
		return
	}
	closed := make(chan struct{})
	if c.loop.Post(func() { c.client.Close(func() { close(closed) }) }) {
		select {
		case <-closed:
		case <-c.ended:
		case <-time.After(etcdTimeout):
		}
	}
	c.stop()
}

func (c *cluster) stop() {
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

// await runs f on the loop and waits until it calls done.
func await[T any](c *cluster, f func(done func(T))) (T, error) {
	results := make(chan T, 1)
	var none T
	if !c.loop.Post(func() { f(func(v T) { results <- v }) }) {
		return none, errDisconnected
	}
	select {
	case v := <-results:
		return v, nil
	case <-c.ended:
		return none, errDisconnected
	}
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
	return defaultConfigPath
}

// layers are the sources of parameters besides etcd.
func (r *run) layers() ([]option.Layer, option.Facts, error) {
	var facts option.Facts
	facts.Hostname, _ = os.Hostname()
	data, err := os.ReadFile(r.configPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, facts, fmt.Errorf("configuration of the cluster: %w", err)
	}
	file, problem := option.ReadLayer(option.Client, option.File, r.configPath(), data)
	if problem != nil {
		r.note("warning: %v", problem)
	}
	// People wait: daemons try for longer.
	impatient := option.Layer{Source: option.File, Where: "vitastor-cli"}
	impatient.Values.SetUint("max_etcd_attempts", 1)
	return []option.Layer{impatient, file, r.parameters()}, facts, nil
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
