package client_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

var cached = map[string]string{"client_enable_writeback": "1", "client_writeback_allowed": "1"}

func with(params map[string]string, more ...string) map[string]string {
	all := map[string]string{}
	for k, v := range params {
		all[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

func (f *fake) count(what string) int {
	n := 0
	for _, l := range f.log {
		if strings.HasSuffix(l, what) {
			n++
		}
	}
	return n
}

// TestCacheMergesAndFlushes: writes are acknowledged at once, even without any
// OSD; neighbours become one request; a sync writes everything.
func TestCacheMergesAndFlushes(t *testing.T) {
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		f := simple(t)
		c := f.start(cached)
		f.w.RunFor(time.Second)
		f.logging = true
		i := inode(pool, 1)
		for n := range uint64(units) { // backwards
			start := f.w.Now()
			want(t, f.run(c, write(i, (units-1-n)*granule, fill(granule, byte(n)))), 0)
			if f.w.Now() != start {
				t.Error("a cached write takes time")
			}
		}
		f.w.RunFor(10 * time.Second)
		if len(f.log) != 0 {
			t.Errorf("written before it was necessary: %v", f.log)
		}
		wantData(t, f.run(c, read(i, 0, block)), fill(granule, 3), fill(granule, 2), fill(granule, 1), fill(granule, 0))
		if len(f.log) != 0 {
			t.Errorf("a read of cached data went to %v", f.log)
		}
		want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
		if f.count(" WRITE") != 1 || f.count(" SYNC") != int(pool)-1 || c.Unsynced() != 0 {
			t.Errorf("pool %d: %v, %d bytes left", pool, f.log, c.Unsynced())
		}
		wantData(t, f.run(c, read(i, 0, block)), fill(granule, 3), fill(granule, 2), fill(granule, 1), fill(granule, 0))
		f.end(c)
	}
}

// TestCacheLimits: the oldest data is written when there is too much, and writes
// wait while too much is on its way.
func TestCacheLimits(t *testing.T) {
	f := simple(t)
	f.put(f.keys.Global(), `{"client_max_buffered_ops":4}`)
	c := f.start(with(cached, "client_max_writeback_iodepth", "2"))
	f.w.RunFor(time.Second)
	i := inode(1, 1)
	for n := meta.OSDNum(1); n <= 3; n++ {
		f.osds[n].hold = true
	}
	var done []*int
	for n := range uint64(8) {
		done = append(done, f.begin(c, write(i, n*block, fill(granule, byte(n)))))
		f.w.RunFor(10 * time.Millisecond)
	}
	finished := func() (n int) {
		for _, d := range done {
			n += *d
		}
		return n
	}
	if finished() != 6 || f.w.RunUntil(func() bool { return finished() > 6 }, time.Minute) {
		t.Errorf("%d writes were accepted, want 4 in the cache and 2 on their way", finished())
	}
	f.logging = true
	for n := meta.OSDNum(1); n <= 3; n++ {
		f.osds[n].release()
	}
	f.w.RunFor(time.Second)
	if finished() != 8 || f.count(" WRITE") != 4 || c.Unsynced() != 4*granule {
		t.Errorf("%d accepted, %v, %d bytes in the cache", finished(), f.log, c.Unsynced())
	}
	// Less is allowed from now on.
	f.put(f.keys.Global(), `{"client_max_buffered_ops":1}`)
	f.w.RunFor(time.Second)
	if c.Unsynced() != granule {
		t.Errorf("%d bytes in the cache", c.Unsynced())
	}
	f.end(c)
}

// TestCacheIgnoresErrors: what was acknowledged is written in the end, whatever
// OSDs say, and also to an image that has become read-only.
func TestCacheIgnoresErrors(t *testing.T) {
	f := simple(t)
	f.putInode(inode(1, 1), "img", 1<<20, 0, false)
	c := f.start(with(cached, "client_eio_retry_interval", "0", "client_retry_enospc", "0"))
	f.w.RunFor(time.Second)
	want(t, f.run(c, write(inode(1, 1), 0, fill(granule, 1))), 0)
	f.putInode(inode(1, 1), "img", 1<<20, 0, true)
	f.w.RunFor(time.Second)
	want(t, f.run(c, write(inode(1, 1), 0, fill(granule, 2))), syscall.EROFS)
	errs := []wire.Retval{wire.EIO, wire.ENOSPC, wire.ERANGE, wire.EROFS, wire.EPIPE}
	f.osds[f.primary[meta.PG{Pool: 1, Num: 1}]].fail = func(*msgr.Request) wire.Retval {
		if len(errs) == 0 {
			return 0
		}
		e := errs[0]
		errs = errs[1:]
		return e
	}
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	if ob := f.object(meta.ObjectID{Inode: inode(1, 1)}); ob.data[0] != 1 || len(errs) != 0 {
		t.Errorf("the object begins with %d, %d errors left", ob.data[0], len(errs))
	}
	f.end(c)
}

// TestCacheBeforeCASAndDelete: neither may be undone by older data.
func TestCacheBeforeCASAndDelete(t *testing.T) {
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		f := simple(t)
		c := f.start(cached)
		i := inode(pool, 1)
		want(t, f.run(c, write(i, 0, fill(block, 1))), 0)
		want(t, f.run(c, cas(i, 0, granule, 2)), 0)
		wantData(t, f.run(c, read(i, 0, 2*granule)), fill(granule, 2), fill(granule, 1))
		want(t, f.run(c, write(i, granule, fill(granule, 3))), 0)
		want(t, f.run(c, &client.Op{Kind: client.Delete, Inode: i, Bytes: granule}), 0)
		wantData(t, f.run(c, read(i, 0, block)), fill(block, 0))
		want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
		wantData(t, f.run(c, read(i, 0, block)), fill(block, 0))
		f.end(c)
	}
}

// TestWritebackIsSwitchedOff: what is in the cache leaves it, in order.
func TestWritebackIsSwitchedOff(t *testing.T) {
	f := simple(t)
	f.put(f.keys.Global(), `{"client_enable_writeback":true}`)
	c := f.start(map[string]string{"client_writeback_allowed": "1"})
	i := inode(1, 1)
	want(t, f.run(c, write(i, 0, fill(2*granule, 1))), 0)
	if c.Unsynced() == 0 {
		t.Fatal("nothing is cached")
	}
	f.put(f.keys.Global(), `{}`)
	done := f.begin(c, write(i, granule, fill(granule, 2)))
	f.w.RunFor(time.Second)
	if *done != 1 || c.Unsynced() != 0 {
		t.Errorf("%d bytes are still cached", c.Unsynced())
	}
	wantData(t, f.run(c, read(i, 0, 2*granule)), fill(granule, 1), fill(granule, 2))
	f.end(c)
}

// TestDirtyLimits: in lazy pools a sync is done before too much is unsynced.
func TestDirtyLimits(t *testing.T) {
	for _, params := range []map[string]string{
		{"client_max_dirty_ops": "5"}, {"client_dirty_limit": fmt.Sprint(5 * granule)},
	} {
		f := simple(t)
		c := f.start(params)
		f.logging = true
		for n := range uint64(12) {
			want(t, f.run(c, write(inode(2, 1), n*3*granule, fill(granule, 1))), 0)
			if c.Unsynced() > 5*granule {
				t.Errorf("%d bytes are unsynced", c.Unsynced())
			}
		}
		syncs := f.count(" SYNC")
		if f.count(" WRITE") != 12 || syncs < 2 || syncs > 6 {
			t.Errorf("%v: %v", params, f.log)
		}
		f.end(c)
	}
}

// TestSyncOrder: a SYNC covers what was submitted before it, and later writes
// come after it.
func TestSyncOrder(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	f.w.RunFor(time.Second)
	f.run(c, read(inode(2, 1), 0, block)) // connects
	f.logging = true
	var order []string
	submit := func(op *client.Op, name string) {
		f.client.Do(func(*env.Env) {
			op.Done = func(op *client.Op) {
				want(t, op, 0)
				order = append(order, name)
			}
			c.Submit(op)
		})
	}
	submit(write(inode(2, 1), 0, fill(granule, 1)), "w1")
	submit(&client.Op{Kind: client.Sync}, "s1")
	submit(write(inode(2, 1), 0, fill(granule, 2)), "w2")
	submit(write(inode(2, 1), granule, fill(granule, 3)), "w3")
	submit(&client.Op{Kind: client.Sync}, "s2")
	submit(&client.Op{Kind: client.Sync}, "s3")
	submit(write(inode(1, 1), 0, fill(granule, 9)), "durable") // another pool does not wait
	f.w.RunUntil(func() bool { return len(order) == 7 }, time.Minute)
	place := func(name string) int { return slices.Index(order, name) }
	if place("w1") > place("s1") || place("s1") > min(place("w2"), place("w3")) || place("s2") < max(place("w2"), place("w3")) ||
		place("s3") < place("s2") || place("durable") > place("s1") {
		t.Errorf("order %v", order)
	}
	if f.log[0] != "1 WRITE" && f.count(" SYNC") != 2 {
		t.Errorf("requests %v", f.log)
	}
	f.end(c)
}

// TestSyncSurvivesTheOSD: the OSD dies while it syncs; what it had is written
// again, to its successor, and synced there.
func TestSyncSurvivesTheOSD(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i, pg := inode(2, 1), meta.PG{Pool: 2, Num: 1}
	want(t, f.run(c, write(i, 0, fill(granule, 1))), 0)
	o := f.osds[f.primary[pg]]
	o.hold = true
	done := f.begin(c, &client.Op{Kind: client.Sync})
	f.w.RunFor(time.Second)
	f.crash(o.num, 300*time.Millisecond)
	f.object(meta.ObjectID{Inode: i}).content = content{}
	f.w.RunUntil(func() bool { return *done > 0 }, time.Second)
	f.undo(pg)
	if ob := f.object(meta.ObjectID{Inode: i}); *done != 1 || ob.data[0] != 1 {
		t.Errorf("sync done %d, the object begins with %d", *done, ob.data[0])
	}
	f.end(c)
}

func TestSyncErrors(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i := inode(2, 1)
	want(t, f.run(c, write(i, 0, fill(granule, 1))), 0)
	o := f.osds[f.primary[meta.PG{Pool: 2, Num: 1}]]
	n := 0
	o.fail = func(*msgr.Request) wire.Retval {
		if n++; n < 4 {
			return []wire.Retval{wire.EPIPE, wire.EIO, wire.ENOSPC}[n-1]
		}
		return 0
	}
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	want(t, f.run(c, write(i, 0, fill(granule, 2))), 0)
	o.fail = func(r *msgr.Request) wire.Retval {
		if r.Op() == wire.OpSync {
			return wire.EROFS
		}
		return 0
	}
	want(t, f.run(c, &client.Op{Kind: client.Sync}), syscall.EROFS)
	o.fail = nil
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	if c.Unsynced() != 0 {
		t.Error("something is left")
	}
	f.end(c)
}

func TestMemoryBeyondThePool(t *testing.T) {
	f := simple(t)
	var c *client.Client
	f.client.Do(func(e *env.Env) {
		var err error
		c, err = client.New(e, client.Config{Layers: simpleLayer("client_max_dirty_bytes", "8000000"), MemoryBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		c.Start(func(error) {})
	})
	t.Cleanup(c.Free)
	for n := range uint64(3) {
		want(t, f.run(c, write(inode(2, 1), n<<20, fill(1<<20, byte(n)))), 0)
	}
	wantData(t, f.run(c, read(inode(2, 1), 2<<20, 1<<20)), fill(1<<20, 2))
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	f.end(c)
}

// TestCloseWithEverythingPending: all that waits for something is given up.
func TestCloseWithEverythingPending(t *testing.T) {
	for _, params := range []map[string]string{nil, cached} {
		f := simple(t)
		c := f.start(with(params, "client_max_writeback_iodepth", "1", "client_max_buffered_ops", "1"))
		f.w.RunFor(time.Second)
		want(t, f.run(c, write(inode(2, 1), 0, fill(granule, 1))), 0)
		for n := meta.OSDNum(1); n <= 3; n++ {
			f.osds[n].hold = true
		}
		f.setPrimary(meta.PG{Pool: 2, Num: 3}, 0)
		f.w.RunFor(time.Second)
		var done []*int
		submit := func(op *client.Op) { done = append(done, f.begin(c, op)) }
		for n := range uint64(6) {
			submit(write(inode(2, 1), n*block, fill(granule, 2)))
			submit(write(inode(2, 1), n*block, fill(granule, 3))) // blocked
			submit(read(inode(2, 2), n*block, granule))
		}
		submit(&client.Op{Kind: client.Delete, Inode: inode(2, 1), Bytes: granule})
		submit(cas(inode(2, 1), 0, granule, 7))
		submit(&client.Op{Kind: client.Sync})
		submit(write(inode(2, 1), 0, fill(granule, 2)))
		l := f.list(c, client.List{Inode: inode(2, 1)})
		r := &client.Raw{OSD: 2}
		(&wire.HeaderOnly{Op: wire.OpSync}).Encode(&r.Op.Packet)
		raw := 0
		r.Done = func(*client.Raw) { raw++ }
		f.client.Do(func(*env.Env) { c.Request(r) })
		f.w.RunFor(10 * time.Millisecond)
		f.end(c)
		for i, n := range done {
			if *n != 1 {
				t.Errorf("operation %d was completed %d times", i, *n)
			}
		}
		if l.done != 1 || raw != 1 {
			t.Errorf("list done %d, raw %d", l.done, raw)
		}
	}
}

// TestReplayAndOverlappingWrites: while lost data is sent again, a newer write to
// the same place waits, so that it cannot end up below; other writes do not.
func TestReplayAndOverlappingWrites(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i, pg := inode(2, 1), meta.PG{Pool: 2, Num: 1}
	want(t, f.run(c, write(i, 0, fill(2*granule, 1))), 0)
	old := f.osds[f.primary[pg]]
	next := f.osds[f.nth(int(old.num))]
	next.hold = true
	f.crash(old.num, 300*time.Millisecond)
	f.w.RunFor(time.Second)
	if len(next.held) != 1 {
		t.Fatalf("%d requests were sent again", len(next.held))
	}
	w := f.begin(c, write(i, granule, fill(2*granule, 2)))
	f.w.RunFor(time.Second)
	other := f.begin(c, write(i, 2*block, fill(granule, 3))) // PG 3
	f.w.RunFor(time.Second)
	wantData(t, f.run(c, read(i, 0, 2*granule)), fill(2*granule, 1))
	if len(next.held) != 1 || *w != 0 || *other != 1 {
		t.Errorf("%d requests held, overlapping write done %d, the other one %d", len(next.held), *w, *other)
	}
	next.release()
	f.w.RunFor(time.Second)
	wantData(t, f.run(c, read(i, 0, 3*granule)), fill(granule, 1), fill(2*granule, 2))
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	f.undo(pg)
	wantData(t, f.run(c, read(i, 0, 3*granule)), fill(granule, 1), fill(2*granule, 2))
	f.end(c)
}

// TestReplayAfterWritesOnTheirWay: lost data is not sent while a newer write to
// the same place is on its way, and afterwards only what is left of it.
func TestReplayAfterWritesOnTheirWay(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i, pg := inode(2, 1), meta.PG{Pool: 2, Num: 1}
	want(t, f.run(c, write(i, 0, fill(2*granule, 1))), 0)
	old := f.osds[f.primary[pg]]
	next := f.osds[f.nth(int(old.num))]
	old.hold, next.hold = true, true
	w := f.begin(c, write(i, granule, fill(2*granule, 2)))
	f.w.RunFor(10 * time.Millisecond)
	f.crash(old.num, 300*time.Millisecond)
	f.w.RunFor(time.Second)
	if len(next.held) != 1 {
		t.Errorf("%d requests were sent to the new primary", len(next.held))
	}
	f.logging = true
	next.release()
	f.w.RunFor(time.Second)
	if *w != 1 || f.count(" WRITE") != 2 {
		t.Errorf("write done %d, %v", *w, f.log)
	}
	want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
	f.undo(pg)
	wantData(t, f.run(c, read(i, 0, 3*granule)), fill(granule, 1), fill(2*granule, 2))
	f.end(c)
}

// TestFormerPrimary: what an OSD has acknowledged that is not the primary any
// more is written to the new one, even if the old one does not disconnect us.
func TestFormerPrimary(t *testing.T) {
	for _, late := range []bool{false, true} {
		f := simple(t)
		c := f.start(nil)
		i, pg := inode(2, 1), meta.PG{Pool: 2, Num: 1}
		f.run(c, read(i, 0, granule))
		old := f.osds[f.primary[pg]]
		old.hold = late
		w := f.begin(c, write(i, 0, fill(granule, 1)))
		f.w.RunFor(time.Second)
		s := schema.PGState{Primary: f.nth(int(old.num)), State: meta.PGActive}
		f.put(f.keys.PGState(pg), string(s.Encode()))
		f.w.RunFor(time.Second)
		old.release() // late: acknowledged when the client knows better
		f.w.RunFor(10 * time.Millisecond)
		f.primary[pg] = s.Primary
		f.object(meta.ObjectID{Inode: i}).content, f.object(meta.ObjectID{Inode: i}).undo = content{}, nil
		want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
		f.undo(pg)
		if wantData(t, f.run(c, read(i, 0, granule)), fill(granule, 1)); *w != 1 || old.lost != 0 {
			t.Errorf("write done %d, %d connections lost", *w, old.lost)
		}
		f.end(c)
	}
}
