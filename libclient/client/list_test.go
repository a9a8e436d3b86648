package client_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// listed is the outcome of a List.
type listed struct {
	offsets []uint64
	failed  []meta.PGNum
	pgs     int
	err     syscall.Errno
	done    int
}

func (f *fake) list(c *client.Client, l client.List) *listed {
	r := &listed{}
	l.PG = func(pg meta.PGNum, objects []meta.ObjectID, err syscall.Errno) {
		if r.pgs++; err != 0 {
			r.failed = append(r.failed, pg)
		}
		if !slices.IsSortedFunc(objects, meta.ObjectID.Compare) {
			f.t.Errorf("objects of PG %d are not sorted", pg)
		}
		for _, o := range objects {
			r.offsets = append(r.offsets, o.Stripe)
		}
	}
	l.Done = func(err syscall.Errno) { r.err = err; r.done++ }
	f.client.Do(func(*env.Env) { c.List(&l) })
	return r
}

func (f *fake) wait(r *listed) *listed {
	f.t.Helper()
	if !f.w.RunUntil(func() bool { return r.done > 0 }, 5*time.Minute) {
		f.t.Fatal("the listing does not end")
	}
	slices.Sort(r.offsets)
	return r
}

func TestList(t *testing.T) {
	f := newFake(t, 1, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 40}})
	c := f.start(map[string]string{"client_wait_up_timeout": "3"})
	for n := range uint64(100) {
		want(t, f.run(c, write(inode(1, 1), n*2*block, fill(granule, 1))), 0)
	}
	want(t, f.run(c, write(inode(1, 2), 0, fill(granule, 1))), 0)
	r := f.wait(f.list(c, client.List{Inode: inode(1, 1)}))
	if r.err != 0 || len(r.offsets) != 100 || r.offsets[99] != 99*2*block || r.pgs != 40 || len(slices.Compact(r.offsets)) != 100 {
		t.Errorf("%+v", r)
	}
	r = f.wait(f.list(c, client.List{Inode: inode(1, 1), MinOffset: 10*block + 1, MaxOffset: 20 * block}))
	if fmt.Sprint(r.offsets) != fmt.Sprint([]uint64{10 * block, 12 * block, 14 * block, 16 * block, 18 * block, 20 * block}) {
		t.Errorf("%+v", r)
	}
	// An inactive PG is reported after a while, refusals and lost connections
	// are repeated.
	f.setPrimary(meta.PG{Pool: 1, Num: 1}, 0)
	f.w.RunFor(time.Second)
	refusals := 0
	f.osds[2].fail = func(*msgr.Request) wire.Retval {
		if refusals++; refusals < 5 {
			return wire.EPIPE
		}
		return 0
	}
	listing := f.list(c, client.List{Inode: inode(1, 1)})
	f.w.RunFor(100 * time.Microsecond)
	f.w.Net().Reset(f.client, f.osds[3].node)
	if r = f.wait(listing); r.err != 0 || fmt.Sprint(r.failed) != "[1]" || len(r.offsets) != 95 {
		t.Errorf("failed PGs %v, %d objects, %v", r.failed, len(r.offsets), r.err)
	}
	if r = f.wait(f.list(c, client.List{Inode: inode(5, 1)})); r.err != syscall.EINVAL {
		t.Errorf("unknown pool: %v", r.err)
	}
	// The number of PGs changes in between.
	listing = f.list(c, client.List{Inode: inode(1, 1)})
	f.w.RunFor(time.Second)
	f.pools[1].pgs = 30
	f.putPools()
	f.putPGs(1)
	if r = f.wait(listing); r.err != syscall.EAGAIN {
		t.Errorf("PG count changed: %v", r.err)
	}
	if r = f.wait(f.list(c, client.List{Inode: inode(1, 1)})); r.err != 0 || len(r.offsets) != 100 {
		t.Errorf("%+v", r)
	}
	f.end(c)
}

func TestRawRequests(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	f.w.RunFor(time.Second)
	ask := func(n meta.OSDNum) wire.Retval {
		r := &client.Raw{OSD: n}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&r.Op.Packet)
		done := 0
		r.Done = func(*client.Raw) { done++ }
		f.client.Do(func(*env.Env) {
			c.Request(r)
			if done != 0 {
				t.Error("Done inside")
			}
		})
		if !f.w.RunUntil(func() bool { return done > 0 }, time.Minute) {
			t.Fatal("no answer")
		}
		return r.Op.Retval
	}
	if r := ask(1); r != wire.OK {
		t.Error(r)
	}
	if r := ask(9); r != wire.EPIPE {
		t.Errorf("an OSD that does not exist: %v", r)
	}
	f.osds[2].node.Crash() // its key is still there
	f.osds[2].msgr = nil
	if r := ask(2); r != wire.EPIPE {
		t.Errorf("an OSD that is dead: %v", r)
	}
	f.end(c)
}
