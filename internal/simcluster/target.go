package simcluster

import (
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/libclient/client"
)

// realClient is a Target: one life of a client of the cluster.
type realClient struct {
	c     *client.Client
	life  int // number in the history
	ready bool
}

// commandLine makes a layer of options.
func commandLine(values map[string]string) option.Layer {
	l := option.Layer{Source: option.CommandLine, Where: "the command line"}
	for _, name := range sortedKeys(values) {
		l.Values.SetString(name, values[name])
	}
	return l
}

func newRealClient(k *Cluster, e *env.Env, host string, life int, ready func()) *realClient {
	c, err := client.New(e, client.Config{
		Layers:      []option.Layer{commandLine(map[string]string{"hostname": host})},
		Facts:       option.Facts{Hostname: host},
		Keys:        schema.NewKeys(""),
		MemoryBytes: 16 << 20,
		Fatal:       func(err error) { k.violate("client", "client %d gave up: %v", life, err) },
	})
	if err != nil {
		panic(fmt.Sprintf("simcluster: the client does not start: %v", err))
	}
	t := &realClient{c: c, life: life}
	c.Start(func(err error) {
		if err != nil {
			k.violate("client", "client %d does not start: %v", life, err)
			return
		}
		t.ready = true
		ready()
	})
	return t
}

func (t *realClient) free() { t.c.Free() }

// Submit implements Target.
func (t *realClient) Submit(q *Request) {
	op := &client.Op{Inode: q.Inode, Offset: q.Offset, Bytes: uint64(len(q.Buf)), Version: meta.Version(q.Version)}
	if len(q.Buf) > 0 {
		op.Iov = [][]byte{q.Buf}
	}
	compare := q.Version != 0
	switch q.Kind {
	case OpRead:
		op.Kind = client.Read
	case OpWrite:
		op.Kind = client.Write
	case OpDelete:
		op.Kind, op.Bytes = client.Delete, q.Bytes
	case OpSync:
		op.Kind, op.Inode = client.Sync, 0
	}
	if q.AllowReadonly {
		op.Flags |= client.IgnoreReadonly
	}
	op.Done = func(op *client.Op) {
		q.Err, q.Version = op.Err, uint64(op.Version)
		// Without a version nobody knows whether the operation happened.
		q.Refused = compare && op.Err == syscall.EINTR && op.Version != 0
		if q.Refused {
			q.Err = 0
		}
		q.Done(q)
	}
	t.c.Submit(op)
}
