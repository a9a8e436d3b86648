package heal

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
)

var (
	randomSeed  = flag.Uint64("heal.seed", 0, "run TestHealRandom with this seed only")
	randomSeeds = flag.Int("heal.seeds", 3, "number of seeds of TestHealRandom")
)

// writer is a client that writes and deletes objects all the time, one operation
// after another, and knows what they contain.
type writer struct {
	*client
	r       *rand.Rand
	objects int
	want    [][]byte
	op      msgr.Op
	busy    bool
	stop    bool
	ops     int
}

func (w *writer) next() {
	if w.busy = !w.stop; !w.busy {
		return
	}
	w.ops++
	n := w.r.IntN(w.objects)
	id := w.c.object(n)
	size := int(w.c.pool.ObjectBytes())
	if w.r.IntN(12) == 0 {
		(&wire.Rw{Op: wire.OpDelete, Inode: id.Inode, Offset: id.Stripe}).Encode(&w.op.Packet)
		w.op.Payload = nil
		w.op.User = func() { clear(w.want[n]) }
	} else {
		at := w.r.IntN(size/4096) * 4096
		data := make([]byte, min(size-at, (1+w.r.IntN(40))*4096))
		for i := range data {
			data[i] = byte(i/64) ^ byte(w.ops)
		}
		(&wire.Rw{Op: wire.OpWrite, Inode: id.Inode, Offset: id.Stripe + uint64(at), Len: uint32(len(data))}).Encode(&w.op.Packet)
		w.op.Payload = [][]byte{data}
		w.op.User = func() { copy(w.want[n][at:], data) }
	}
	w.up[1].Submit(&w.op)
}

func (w *writer) done(op *msgr.Op) {
	if op.Retval.Failed() {
		w.c.t.Errorf("%v: %v", op.Packet.Op(), op.Retval)
	}
	op.User.(func())()
	w.next()
}

// Bits rot on one disk after another, scrubs and recoveries run, and all the time
// a client writes and deletes: nobody gets an error, and in the end everything is
// clean and right.
func TestHealRandom(t *testing.T) {
	for name, pool := range map[string]schema.Pool{"replicated 3": rep3, "ec 4+2": ec42, "xor": xor3} {
		for i := range *randomSeeds {
			seed := uint64(i + 1)
			if *randomSeed != 0 {
				seed = *randomSeed
			}
			for _, lazy := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s lazy=%v %d", name, lazy, seed), func(t *testing.T) { healRandom(t, pool, seed, lazy) })
			}
			if *randomSeed != 0 {
				break
			}
		}
	}
}

func healRandom(t *testing.T, pool schema.Pool, seed uint64, lazy bool) {
	const objects = 10
	r := rand.New(rand.NewPCG(seed, 77))
	k := newCluster(t, seed, clusterConfig{pool: pool, csum: 4096, objects: 64, lazy: lazy, options: func(o *Options) {
		o.Scrub.QueueDepth, o.Scrub.ListLimit = 1+r.IntN(3), 1+r.IntN(8)
		o.Recovery.QueueDepth, o.Recovery.PGSwitch = 1+r.IntN(3), 1+r.IntN(3)
	}})
	w := &writer{client: k.newClient(), r: r, objects: objects}
	for range objects {
		w.want = append(w.want, make([]byte, k.pool.ObjectBytes()))
	}
	w.op.Done = w.done
	for round := range 6 {
		w.stop = false
		w.n.Do(func(*env.Env) { w.next() })
		sick := k.osds[r.IntN(len(k.osds))]
		for range 15 {
			k.w.RunFor(time.Duration(r.IntN(4000)) * time.Microsecond)
			switch r.IntN(4) {
			case 0, 1:
				for range 20 {
					sick.disk.FlipBit(sick.area.DataOffset+r.Int64N(sick.area.DataLen), uint(r.IntN(8)))
				}
			case 2:
				k.do(func() { k.h.PlanScrub(onlyPG, 1) })
			default:
				id := k.object(r.IntN(objects))
				w.n.Do(func(*env.Env) {
					w.begin(1, &wire.Rw{Op: wire.OpScrub, Inode: id.Inode, Offset: id.Stripe}, func(ret wire.Retval) {
						if ret != wire.OK {
							t.Errorf("SCRUB: %v", ret)
						}
					})
				})
			}
		}
		w.stop = true
		if !k.w.RunUntil(func() bool { return !w.busy }, time.Minute) {
			t.Fatal("the writer does not end")
		}
		k.scrub()
		k.scrub() // what was damaged behind the first one
		k.settle()
		if got := k.states(); got != "" {
			t.Fatalf("round %d: %s", round, got)
		}
		w.check()
	}
	k.w.RunFor(time.Second)
	if h := k.h; h.jobs.head != nil || h.asked != 0 || h.running != 0 || h.pool.Stats().UsedBytes != 0 {
		t.Errorf("not idle: %+v", h.Stats())
	}
	t.Logf("%d operations, %+v", w.ops, *k.h.Stats())
}

// check reads everything through the primary.
func (w *writer) check() {
	w.c.t.Helper()
	for n, want := range w.want {
		id := w.c.object(n)
		op := w.call(1, &wire.Rw{Op: wire.OpRead, Inode: id.Inode, Offset: id.Stripe, Len: uint32(len(want))})
		if op.Retval != wire.Retval(len(want)) || !bytes.Equal(op.Body[0][:len(want)], want) {
			w.c.t.Errorf("object %d: %v, or wrong data", n, op.Retval)
		}
	}
}
