package primary

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

var (
	modelSeeds = flag.Int("primary.seeds", 3, "number of random histories per kind of pool")
	modelSeed  = flag.Uint64("primary.seed", 0, "run only this random history")
)

// model is a random history: clients read, write and delete a few objects while
// connections break, OSDs crash and come back, and the primary moves.
//
// One writer per object; readers beside it. Every write has a number. A read
// must return the contents after one of the writes that it may see: not older
// than the last one that was acknowledged, or that another read has returned,
// before it began.
type model struct {
	*rig
	rnd     *rand.Rand
	p       *rigPG
	m       *msgr.Messenger
	node    *sim.Node
	objects []*modelObject
	size    int
	errors  map[wire.Retval]int
	reads   int
	running []*readOf
	victim  meta.OSDNum // whose disk rots, and nobody crashes
	deletes bool        // and no crashes: deleted objects come back from OSDs that were away (osd.md §23, 9)
	acked   int
}

type modelObject struct {
	offset uint64
	images map[int][]byte // after write n, from floor on
	last   int            // newest write begun
	floor  int            // every read that begins now sees this or something newer
	busy   *call
	op     func() *call // repeats the write
}

func (m *model) Serve(q *msgr.Request)                     { q.Fail(wire.EINVAL) }
func (m *model) Connected(c *msgr.Conn)                    {}
func (m *model) ConnectFailed(_ meta.OSDNum, reason error) {}
func (m *model) Disconnected(c *msgr.Conn, reason error)   {}

func newModel(r *rig, seed uint64, p *rigPG) *model {
	m := &model{rig: r, rnd: rand.New(rand.NewPCG(seed, 1)), p: p, node: r.w.NewNode("clients"), errors: map[wire.Retval]int{}}
	m.size = int(r.pools[p.id.Pool].ObjectBytes())
	m.node.Do(func(e *env.Env) {
		var err error
		if m.m, err = msgr.New(e, msgr.Options{Handler: m, Timeouts: msgr.Timeouts{ConnectInterval: time.Second}}); err != nil {
			r.t.Fatal(err)
		}
		for _, o := range r.sortedOSDs() {
			m.m.SetAddresses(o.num, []netip.AddrPort{o.addr})
			m.m.Want(o.num)
		}
	})
	r.t.Cleanup(m.m.Free)
	for i := range 3 {
		m.objects = append(m.objects, &modelObject{offset: uint64(i * m.size), images: map[int][]byte{0: make([]byte, m.size)}})
	}
	return m
}

// send sends a request to the primary; without a connection it fails.
func (m *model) send(q wire.Message, bodyBytes int, payload ...[]byte) *call {
	u := &user{r: m.rig, t: m.t, node: m.node, m: m.m, up: m.m.Conn(m.p.primary)}
	return u.begin(q, bodyBytes, payload...)
}

// beginWrite starts a random write, delete or CAS write of an object.
func (m *model) beginWrite(o *modelObject) {
	image := slices.Clone(o.images[o.last])
	in := inode(m.p.id.Pool)
	from := m.rnd.IntN(m.size/testGran) * testGran
	n := min((1+m.rnd.IntN(12))*testGran, m.size-from)
	switch k := m.rnd.IntN(20); {
	case k == 0 && m.deletes:
		clear(image)
		o.op = func() *call { return m.send(&wire.Rw{Op: wire.OpDelete, Inode: in, Offset: o.offset}, 0) }
	default:
		if k < 4 {
			from, n = 0, m.size
		} else if k < 6 {
			from = from / testBlock * testBlock
			n = testBlock
		}
		data := pattern(n, m.rnd.Uint64())
		copy(image[from:], data)
		o.op = func() *call {
			return m.send(&wire.Rw{Op: wire.OpWrite, Inode: in, Offset: o.offset + uint64(from), Len: uint32(n)}, 0, data)
		}
	}
	o.last++
	o.images[o.last] = image
	for _, q := range m.running {
		if q.o == o {
			q.images[o.last] = image
		}
	}
	o.busy = o.op()
}

// step looks at a write of an object and goes on.
func (m *model) step(o *modelObject) {
	switch {
	case o.busy == nil:
		m.beginWrite(o)
	case !o.busy.done:
	case o.busy.Retval.Failed():
		m.failed(o.busy)
		o.busy = o.op() // as clients do
	default:
		m.acked++
		o.busy = nil
		m.see(o, o.last)
	}
}

func (m *model) failed(c *call) {
	m.errors[c.Retval]++
	if c.Retval != wire.EPIPE && (c.Retval != wire.EIO || m.victim != 0) {
		m.t.Fatalf("%v: %v", c.Packet.String(), c.Retval)
	}
}

// see notes that from now on nobody sees anything older than write n.
func (m *model) see(o *modelObject, n int) {
	for ; o.floor < n; o.floor++ {
		delete(o.images, o.floor)
	}
}

// readOf is a read under way.
type readOf struct {
	*call
	o       *modelObject
	from, n int
	floor   int
	images  map[int][]byte
}

func (m *model) beginRead() *readOf {
	o := m.objects[m.rnd.IntN(len(m.objects))]
	from := m.rnd.IntN(m.size/testGran) * testGran
	n := min((1+m.rnd.IntN(40))*testGran, m.size-from)
	if m.rnd.IntN(4) == 0 {
		from, n = 0, m.size
	}
	return m.readOf(o, from, n)
}

func (m *model) readOf(o *modelObject, from, n int) *readOf {
	q := &readOf{o: o, from: from, n: n, floor: o.floor, images: map[int][]byte{}}
	for i, image := range o.images {
		q.images[i] = image
	}
	q.call = m.send(&wire.Rw{Op: wire.OpRead, Inode: inode(m.p.id.Pool), Offset: o.offset + uint64(from), Len: uint32(n)}, n)
	return q
}

// checkRead compares what was read.
func (m *model) checkRead(q *readOf) {
	if q.Retval.Failed() {
		m.failed(q.call)
		return
	}
	m.reads++
	for i := q.floor; i <= q.o.last; i++ {
		image := q.images[i]
		if image != nil && bytes.Equal(image[q.from:q.from+q.n], q.data) {
			m.see(q.o, i) // the oldest one that it can be
			return
		}
	}
	m.t.Fatalf("read of %x+%x in object %x is not of writes %d..%d: against the oldest %s; against the newest %s", q.from, q.n, q.o.offset, q.floor, q.o.last,
		m.compare(q, q.floor), m.compare(q, q.o.last))
}

func (m *model) compare(q *readOf, i int) string {
	if q.images[i] == nil {
		return "(unknown)"
	}
	return differ(q.data, q.images[i][q.from:q.from+q.n])
}

// fault does something bad.
func (m *model) fault() {
	p := m.p
	num := func() meta.OSDNum { return p.set[m.rnd.IntN(len(p.set))] }
	switch k := m.rnd.IntN(10); {
	case m.victim != 0 && k < 5:
		areas := m.areas(m.victim)
		m.osds[m.victim].disk.MakeUnreadable(areas.DataOffset, areas.DataLen)
	case k < 4:
		a, b := num(), num()
		if a != b && m.osds[a].up && m.osds[b].up {
			m.w.Net().Reset(m.osds[a].node, m.osds[b].node)
		}
	case k < 6:
		m.w.Net().Reset(m.osds[p.primary].node, m.node)
	case k < 8:
		if a := num(); m.allUp() && !m.deletes && m.victim == 0 {
			m.crash(a)
			if a == p.primary {
				for p.primary == a {
					p.primary = num()
				}
			}
		}
	case k < 9:
		if a := num(); m.osds[a].up && a != p.primary {
			m.stop(p)
			p.primary = a
		}
	}
	m.w.RunFor(time.Duration(m.rnd.IntN(2000)) * time.Microsecond)
	m.heal(m.rnd.IntN(3) == 0)
}

func (m *model) allUp() bool {
	for _, n := range m.p.set {
		if !m.osds[n].up {
			return false
		}
	}
	return true
}

// heal peers again, with everybody if all is true.
func (m *model) heal(all bool) {
	for _, o := range m.sortedOSDs() {
		if !o.up && all {
			m.restart(o.num)
		}
	}
	m.connectAll()
	p := m.p
	if !p.running || p.stopping || all {
		m.peer(p)
	}
}

// recoverAll recovers what is not where it belongs.
func (r *rig) recoverAll(p *rigPG) {
	r.t.Helper()
	o := r.osds[p.primary]
	for range 100 {
		objects := o.pri.Objects(p.id)
		id, rec := objects.Next(meta.ObjectID{}, meta.ObjectDegraded|meta.ObjectMisplaced)
		if rec == nil {
			return
		}
		done := false
		q := &Recovery{PG: p.id, OID: id, Done: func(*Recovery) { done = true }}
		o.node.Do(func(*env.Env) { o.pri.Recover(q) })
		if !r.w.RunUntil(func() bool { return done }, time.Minute) || q.Err != wire.OK {
			r.t.Fatalf("recovery of %v (%+v): %v %s", id, *rec, q.Err, o.pri.describe(p.id))
		}
	}
	r.t.Fatal("recovery does not end")
}

func (m *model) run(rounds int) {
	for range rounds {
		m.w.RunUntil(func() bool { return m.m.Conn(m.p.primary) != nil }, 2*time.Second)
		for _, o := range m.objects {
			m.step(o)
		}
		for len(m.running) < 4 {
			m.running = append(m.running, m.beginRead())
		}
		m.w.RunFor(time.Duration(m.rnd.IntN(300)) * time.Microsecond)
		m.running = slices.DeleteFunc(m.running, func(q *readOf) bool {
			if q.done {
				m.checkRead(q)
			}
			return q.done
		})
		if m.rnd.IntN(60) == 0 {
			m.fault()
		}
		if m.p.stopping && m.rnd.IntN(20) == 0 {
			m.heal(false)
		}
		if m.p.running && !m.p.stopping && m.rnd.IntN(100) == 0 && m.allUp() {
			m.tryRecover()
		}
	}
	m.heal(true)
	for i := 0; slices.ContainsFunc(m.objects, func(o *modelObject) bool { return o.busy != nil }); i++ {
		for _, o := range m.objects { // every write is repeated until it succeeds
			if o.busy != nil {
				m.step(o)
			}
		}
		m.w.RunFor(time.Millisecond)
		if m.heal(false); i > 10000 {
			m.t.Fatalf("a write does not end: %s, errors %v", m.osds[m.p.primary].pri.describe(m.p.id), m.errors)
		}
	}
	m.w.RunFor(time.Second)
	for _, q := range m.running {
		m.checkRead(q)
	}
	m.heal(true)
	if m.victim != 0 {
		m.scrub()
	}
	m.recoverAll(m.p)
	m.settle()
	m.final()
}

// scrub finds damage that nobody has met.
func (m *model) scrub() {
	m.settle()
	pri := m.osds[m.p.primary]
	for _, o := range m.objects {
		id := meta.ObjectID{Inode: inode(m.p.id.Pool), Stripe: o.offset}
		role := meta.Role(0)
		if m.pools[m.p.id.Pool].Scheme != meta.Replicated {
			role = meta.Role(slices.Index(m.p.set, m.victim))
		}
		if m.readChunk(m.victim, id.WithRole(role)) == nil && m.readChunk(m.p.set[0], id.WithRole(0)) != nil {
			pri.node.Do(func(*env.Env) {
				pri.pri.Objects(m.p.id).Mark(id, role, m.victim, meta.LocCorrupted)
				pri.pri.Changed(m.p.id)
			})
		}
	}
}

// tryRecover recovers one object beside the clients.
func (m *model) tryRecover() {
	p, o := m.p, m.osds[m.p.primary]
	id, rec := o.pri.Objects(p.id).Next(meta.ObjectID{}, meta.ObjectDegraded|meta.ObjectMisplaced)
	if rec != nil {
		q := &Recovery{PG: p.id, OID: id, Done: func(*Recovery) {}}
		o.node.Do(func(*env.Env) { o.pri.Recover(q) })
	}
}

// settle makes everything durable.
func (m *model) settle() {
	pri := m.osds[m.p.primary]
	for range 3 {
		ret, done := wire.OK, false
		pri.node.Do(func(*env.Env) { pri.pri.Sync(func(r wire.Retval) { ret, done = r, true }) })
		if !m.w.RunUntil(func() bool { return done }, time.Minute) || ret != wire.OK {
			m.t.Fatalf("SYNC: %v", ret)
		}
		m.w.RunFor(time.Second)
	}
}

// final compares everything.
func (m *model) final() {
	m.atRest(m.p)
	if m.p.flags&^meta.PGScrubbing != 0 {
		m.t.Errorf("flags of the PG are %v", m.p.flags)
	}
	for _, o := range m.objects {
		q := m.readOf(o, 0, m.size)
		if !m.w.RunUntil(func() bool { return q.done }, time.Minute) || q.Retval.Failed() {
			m.t.Fatalf("final read: %v", q.Retval)
		}
		m.checkRead(q)
	}
	m.w.RunFor(time.Second)
}

func TestRandomHistories(t *testing.T) {
	kinds := []struct {
		name   string
		scheme meta.Scheme
		parity int
		set    []meta.OSDNum
	}{
		{"replicated", meta.Replicated, 0, []meta.OSDNum{1, 2, 3}},
		{"xor", meta.XOR, 1, []meta.OSDNum{1, 2, 3}},
		{"ec", meta.EC, 2, []meta.OSDNum{1, 2, 3, 4, 5}},
	}
	for _, commit := range []meta.CommitMode{meta.CommitAll, meta.CommitNone, meta.CommitSmall} {
		for _, k := range kinds {
			t.Run(fmt.Sprintf("%s %v", k.name, commit), func(t *testing.T) {
				for i := range *modelSeeds {
					seed := uint64(i + 1)
					if *modelSeed != 0 {
						if i > 0 {
							break
						}
						seed = *modelSeed
					}
					t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
						r := newRig(t, seed, commit, len(k.set), func(r *rig) {
							r.config = func(c *Config) {
								c.AutosyncInterval, c.AutosyncWrites, c.RecoverySyncBatch = 50*time.Millisecond, 20, 4
							}
						})
						m := newModel(r, seed, r.pool(1, k.scheme, k.parity, k.set...))
						switch seed % 3 {
						case 0:
							m.deletes = true
						case 2:
							m.victim = k.set[len(k.set)-1-int(seed/3)%2] // never the first
						}
						m.run(800)
						t.Logf("%d writes, %d reads, errors %v", m.acked, m.reads, m.errors)
					})
				}
			})
		}
	}
}
