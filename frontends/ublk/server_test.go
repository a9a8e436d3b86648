package ublk

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
	"vitastor/internal/uring"
)

// bench is a device with a server on a disk of memory.
type bench struct {
	*testing.T
	k    *fakeKernel
	d    *fakeDevice
	loop *loop.Loop
	env  *env.Env
	disk *slowDisk
}

// slowDisk keeps requests until they are let go.
type slowDisk struct {
	*blockdev.Memory
	info    blockdev.Info
	held    []*blockdev.Request
	holding bool
}

func (s *slowDisk) Info() blockdev.Info { return s.info }

func (s *slowDisk) Submit(r *blockdev.Request) {
	if s.holding {
		s.held = append(s.held, r)
		return
	}
	s.Memory.Submit(r)
}

func (s *slowDisk) letGo() {
	s.holding = false
	for _, r := range s.held {
		s.Memory.Submit(r)
	}
	s.held = nil
}

const diskBytes = 8 << 20

func newBench(t *testing.T, i ublkproto.DevInfo) *bench {
	b := &bench{T: t, k: newFakeKernel(t)}
	l, err := loop.New(loop.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { l.Run(ctx); close(ended) }()
	t.Cleanup(func() { stop(); <-ended })
	b.loop, b.env = l, l.Env()
	memory, err := blockdev.NewMemory(b.env, "memory", diskBytes, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(memory.Free)
	b.disk = &slowDisk{Memory: memory, info: memory.Info()}

	control, err := newControl(b.k)
	if err == nil {
		i, err = control.add(i)
	}
	s := shape{queues: 1, depth: 1}
	if err == nil {
		err = control.setParams(&i, s.params(b.disk.info, &i))
	}
	if err != nil {
		t.Fatal(err)
	}
	b.d = b.k.devices[i.Device]
	return b
}

// on runs f on the loop.
func (b *bench) on(f func()) {
	b.Helper()
	done := make(chan struct{})
	b.loop.Post(func() { f(); close(done) })
	<-done
}

// serve starts a server.
func (b *bench) serve(ended func(error)) (s *Server, stop func()) {
	b.Helper()
	buffers, err := sys.MapSparse(BufferBytes(b.d.info))
	if err != nil {
		b.Fatal(err)
	}
	var c Channel
	var w *loop.Watch
	b.on(func() {
		if c, err = b.k.Open(b.d.info, false); err != nil {
			b.Fatal(err)
		}
		s, err = NewServer(Config{Env: b.env, Disk: b.disk, Channel: c, Info: b.d.info, Buffers: buffers, Ended: ended})
		if err != nil {
			b.Fatal(err)
		}
		w, err = b.loop.Watch(c.FD(), s.Ready)
		s.Start()
	})
	command := ublkproto.StartDev
	if b.d.info.State == ublkproto.Quiesced {
		command = ublkproto.EndUserRecovery
	}
	if err == nil {
		err = b.k.Do(&Call{Command: command, Data: 1})
	}
	if err != nil {
		b.Fatal(err)
	}
	return s, func() { b.on(func() { w.Close(); s.Close(); c.Close() }) }
}

func device(queues, depth uint16, flags ublkproto.Features) ublkproto.DevInfo {
	return ublkproto.DevInfo{Queues: queues, Depth: depth, RequestBytes: 64 << 10, Device: ublkproto.NewDevice, Flags: flags}
}

const recoverable = ublkproto.UserRecovery | ublkproto.UserRecoveryReissue

// TestRequests compares a device with a slice of bytes, many requests at once.
func TestRequests(t *testing.T) {
	b := newBench(t, device(3, 5, recoverable))
	ended := make(chan error, 1)
	s, stop := b.serve(func(err error) { ended <- err })
	const areas, areaBytes = 40, 128 << 10 // each with one request at a time
	models := make([][]byte, areas)
	type job struct {
		io   *userIO
		want []byte
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range models {
		models[i] = make([]byte, areaBytes)
	}
	for round := range 60 {
		var jobs []job
		for area, model := range models {
			q, at := randomRequest(r, area*areaBytes)
			j := job{}
			data := make([]byte, q.Bytes)
			switch q.Op {
			case ublkproto.OpRead:
				j.want = bytes.Clone(model[at:][:q.Bytes])
			case ublkproto.OpWrite:
				for i := range data {
					data[i] = byte(round + area + i>>9)
				}
				copy(model[at:], data)
			case ublkproto.OpWriteZeroes:
				clear(model[at:][:q.Bytes])
			}
			j.io = b.d.begin(q, data)
			jobs = append(jobs, j)
		}
		for _, j := range jobs {
			n, e := j.io.wait(t)
			hasData := j.io.request.HasData()
			if e != 0 || hasData && uint64(n) != j.io.request.Bytes || !hasData && n != 0 {
				t.Fatalf("%+v: %d, %v", j.io.request, n, e)
			}
			if j.want != nil && !bytes.Equal(j.io.data, j.want) {
				t.Fatalf("%+v reads something else", j.io.request)
			}
		}
	}
	b.on(func() {
		if s.Stats.Requests != 60*areas || s.Stats.Errors != 0 || s.Active() != 0 || b.disk.Flushes == 0 || b.disk.Durable == 0 {
			t.Errorf("%+v, %d active, %d flushes, %d durable", s.Stats, s.Active(), b.disk.Flushes, b.disk.Durable)
		}
	})
	if err := b.k.Do(&Call{Command: ublkproto.StopDev}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	stop()
}

// randomRequest is one that stays within the area at from; at is where in it.
func randomRequest(r *rand.Rand, from int) (q ublkproto.Request, at uint64) {
	ops := []ublkproto.Op{ublkproto.OpRead, ublkproto.OpWrite, ublkproto.OpWrite, ublkproto.OpFlush, ublkproto.OpDiscard, ublkproto.OpWriteZeroes}
	q.Op = ops[r.IntN(len(ops))]
	if q.Op == ublkproto.OpFlush {
		return q, 0
	}
	at = r.Uint64N(120) * 512
	q.Bytes = (1 + r.Uint64N(128)) * 512
	q.Offset = uint64(from) + at
	if r.IntN(4) == 0 && q.Op != ublkproto.OpDiscard {
		q.Flags = ublkproto.RequestFUA
	}
	return q, at
}

func TestErrors(t *testing.T) {
	b := newBench(t, device(1, 2, recoverable))
	_, stop := b.serve(func(error) { t.Error("it has ended") })
	defer stop()
	for _, c := range []struct {
		q    ublkproto.Request
		want syscall.Errno
	}{
		{ublkproto.Request{Op: ublkproto.OpWriteSame, Bytes: 512}, syscall.EOPNOTSUPP},
		{ublkproto.Request{Op: 200, Bytes: 512}, syscall.EOPNOTSUPP},
		{ublkproto.Request{Op: ublkproto.OpRead, Bytes: 128 << 10}, syscall.EINVAL},
		{ublkproto.Request{Op: ublkproto.OpDiscard, Offset: 1 << 63}, syscall.EINVAL},
		{ublkproto.Request{Op: ublkproto.OpWrite, Offset: diskBytes, Bytes: 512}, syscall.ENOSPC},
		{ublkproto.Request{Op: ublkproto.OpRead, Offset: diskBytes - 512, Bytes: 1024}, syscall.EINVAL},
		{ublkproto.Request{Op: ublkproto.OpRead, Bytes: 4096}, syscall.EIO},
	} {
		b.on(func() {
			b.disk.Fail = func(r *blockdev.Request) syscall.Errno {
				if c.want == syscall.EIO {
					return c.want
				}
				return 0
			}
		})
		if _, e := b.d.begin(c.q, make([]byte, c.q.Bytes)).wait(t); e != c.want {
			t.Errorf("%+v: %v, want %v", c.q, e, c.want)
		}
	}
}

// TestNextServer: a server that is stopped ends what it has begun; one that
// crashes leaves it to the next.
func TestNextServer(t *testing.T) {
	b := newBench(t, device(1, 4, recoverable))
	s, stop := b.serve(func(error) { t.Error("it has ended") })
	b.on(func() { b.disk.holding = true })
	data := bytes.Repeat([]byte{7}, 8192)
	begun := b.d.begin(ublkproto.Request{Op: ublkproto.OpWrite, Offset: 4096, Bytes: 8192}, data)
	b.until(func() bool { return s.Active() == 1 })
	idle := make(chan struct{}, 1)
	b.on(func() { s.Stop(func() { idle <- struct{}{} }) })
	late := b.d.begin(ublkproto.Request{Op: ublkproto.OpRead, Offset: 0, Bytes: 4096}, make([]byte, 4096))
	select {
	case <-idle:
		t.Fatal("it is idle while a request is active")
	case <-time.After(20 * time.Millisecond):
	}
	b.on(b.disk.letGo)
	<-idle
	if n, e := begun.wait(t); n != 8192 || e != 0 {
		t.Errorf("%d, %v", n, e)
	}
	stop()
	if b.d.info.State != ublkproto.Quiesced {
		t.Fatalf("state %d", b.d.info.State)
	}
	// The next one gets what came late, and crashes with it.
	b.on(func() { b.disk.holding = true })
	s, _ = b.serve(func(error) { t.Error("it has ended") })
	b.until(func() bool { return s.Active() == 1 })
	b.k.Kill(1)
	b.on(b.disk.letGo)
	s, stop = b.serve(func(error) { t.Error("it has ended") })
	if n, e := late.wait(t); n != 4096 || e != 0 {
		t.Errorf("%d, %v", n, e)
	}
	if got := b.d.read(t, 4096, 8192); !bytes.Equal(got, data) {
		t.Error("what the first server has answered is not there")
	}
	stop()
}

func (b *bench) until(f func() bool) {
	b.Helper()
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(time.Millisecond) {
		is := false
		b.on(func() { is = f() })
		if is {
			return
		}
	}
	b.Fatal("it does not happen")
}

// TestFail: everything gets an error at once, and memory that the disk still
// writes from is not given to the kernel.
func TestFail(t *testing.T) {
	b := newBench(t, device(1, 1, recoverable))
	ended := make(chan error, 1)
	s, stop := b.serve(func(err error) { ended <- err })
	b.on(func() { b.disk.holding = true })
	data := bytes.Repeat([]byte{1}, 4096)
	begun := b.d.begin(ublkproto.Request{Op: ublkproto.OpWrite, Bytes: 4096}, bytes.Clone(data))
	b.until(func() bool { return s.Active() == 1 })
	b.on(s.Fail)
	other := b.d.begin(ublkproto.Request{Op: ublkproto.OpWrite, Bytes: 4096}, bytes.Repeat([]byte{2}, 4096))
	for _, io := range []*userIO{begun, other} {
		if _, e := io.wait(t); e != syscall.EIO {
			t.Error(e)
		}
	}
	b.on(b.disk.letGo)
	b.until(func() bool { return s.Active() == 0 })
	if !bytes.Equal(b.disk.Data()[:4096], data) {
		t.Error("the disk has got the data of another request")
	}
	b.k.Do(&Call{Command: ublkproto.StopDev})
	<-ended
	stop()
}

// TestNoFlush: a kernel that does not flush gets durable writes.
func TestNoFlush(t *testing.T) {
	b := newBench(t, device(1, 1, recoverable))
	s, stop := b.serve(func(error) {})
	defer stop()
	durable := func() (n int) { b.on(func() { n = b.disk.Durable }); return n }
	b.d.write(t, 0, make([]byte, 512), 0)
	if durable() != 0 {
		t.Error("a write was made durable for nothing")
	}
	b.d.write(t, 0, make([]byte, 512), ublkproto.RequestFUA)
	b.on(func() { s.c.NoFlush = true })
	b.d.write(t, 0, make([]byte, 512), 0)
	if durable() != 2 {
		t.Errorf("%d durable writes, not 2", durable())
	}
	b.on(func() { b.disk.info.WriteCache = false })
	b.d.write(t, 0, make([]byte, 512), 0)
	if durable() != 2 {
		t.Error("a write to a disk without a cache was made durable once more")
	}
}

// TestKernelLacksMemory: answers are handed over later.
func TestKernelLacksMemory(t *testing.T) {
	b := newBench(t, device(1, 2, recoverable))
	_, stop := b.serve(func(error) {})
	defer stop()
	for range 3 {
		b.k.mu.Lock()
		b.d.channel.refuse = 3
		b.k.mu.Unlock()
		b.d.write(t, 0, make([]byte, 4096), 0)
	}
}

// TestRefused: the driver does not want our commands.
func TestRefused(t *testing.T) {
	b := newBench(t, device(1, 3, recoverable))
	ended := make(chan error, 1)
	_, stop := b.serve(func(err error) { ended <- err })
	b.k.mu.Lock()
	c := b.d.channel
	c.tags[1].stage = tagOver
	c.complete(1, -int32(syscall.EINVAL))
	c.tags[0].stage = tagOver
	c.complete(0, ublkproto.ResultNoMore)
	b.k.mu.Unlock()
	if err := <-ended; err == nil {
		t.Error("it does not say why")
	}
	stop()
}

func TestTooLittleMemory(t *testing.T) {
	if _, err := NewServer(Config{Info: device(1, 2, 0), Buffers: make([]byte, 128<<10)}); err == nil {
		t.Error("a server without memory")
	}
}

// stubChannel answers nothing by itself.
type stubChannel struct {
	desc    []byte
	cqes    []uring.CQE
	commits int
}

func (c *stubChannel) FD() int                                         { return -1 }
func (c *stubChannel) Descriptors(int) []byte                          { return c.desc }
func (c *stubChannel) Fetch(uint16, uint16, uint64, []byte)            {}
func (c *stubChannel) Commit(_, _ uint16, _ uint64, r int32, _ []byte) { c.commits++ }
func (c *stubChannel) Submit() syscall.Errno                           { return 0 }
func (c *stubChannel) Close()                                          {}
func (c *stubChannel) Drain(out []uring.CQE) int {
	n := copy(out, c.cqes)
	c.cqes = c.cqes[n:]
	return n
}

type tasks struct{ list []*env.Task }

func (e *tasks) Defer(t *env.Task)   { e.list = append(e.list, t) }
func (e *tasks) Post(fn func()) bool { return false }

func TestNothingAllocates(t *testing.T) {
	exec := &tasks{}
	e := &env.Env{Exec: exec}
	memory, err := blockdev.NewMemory(e, "memory", 1<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Free()
	i := device(1, 8, 0)
	c := &stubChannel{desc: make([]byte, i.DescriptorBytes())}
	s, err := NewServer(Config{Env: e, Disk: memory, Channel: c, Info: i, Buffers: make([]byte, BufferBytes(i)), NoFlush: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []ublkproto.Op{ublkproto.OpRead, ublkproto.OpWrite, ublkproto.OpFlush, ublkproto.OpDiscard, ublkproto.OpWriteZeroes} {
		for tag := range 8 {
			q := ublkproto.Request{Op: op, Offset: uint64(tag) * 4096, Bytes: 4096}
			copy(c.desc[tag*ublkproto.DescriptorSize:], q.Append(nil))
		}
		cqes := make([]uring.CQE, 8)
		if n := testing.AllocsPerRun(100, func() {
			for tag := range cqes {
				cqes[tag] = uring.CQE{UserData: uint64(tag)}
			}
			c.cqes = cqes
			s.Ready()
			for i := 0; i < len(exec.list); i++ {
				exec.list[i].Run()
			}
			exec.list = exec.list[:0]
		}); n != 0 {
			t.Errorf("operation %d: %v allocations", op, n)
		}
	}
	if c.commits == 0 || s.Active() != 0 {
		t.Errorf("%d answers, %d active", c.commits, s.Active())
	}
}
