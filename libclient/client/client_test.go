package client_test

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// simple is a cluster of three OSDs with a durable pool 1 and a lazy pool 2.
func simple(t testing.TB) *fake {
	return newFake(t, 1, 3, map[meta.PoolID]*fakePool{1: {commit: "all", pgs: 8}, 2: {commit: "none", pgs: 8}})
}

func fill(n int, v byte) []byte { return bytes.Repeat([]byte{v}, n) }

func write(i meta.Inode, offset uint64, parts ...[]byte) *client.Op {
	op := &client.Op{Kind: client.Write, Inode: i, Offset: offset, Iov: parts}
	for _, b := range parts {
		op.Bytes += uint64(len(b))
	}
	return op
}

func read(i meta.Inode, offset, n uint64) *client.Op {
	return &client.Op{Kind: client.Read, Inode: i, Offset: offset, Bytes: n, Iov: [][]byte{make([]byte, n)}}
}

func want(t testing.TB, op *client.Op, err syscall.Errno) {
	t.Helper()
	if op.Err != err {
		t.Errorf("%v at %d: %v, want %v", op.Kind, op.Offset, op.Err, err)
	}
}

func wantData(t testing.TB, op *client.Op, data ...[]byte) {
	t.Helper()
	want(t, op, 0)
	if !bytes.Equal(bytes.Join(op.Iov, nil), bytes.Join(data, nil)) {
		t.Errorf("read of %d bytes at %d returned other data", op.Bytes, op.Offset)
	}
}

func TestReadWriteOverObjects(t *testing.T) {
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		f := simple(t)
		c := f.start(nil)
		i := inode(pool, 5)
		a, b := fill(3*granule, 1), fill(7*granule, 2)
		want(t, f.run(c, write(i, 2*granule, a, b)), 0) // before the cluster is known
		wantData(t, f.run(c, read(i, 0, 16*granule)), fill(2*granule, 0), a, b, fill(4*granule, 0))
		op := read(i, 3*granule, 2*granule)
		op.Iov = [][]byte{op.Iov[0][:100], op.Iov[0][100:100], op.Iov[0][100:]}
		wantData(t, f.run(c, op), fill(2*granule, 1))
		want(t, f.run(c, &client.Op{Kind: client.Sync}), 0)
		wantData(t, f.run(c, read(i, 2*granule, 3*granule)), a)
		if c.Unsynced() != 0 {
			t.Errorf("%d bytes are buffered after a sync", c.Unsynced())
		}
		want(t, f.run(c, &client.Op{Kind: client.Delete, Inode: i, Offset: block, Bytes: granule}), 0)
		wantData(t, f.run(c, read(i, 2*granule, 10*granule)), fill(2*granule, 1), fill(4*granule, 0), fill(4*granule, 2))
		f.end(c)
	}
}

func TestBadOperations(t *testing.T) {
	f := simple(t)
	f.putInode(inode(1, 7), "frozen", 1<<20, 0, true)
	c := f.start(nil)
	bits := make([]byte, 1)
	for _, x := range []struct {
		what string
		op   *client.Op
		err  syscall.Errno
	}{
		{"misaligned offset", write(inode(1, 1), 512, fill(granule, 1)), syscall.EINVAL},
		{"misaligned length", write(inode(1, 1), 0, fill(512, 1)), syscall.EINVAL},
		{"no data", write(inode(1, 1), 0), syscall.EINVAL},
		{"pool 0", write(inode(0, 1), 0, fill(granule, 1)), syscall.EINVAL},
		{"unknown pool", read(inode(9, 1), 0, granule), syscall.EINVAL},
		{"overflow", &client.Op{Kind: client.Delete, Inode: inode(1, 1), Offset: 1<<64 - block, Bytes: 2 * block}, syscall.EINVAL},
		{"short buffers", &client.Op{Kind: client.Read, Inode: inode(1, 1), Bytes: granule}, syscall.EINVAL},
		{"short bitmap", &client.Op{Kind: client.ReadBitmap, Inode: inode(1, 1), Bytes: 9 * granule, Bitmap: bits}, syscall.EINVAL},
		{"no bitmap", &client.Op{Kind: client.ReadBitmap, Inode: inode(1, 1), Bytes: granule}, syscall.EINVAL},
		{"unknown kind", &client.Op{Kind: 17, Inode: inode(1, 1), Bytes: granule}, syscall.EINVAL},
		{"CAS over two objects", cas(inode(1, 1), block-granule, 2*granule, 1), syscall.EINVAL},
		{"read-only", write(inode(1, 7), 0, fill(granule, 1)), syscall.EROFS},
		{"read-only delete", &client.Op{Kind: client.Delete, Inode: inode(1, 7), Bytes: granule}, syscall.EROFS},
	} {
		if f.run(c, x.op); x.op.Err != x.err {
			t.Errorf("%s: %v, want %v", x.what, x.op.Err, x.err)
		}
	}
	op := write(inode(1, 7), 0, fill(granule, 1))
	op.Flags = client.IgnoreReadonly
	want(t, f.run(c, op), 0)
	f.end(c)
	want(t, f.run(c, read(inode(1, 7), 0, granule)), syscall.ECANCELED)
}

func cas(i meta.Inode, offset uint64, n int, v meta.Version) *client.Op {
	op := write(i, offset, fill(n, byte(v)))
	op.Version = v
	return op
}

func TestCompareAndSwap(t *testing.T) {
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		f := simple(t)
		c := f.start(nil)
		i := inode(pool, 3)
		op := f.run(c, cas(i, 0, granule, 1))
		if want(t, op, 0); op.Version != 1 {
			t.Errorf("version %v", op.Version)
		}
		op = f.run(c, cas(i, granule, granule, 5))
		if want(t, op, syscall.EINTR); op.Version != 1 {
			t.Errorf("version %v after a failure", op.Version)
		}
		op = f.run(c, read(i, 0, 0))
		if want(t, op, 0); op.Version != 1 {
			t.Errorf("version %v read", op.Version)
		}
		// Lazy pools: it must be durable when it is acknowledged.
		f.undo(meta.PG{Pool: pool, Num: 1})
		wantData(t, f.run(c, read(i, 0, granule)), fill(granule, 1))
		// Unsynced data of the same object goes first.
		want(t, f.run(c, write(i, 2*granule, fill(granule, 9))), 0)
		want(t, f.run(c, cas(i, 2*granule, granule, 3)), 0)
		wantData(t, f.run(c, read(i, 2*granule, granule)), fill(granule, 3))
		// Nothing is repeated.
		pg := meta.PG{Pool: pool, Num: 1}
		o := f.osds[f.primary[pg]]
		o.fail = func(*msgr.Request) wire.Retval { return wire.EPIPE }
		want(t, f.run(c, cas(i, 0, granule, 4)), syscall.EINTR)
		o.fail = func(*msgr.Request) wire.Retval { return wire.EIO }
		want(t, f.run(c, cas(i, 0, granule, 4)), syscall.EIO)
		o.fail = nil
		done := f.begin(c, cas(i, 0, granule, 4))
		f.w.RunFor(90 * time.Microsecond)
		f.crash(o.num, time.Second)
		f.w.RunUntil(func() bool { return *done > 0 }, time.Second)
		if *done == 0 {
			t.Error("CAS survives a disconnect")
		}
		f.w.RunFor(2 * time.Second)
		f.setPrimary(pg, 0)
		f.w.RunFor(time.Second)
		want(t, f.run(c, cas(i, 0, granule, 4)), syscall.EINTR)
		f.end(c)
	}
}

func TestErrorsAreRetriedOrNot(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i := inode(1, 1)
	want(t, f.run(c, write(i, 0, fill(granule, 1))), 0)
	o := f.osds[f.primary[meta.PG{Pool: 1, Num: 1}]]
	for _, e := range []wire.Retval{wire.EPIPE, wire.EIO, wire.EDOM, wire.ENOSPC} {
		start, n := f.w.Now(), 0
		o.fail = func(*msgr.Request) wire.Retval {
			if n++; n <= 2 {
				return e
			}
			return 0
		}
		want(t, f.run(c, write(i, 0, fill(granule, 1))), 0)
		least := 2 * time.Second
		if e == wire.EPIPE {
			least = 100 * time.Millisecond
		}
		if took := f.w.Now() - start; took < least || took > least+100*time.Millisecond || n != 3 {
			t.Errorf("%v: %d attempts in %v", e, n, took)
		}
	}
	o.fail = func(*msgr.Request) wire.Retval { return wire.ERANGE }
	if o.lost != 0 {
		t.Errorf("%d connections were dropped for errors that are part of life", o.lost)
	}
	want(t, f.run(c, write(i, 0, fill(granule, 1))), syscall.ERANGE)
	if f.w.RunFor(time.Second); o.lost != 1 {
		t.Error("the connection to an OSD that makes no sense was not dropped")
	}
	f.put(f.keys.Global(), `{"client_eio_retry_interval":0,"client_retry_enospc":false}`) // while running
	f.w.RunFor(time.Second)
	for _, e := range []wire.Retval{wire.EIO, wire.ENOSPC} {
		o.fail = func(*msgr.Request) wire.Retval { return e }
		want(t, f.run(c, write(i, 0, fill(granule, 1))), e.Errno())
	}
	// Of several errors the worst one counts, and parts that wait are given up.
	f.run(c, read(i, 2*block, granule)) // connects
	o.fail = func(*msgr.Request) wire.Retval { return wire.ENOSPC }
	f.setPrimary(meta.PG{Pool: 1, Num: 2}, 0)
	f.osds[f.primary[meta.PG{Pool: 1, Num: 3}]].fail = func(*msgr.Request) wire.Retval { return wire.EIO }
	f.w.RunFor(time.Second)
	want(t, f.run(c, write(i, 0, fill(3*block, 1))), syscall.EIO)
	f.end(c)
}

func TestInactivePG(t *testing.T) {
	f := simple(t)
	c := f.start(map[string]string{"client_wait_up_timeout": "3"})
	i, pg := inode(1, 1), meta.PG{Pool: 1, Num: 1}
	f.setPrimary(pg, 0)
	op := read(i, 0, granule)
	op.Flags = client.WaitUpTimeout
	start := f.w.Now()
	want(t, f.run(c, op), syscall.ETIMEDOUT)
	if took := f.w.Now() - start; took < 3*time.Second || took > 3100*time.Millisecond {
		t.Errorf("gave up after %v", took)
	}
	w := write(i, 0, fill(granule, 7))
	done := f.begin(c, w)
	cancelled := read(i, 0, granule)
	cancelledDone := f.begin(c, cancelled)
	f.w.RunFor(20 * time.Second)
	f.client.Do(func(*env.Env) { c.Cancel(cancelled) })
	f.w.RunFor(time.Millisecond)
	if *done != 0 || *cancelledDone != 1 || cancelled.Err != syscall.ECANCELED {
		t.Errorf("write done %d, cancelled done %d: %v", *done, *cancelledDone, cancelled.Err)
	}
	f.setPrimary(pg, 2)
	start = f.w.Now()
	f.w.RunUntil(func() bool { return *done > 0 }, time.Second)
	if took := f.w.Now() - start; *done == 0 || took > 5*time.Millisecond {
		t.Errorf("took %v after the PG became active", took)
	}
	f.end(c)
}

// TestVanishedOSD: when the key of a frozen OSD vanishes, its operations go to
// the new primary at once, and not twice.
func TestVanishedOSD(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	i, pg := inode(1, 1), meta.PG{Pool: 1, Num: 1}
	want(t, f.run(c, write(i, 0, fill(granule, 1))), 0)
	old := f.primary[pg]
	f.osds[old].node.Pause()
	op := write(i, 0, fill(granule, 2))
	done := f.begin(c, op)
	f.w.RunFor(2 * time.Second)
	f.primary[pg] = 0
	f.setPrimary(pg, f.nth(int(old))) // the new primary is there before the old one is gone
	f.w.RunFor(10 * time.Millisecond)
	if *done != 0 || f.object(meta.ObjectID{Inode: i}).version != 1 {
		t.Error("the operation was sent twice in parallel")
	}
	f.putOSD(old, false)
	start := f.w.Now()
	f.w.RunUntil(func() bool { return *done > 0 }, time.Second)
	if took := f.w.Now() - start; *done == 0 || took > 60*time.Millisecond {
		t.Errorf("%d done after %v", *done, took)
	}
	f.end(c)
}

func TestPGCountChanges(t *testing.T) {
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		f := simple(t)
		c := f.start(nil)
		i := inode(pool, 1)
		want(t, f.run(c, write(i, 0, fill(16*block, 1))), 0)
		for n := range f.pools[pool].pgs {
			f.setPrimary(meta.PG{Pool: pool, Num: meta.PGNum(n + 1)}, 0)
		}
		op := write(i, 0, fill(16*block, 2))
		done := f.begin(c, op)
		f.w.RunFor(time.Second)
		f.pools[pool].pgs = 5
		f.putPools()
		f.putPGs(pool)
		f.w.RunUntil(func() bool { return *done > 0 }, time.Second)
		want(t, op, 0)
		wantData(t, f.run(c, read(i, 0, 16*block)), fill(16*block, 2))
		f.end(c)
	}
}

// TestCASAndPGCount: a CAS operation is not repeated by other rules.
func TestCASAndPGCount(t *testing.T) {
	f := simple(t)
	c := f.start(nil)
	f.osds[1].node.Pause() // so that it waits for the connection
	op := cas(inode(1, 1), 0, granule, 1)
	done := f.begin(c, op)
	f.w.RunFor(time.Second)
	f.pools[1].pgs = 5
	f.putPools()
	f.putPGs(1)
	f.w.RunFor(time.Second)
	if want(t, op, syscall.EINTR); *done != 1 {
		t.Errorf("done %d", *done)
	}
	f.osds[1].node.Resume()
	f.end(c)
}

func TestPoolIsRemoved(t *testing.T) {
	f := simple(t)
	c := f.start(map[string]string{"client_enable_writeback": "1", "client_writeback_allowed": "1"})
	want(t, f.run(c, write(inode(1, 1), 0, fill(granule, 1))), 0)
	f.setPrimary(meta.PG{Pool: 1, Num: 1}, 0)
	f.w.RunFor(time.Second)
	op := read(inode(1, 2), 0, granule)
	done, sync := f.begin(c, op), f.begin(c, &client.Op{Kind: client.Sync})
	f.w.RunFor(time.Second)
	delete(f.pools, 1)
	f.putPools()
	f.w.RunFor(time.Second)
	if *done != 1 || op.Err != syscall.EINVAL || *sync != 1 {
		t.Errorf("read done %d: %v, sync done %d", *done, op.Err, *sync)
	}
	f.end(c)
}
