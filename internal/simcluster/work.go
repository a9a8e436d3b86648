package simcluster

import (
	"math/rand/v2"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// Image is what a workload may touch.
type Image struct {
	Inode     meta.Inode
	Granules  int // size
	PerObject int // granules in an object
	Chain     []meta.Inode
	Deletes   bool // whole objects may be deleted
	Compares  bool // compare-and-swap is used
	Owner     int  // the client node that writes it alone; -1 = all of them
	Lazy      bool
}

// Request is an operation as a Target gets it.
type Request struct {
	Kind    OpKind
	Inode   meta.Inode
	Offset  uint64 // bytes
	Buf     []byte
	Bytes   uint64 // deletes: the range
	Version uint64 // CAS: the version to make (expected + 1); result: that of the object, if it is only one
	// Done is called on the client's loop, never inside Submit.
	Done    func(*Request)
	Err     syscall.Errno
	Refused bool // CAS: certainly not done

	AllowReadonly bool // write to a frozen image
}

// Target is a client of a cluster: the real one or a model.
type Target interface{ Submit(r *Request) }

// WorkConfig shapes the load of one client.
type WorkConfig struct {
	Workers int           // operations in flight
	Think   time.Duration // mean pause of a worker between operations
	Images  []*Image
	// Weights of operations.
	Reads, Writes, Deletes, Syncs int
	// BigEvery: one in so many operations covers a whole object or more.
	BigEvery int
}

// work is the load that one life of a client makes.
type work struct {
	c      WorkConfig
	h      *History
	now    func() time.Duration
	client int // number in the history
	node   int
	target Target
	e      *env.Env
	rng    *rand.Rand
	stop   bool
	active int // operations in flight
	failed map[string]int
	// known is the version that this client saw last, by object.
	known map[objectKey]uint64
}

// startWork begins; operations go on until stop is set.
func startWork(w *work) {
	w.known = map[objectKey]uint64{}
	for range w.c.Workers {
		k := &worker{w: w}
		k.timer.Fire = k.next
		k.think()
	}
}

type worker struct {
	w     *work
	timer env.Timer
}

func (k *worker) think() {
	if !k.w.stop {
		k.w.e.Clock.Arm(&k.timer, time.Duration(k.w.rng.ExpFloat64()*float64(k.w.c.Think)))
	}
}

func (k *worker) next() {
	if k.w.stop {
		return
	}
	c := &k.w.c
	x := k.w.rng.IntN(c.Reads + c.Writes + c.Deletes + c.Syncs)
	m := c.Images[k.w.rng.IntN(len(c.Images))]
	switch {
	case x < c.Reads:
		k.read(m)
	case x < c.Reads+c.Syncs:
		k.submit(&Op{Kind: OpSync, Inode: m.Inode}, m, &Request{Kind: OpSync, Inode: m.Inode})
	case m.Owner >= 0 && m.Owner != k.w.node:
		k.read(m)
	case x < c.Reads+c.Syncs+c.Deletes && m.Deletes:
		first := k.w.rng.IntN(m.Granules) / m.PerObject * m.PerObject
		count := min(m.PerObject, m.Granules-first)
		k.submit(&Op{Kind: OpDelete, Inode: m.Inode, First: first, Count: count}, m, &Request{Kind: OpDelete})
	default:
		k.write(m)
	}
}

// place chooses granules: mostly few of them, sometimes whole objects.
func (w *work) place(m *Image) (first, count int) {
	if w.c.BigEvery > 0 && w.rng.IntN(w.c.BigEvery) == 0 {
		first = w.rng.IntN(m.Granules) / m.PerObject * m.PerObject
		return first, min(m.PerObject*(1+w.rng.IntN(2)), m.Granules-first)
	}
	first = w.rng.IntN(m.Granules)
	return first, min(1+w.rng.IntN(4), m.Granules-first)
}

func (k *worker) read(m *Image) {
	first, count := k.w.place(m)
	k.submit(&Op{Kind: OpRead, Inode: m.Inode, First: first, Count: count}, m, &Request{Kind: OpRead})
}

func (k *worker) write(m *Image) {
	first, count := k.w.place(m)
	o := &Op{Kind: OpWrite, Inode: m.Inode, First: first, Count: count, Stamp: k.w.h.NewStamp()}
	q := &Request{Kind: OpWrite}
	key := objectKey{m.Inode, first / m.PerObject}
	if v, ok := k.w.known[key]; ok && m.Compares && first/m.PerObject == (first+count-1)/m.PerObject && k.w.rng.IntN(3) == 0 {
		o.Compare, o.Expect, q.Version = true, v, v+1
	}
	k.submit(o, m, q)
}

// submit sends an operation and records its life.
func (k *worker) submit(o *Op, m *Image, q *Request) {
	w := k.w
	o.Client, q.Inode = w.client, o.Inode
	if o.Kind == OpRead || o.Kind == OpWrite {
		q.Buf = make([]byte, o.Count*GranuleBytes)
	}
	if o.Kind == OpWrite {
		for i := range o.Count {
			o.Stamp.Fill(q.Buf[i*GranuleBytes:(i+1)*GranuleBytes], o.Inode, o.First+i)
		}
	}
	q.Offset, q.Bytes = uint64(o.First)*GranuleBytes, uint64(o.Count)*GranuleBytes
	q.Done = func(q *Request) {
		w.active--
		w.finish(o, m, q)
		k.think()
	}
	w.active++
	w.h.Invoke(o, w.now())
	w.target.Submit(q)
}

func (w *work) finish(o *Op, m *Image, q *Request) {
	outcome := Done
	switch {
	case q.Refused:
		outcome = Refused
	case q.Err != 0:
		outcome, o.Err = Failed, q.Err.Error()
		w.failed[o.Kind.String()+": "+o.Err]++
	}
	single := o.Count > 0 && o.First/m.PerObject == (o.First+o.Count-1)/m.PerObject
	if single && o.Kind != OpSync && outcome != Failed {
		o.Version = q.Version
		w.known[objectKey{o.Inode, o.First / m.PerObject}] = q.Version
	}
	if outcome == Done && o.Kind == OpRead {
		o.Seen = ReadStamps(q.Buf, m.Chain, o.First)
	}
	if o.Kind == OpDelete {
		o.Version = 0
		delete(w.known, objectKey{o.Inode, o.First / m.PerObject})
	}
	w.h.Return(o, outcome, w.now())
}
