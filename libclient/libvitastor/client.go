package main

/*
#include <stdlib.h>
#include "core.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"vitastor/internal/clusterview"
	"vitastor/internal/etcd"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// defaultConfigPath is read when config_path is not given.
const defaultConfigPath = "/etc/vitastor/vitastor.conf"

// closeTimeout limits destroying: all that is waited for happens in this process.
const closeTimeout = 5 * time.Second

var errTooMany = fmt.Errorf("there are %d clients in this process, which is the limit: %w", clientsMax, syscall.EMFILE)

// core is one client of the C library.
type core struct {
	c      *C.vcore
	loop   *loop.Loop
	kv     *etcd.KV
	client *client.Client
	log    *slog.Logger

	failed  error       // why the cluster cannot be known
	waiting *C.vcore_op // submitted before that, in order
	last    *C.vcore_op
	idle    []*request
	images  map[uint64]*client.Watch // by token
	tokens  uint64
	ended   bool
}

// newCore makes a client, which begins to connect with the first step.
func newCore(c *C.vcore, options [][2]string) (*core, error) {
	layers, path, warnings := readLayers(options)
	var facts option.Facts
	facts.Hostname, _ = os.Hostname()
	set, err := option.Merge(option.Client, facts, layers...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, syscall.EINVAL)
	}
	opts, _ := set.Client()
	k := &core{c: c, log: newLog(opts.Network.LogLevel), images: map[uint64]*client.Watch{}}
	for _, w := range warnings {
		k.log.Warn("vitastor: configuration file", "err", w)
	}
	for _, u := range set.Unknown {
		if u.Source == option.CommandLine {
			k.log.Warn("vitastor: there is no such parameter", "name", u.Name, "similar", option.Suggest(u.Name))
		}
	}
	if len(opts.Common.EtcdAddress) == 0 {
		return nil, fmt.Errorf("nobody says where etcd is: set etcd_address in %s or give it as a parameter: %w", path, syscall.EINVAL)
	}
	endpoints, err := etcd.ParseEndpoints(opts.Common.EtcdAddress...)
	if err != nil {
		return nil, fmt.Errorf("etcd_address: %w: %w", err, syscall.EINVAL)
	}
	if k.loop, err = loop.New(loop.Options{Log: k.log}); err != nil {
		return nil, err
	}
	if err = k.start(endpoints, client.Config{Layers: layers, Facts: facts}); err != nil {
		k.loop.Shutdown()
		return nil, err
	}
	c.epoll_fd, c.wake_fd = C.int32_t(k.loop.FD()), C.int32_t(k.loop.WakeFD())
	return k, nil
}

func (k *core) start(endpoints []string, cc client.Config) (err error) {
	e := k.loop.Env()
	if k.kv, err = etcd.Open(etcd.Config{Endpoints: endpoints, Log: k.log}, e.Exec); err != nil {
		return err
	}
	e.KV = k.kv
	cc.Changed = k.changed
	if k.client, err = client.New(e, cc); err != nil {
		k.kv.Close()
		return err
	}
	k.client.Start(k.ready)
	return nil
}

// readLayers returns the configuration file and the caller's parameters. A file
// that cannot be read counts as empty, as for all clients (config.md §1).
func readLayers(options [][2]string) (layers []option.Layer, path string, warnings []error) {
	given := option.Layer{Source: option.CommandLine, Where: "parameters of the program"}
	path = defaultConfigPath
	for _, o := range options {
		if o[0] == "config_path" {
			path = o[1]
		}
		given.Values.SetString(o[0], o[1])
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		warnings = append(warnings, err)
	}
	file, problem := option.ReadLayer(option.Client, option.File, path, data)
	if problem != nil {
		warnings = append(warnings, problem)
	}
	return []option.Layer{file, given}, path, warnings
}

// newLog writes to stderr: warnings, or more with log_level.
func newLog(level int) *slog.Logger {
	l := slog.LevelWarn
	switch {
	case level >= 10:
		l = slog.LevelDebug
	case level > 0:
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
}

// setError tells the caller about err, with the errno that is in it.
func setError(c *C.vcore, err error) {
	var number syscall.Errno
	if !errors.As(err, &number) {
		number = syscall.EIO
	}
	c.error_code = C.int32_t(number)
	text := unsafe.Slice((*byte)(unsafe.Pointer(&c.error[0])), len(c.error))
	n := copy(text[:len(text)-1], strings.TrimSuffix(err.Error(), ": "+number.Error()))
	text[n] = 0
}

// ready is told that the cluster is known, or why it cannot be.
func (k *core) ready(err error) {
	if err == nil {
		k.c.ready = 1
		k.updatePools()
	} else {
		k.failed = err
		setError(k.c, err)
		k.log.Error("vitastor: " + err.Error())
	}
	list := k.waiting
	k.waiting, k.last = nil, nil
	for list != nil {
		op := list
		list, op.next = op.next, nil
		k.submit(op)
	}
}

// changed keeps what C functions tell about pools up to date.
func (k *core) changed(ch *clusterview.Changes) {
	if k.c.ready != 0 && (ch.Reloaded || ch.Global || len(ch.Pools) > 0 || len(ch.PGConfigs) > 0) {
		k.updatePools()
	}
}

func (k *core) updatePools() {
	ids := k.client.View().Pools()
	C.free(unsafe.Pointer(k.c.pools))
	k.c.pools, k.c.pool_count = nil, 0
	memory := (*C.vcore_pool)(C.calloc(C.size_t(max(len(ids), 1)), C.sizeof_vcore_pool))
	list := unsafe.Slice(memory, len(ids))
	n := 0
	for _, id := range ids {
		g, ok := k.client.Geometry(meta.MakeInode(id, 1))
		if !ok {
			continue
		}
		list[n] = C.vcore_pool{id: C.uint64_t(id), object_bytes: C.uint32_t(g.ObjectBytes),
			granule_bytes: C.uint32_t(g.GranuleBytes), commit: C.uint32_t(g.Commit)}
		n++
	}
	k.c.pools, k.c.pool_count = memory, C.uint64_t(n)
}

// step takes what was submitted and runs the loop.
func (k *core) step(mode int) {
	for op := k.c.submit_head; op != nil; op = k.c.submit_head {
		if k.c.submit_head = op.next; op.next == nil {
			k.c.submit_tail = nil
		}
		op.next = nil
		k.submit(op)
	}
	idle := k.loop.Settle()
	if mode != C.VCORE_SUBMIT {
		idle = k.loop.Step(mode == C.VCORE_WAIT && k.c.done_head == nil)
	}
	k.c.more = 0
	if !idle {
		k.c.more = 1
	}
}

// destroy ends the client. All operations are completed with errors, which frees
// their memory: the C side does not tell anybody.
func (k *core) destroy() {
	k.ended = true
	for op := k.waiting; op != nil; op = k.waiting {
		k.waiting = op.next
		k.complete(op, -int64(syscall.ECANCELED))
	}
	closed := false
	k.client.Close(func() { closed = true })
	for end := time.Now().Add(closeTimeout); !closed && time.Now().Before(end); {
		if k.loop.Step(false) && !closed {
			time.Sleep(time.Millisecond)
		}
	}
	k.kv.Close()
	k.loop.Shutdown()
	k.kv.Wait()
	if closed {
		k.client.Free()
	} else {
		k.log.Error("vitastor: operations could not be ended in time; their memory is lost")
	}
	C.free(unsafe.Pointer(k.c.pools))
	k.c.pools, k.c.pool_count = nil, 0
}
