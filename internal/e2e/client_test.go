package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// handle is an image opened by a client of its own, whose loop runs in a
// goroutine. Its methods block and may be called from many goroutines.
type handle struct {
	name   string
	inode  meta.Inode
	loop   *loop.Loop
	kv     *etcd.KV
	client *client.Client
	close  sync.Once
	ended  chan struct{}
}

// dial opens an image; options are names and values of client parameters.
func (r *rig) dial(name string, options ...string) *handle {
	r.Helper()
	h, err := r.open1(name, options)
	r.must(err)
	r.Cleanup(h.Close)
	return h
}

func (r *rig) open1(name string, options []string) (*handle, error) {
	text, err := r.c.Get(r.c.Keys.ImageIndex(name))
	if err != nil {
		return nil, err
	}
	inode, err := schema.DecodeImageIndex(name, text)
	if err != nil || inode == 0 {
		return nil, fmt.Errorf("image %q: %w", name, err)
	}
	layer := option.Layer{Source: option.CommandLine, Where: "the test"}
	layer.Values.SetStrings("etcd_address", r.c.Endpoints())
	for i := 0; i < len(options); i += 2 {
		layer.Values.SetString(options[i], options[i+1])
	}
	out, err := os.OpenFile(filepath.Join(r.c.Dir, "log", "client"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	h := &handle{name: name, inode: inode, ended: make(chan struct{})}
	if h.loop, err = loop.New(loop.Options{Log: log}); err != nil {
		return nil, err
	}
	endpoints, err := etcd.ParseEndpoints(r.c.Endpoints()...)
	if err != nil {
		return nil, err
	}
	if h.kv, err = etcd.Open(etcd.Config{Endpoints: endpoints, Log: log}, h.loop); err != nil {
		return nil, err
	}
	e := h.loop.Env()
	e.KV, e.Log = h.kv, log
	ready := make(chan error, 1)
	go func() {
		defer close(h.ended)
		defer out.Close()
		h.loop.Run(context.Background())
		h.kv.Close()
		if h.client != nil {
			h.client.Free()
		}
	}()
	h.loop.Post(func() {
		var err error
		if h.client, err = client.New(e, client.Config{Layers: []option.Layer{layer}}); err != nil {
			ready <- err
			return
		}
		h.client.Start(func(err error) { ready <- err })
	})
	select {
	case err = <-ready:
	case <-time.After(10 * time.Second):
		err = fmt.Errorf("the client is not ready after 10 s")
	}
	return h, err
}

// do runs one operation.
func (h *handle) do(op *client.Op) error {
	done := make(chan syscall.Errno, 1)
	op.Inode = h.inode
	op.Done = func(op *client.Op) { done <- op.Err }
	if !h.loop.Post(func() { h.client.Submit(op) }) {
		return fmt.Errorf("%v: the client has ended", op.Kind)
	}
	if err := <-done; err != 0 {
		return fmt.Errorf("%v at %d: %w", op.Kind, op.Offset, err)
	}
	return nil
}

func (h *handle) ReadAt(b []byte, offset int64) (int, error) {
	err := h.do(&client.Op{Kind: client.Read, Offset: uint64(offset), Bytes: uint64(len(b)), Iov: [][]byte{b}})
	return len(b), err
}

func (h *handle) WriteAt(b []byte, offset int64) (int, error) {
	err := h.do(&client.Op{Kind: client.Write, Offset: uint64(offset), Bytes: uint64(len(b)), Iov: [][]byte{b}})
	return len(b), err
}

func (h *handle) Sync() error { return h.do(&client.Op{Kind: client.Sync}) }

// Close ends the client; what it has not synced may be lost.
func (h *handle) Close() {
	h.close.Do(func() {
		h.loop.Post(func() {
			if h.client == nil {
				h.loop.Stop()
				return
			}
			h.client.Close(h.loop.Stop)
		})
		select {
		case <-h.ended:
		case <-time.After(10 * time.Second):
			panic("a client does not end")
		}
	})
}
