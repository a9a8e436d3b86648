package uring

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitastor/internal/pinned"
	"vitastor/internal/sys"
)

func TestLayouts(t *testing.T) {
	var s SQE
	var c CQE
	var p params
	var u rsrcUpdate
	var pr probe
	for _, x := range []struct {
		name      string
		got, want uintptr
	}{
		{"sqe", unsafe.Sizeof(s), 64},
		{"sqe.opcode", unsafe.Offsetof(s.Opcode), 0},
		{"sqe.flags", unsafe.Offsetof(s.Flags), 1},
		{"sqe.ioprio", unsafe.Offsetof(s.IOPrio), 2},
		{"sqe.fd", unsafe.Offsetof(s.Fd), 4},
		{"sqe.off", unsafe.Offsetof(s.Off), 8},
		{"sqe.addr", unsafe.Offsetof(s.Addr), 16},
		{"sqe.len", unsafe.Offsetof(s.Len), 24},
		{"sqe.rw_flags", unsafe.Offsetof(s.OpFlags), 28},
		{"sqe.user_data", unsafe.Offsetof(s.UserData), 32},
		{"sqe.buf_index", unsafe.Offsetof(s.BufIndex), 40},
		{"sqe.personality", unsafe.Offsetof(s.Personality), 42},
		{"sqe.file_index", unsafe.Offsetof(s.FileIndex), 44},
		{"sqe.addr3", unsafe.Offsetof(s.Addr3), 48},
		{"cqe", unsafe.Sizeof(c), 16},
		{"cqe.res", unsafe.Offsetof(c.Res), 8},
		{"cqe.flags", unsafe.Offsetof(c.Flags), 12},
		{"params", unsafe.Sizeof(p), 120},
		{"params.flags", unsafe.Offsetof(p.flags), 8},
		{"params.features", unsafe.Offsetof(p.features), 20},
		{"params.wq_fd", unsafe.Offsetof(p.wqFd), 24},
		{"params.sq_off", unsafe.Offsetof(p.sq), 40},
		{"params.cq_off", unsafe.Offsetof(p.cq), 80},
		{"sq_off.array", unsafe.Offsetof(p.sq.array), 24},
		{"cq_off.cqes", unsafe.Offsetof(p.cq.cqes), 20},
		{"cq_off.flags", unsafe.Offsetof(p.cq.flags), 24},
		{"rsrc_update", unsafe.Sizeof(u), 16},
		{"rsrc_update.data", unsafe.Offsetof(u.data), 8},
		{"probe_op", unsafe.Sizeof(probeOp{}), 8},
		{"probe_op.flags", unsafe.Offsetof(probeOp{}.flags), 2},
		{"probe.ops", unsafe.Offsetof(pr.ops), 16},
		{"timespec", unsafe.Sizeof(Timespec{}), 16},
	} {
		if x.got != x.want {
			t.Errorf("%s is %d, want %d", x.name, x.got, x.want)
		}
	}
}

// ring makes a ring on a locked thread or skips, with the kernel's reason.
func ring(t testing.TB, o Options) *Ring {
	runtime.LockOSThread()
	r, err := New(o)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); runtime.UnlockOSThread() })
	return r
}

// one submits the request that was just prepared and returns its result.
func one(t testing.TB, r *Ring) CQE {
	t.Helper()
	if e := r.Wait(1); e != 0 {
		t.Fatal(e)
	}
	var c [1]CQE
	if r.Drain(c[:]) != 1 {
		t.Fatal("nothing drained")
	}
	return c[0]
}

func file(t testing.TB, size int64) int {
	path := filepath.Join(t.TempDir(), "disk")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600) // a file system without direct I/O
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Fallocate(fd, 0, 0, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

func memory(t testing.TB, n int) []byte {
	b, err := pinned.AlignedBuffer(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pinned.Free(b) })
	return b
}

func TestNopAndTimeoutAndCancel(t *testing.T) {
	r := ring(t, Options{Entries: 8})
	t.Logf("flags %#x, ring registered %v, capacity %d", r.flags, r.enter != 0, r.Cap())
	s := r.SQE()
	s.PrepNop()
	s.UserData = 1 << 60
	if c := one(t, r); c.UserData != 1<<60 || c.Res != 0 || r.InFlight() != 0 {
		t.Errorf("nop: %+v", c)
	}
	ts := NewTimespec(5 * time.Millisecond)
	start := time.Now()
	r.SQE().PrepTimeout(&ts, 0)
	if c := one(t, r); c.Res != -int32(unix.ETIME) || time.Since(start) < 5*time.Millisecond {
		t.Errorf("timeout: %+v after %v", c, time.Since(start))
	}
	ts = NewTimespec(time.Hour)
	s = r.SQE()
	s.PrepTimeout(&ts, 0)
	s.UserData = 7
	if e := r.Submit(); e != 0 || r.InFlight() != 1 || r.Unsubmitted() != 0 {
		t.Fatal(e, r.InFlight(), r.Unsubmitted())
	}
	s = r.SQE()
	s.PrepCancel(7, 0)
	s.UserData = 8
	r.Wait(2)
	var c [4]CQE
	if n := r.Drain(c[:]); n != 2 {
		t.Fatalf("%d completions", n)
	}
	got := map[uint64]int32{c[0].UserData: c[0].Res, c[1].UserData: c[1].Res}
	if got[7] != -int32(unix.ECANCELED) || got[8] != 0 {
		t.Errorf("cancel: %v", got)
	}
}

func TestFullRing(t *testing.T) {
	r := ring(t, Options{Entries: 4})
	total := 0
	for round := 0; r.InFlight() < r.Cap(); round++ {
		n := 0
		for s := r.SQE(); s != nil; s = r.SQE() {
			s.PrepNop()
			n++
		}
		if n == 0 || r.Unsubmitted() != n {
			t.Fatalf("round %d: %d handed out, %d unsubmitted", round, n, r.Unsubmitted())
		}
		total += n
		if e := r.Submit(); e != 0 {
			t.Fatal(e)
		}
	}
	if r.SQE() != nil || total != r.Cap() {
		t.Fatalf("%d requests in flight, capacity %d", total, r.Cap())
	}
	r.Wait(total)
	drained, out := 0, make([]CQE, 3)
	for n := r.Drain(out); n > 0; n = r.Drain(out) {
		drained += n
	}
	if drained != total || r.InFlight() != 0 || r.SQE() == nil {
		t.Errorf("drained %d of %d, %d in flight", drained, total, r.InFlight())
	}
}

func TestSlotsInheritNothing(t *testing.T) {
	for _, wide := range []bool{false, true} {
		r := ring(t, Options{Entries: 1, SQE128: wide})
		s := r.SQE()
		*s = SQE{Opcode: 255, Flags: 0, OpFlags: 77, BufIndex: 5, Personality: 3, FileIndex: 9, Addr3: 4, Off: 8}
		cmd := r.Command(s)
		cmd[len(cmd)-1] = 1
		if wide != (len(cmd) == 80) {
			t.Errorf("SQE128 %v: %d bytes of command", wide, len(cmd))
		}
		if c := one(t, r); c.Res != -int32(unix.EINVAL) {
			t.Errorf("opcode 255: %+v", c)
		}
		s = r.SQE()
		if *s != (SQE{}) || bytes.IndexByte(r.Command(s), 1) >= 0 {
			t.Errorf("slot is dirty: %+v", *s)
		}
		s.PrepNop()
		one(t, r)
	}
}

// TestCommand: /dev/null takes every command of a driver, since Linux 6.1; a
// regular file none.
func TestCommand(t *testing.T) {
	for _, wide := range []bool{false, true} {
		r := ring(t, Options{Entries: 2, SQE128: wide})
		null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(null)
		s := r.SQE()
		s.PrepCommand(null, 0xc0107520)
		s.UserData = 3
		copy(r.Command(s), "argument")
		switch c := one(t, r); {
		case c.Res == -int32(unix.EOPNOTSUPP):
			t.Skip("this kernel has no commands for /dev/null")
		case c.Res != 0 || c.UserData != 3:
			t.Errorf("%+v", c)
		}
		if err := r.RegisterFiles([]int32{int32(null)}); err != nil {
			t.Fatal(err)
		}
		s = r.SQE()
		s.PrepCommand(0, 1)
		s.Flags = SQEFixedFile
		if c := one(t, r); c.Res != 0 {
			t.Errorf("registered: %+v", c)
		}
		r.SQE().PrepCommand(file(t, 4096), 1)
		if c := one(t, r); c.Res != -int32(unix.EOPNOTSUPP) {
			t.Errorf("regular file: %+v", c)
		}
	}
}

func TestBadRequestDoesNotStopOthers(t *testing.T) {
	r := ring(t, Options{Entries: 8})
	for i := range 5 {
		s := r.SQE()
		if s.PrepNop(); i == 1 {
			s.Opcode = 255
		}
		s.UserData = uint64(i)
	}
	r.Wait(5)
	var c [8]CQE
	if n := r.Drain(c[:]); n != 5 {
		t.Fatalf("%d completions", n)
	}
	for _, x := range c[:5] {
		if (x.Res != 0) != (x.UserData == 1) {
			t.Errorf("%+v", x)
		}
	}
}

func TestPollAndMsgRing(t *testing.T) {
	a, b := ring(t, Options{Entries: 4}), ring(t, Options{Entries: 4})
	ev, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ev)
	a.SQE().PrepPoll(ev, unix.POLLIN, true)
	a.Submit()
	for range 2 { // each wake-up is one completion of the same request
		sys.WakeEventfd(ev)
		if c := one(t, a); c.Res != unix.POLLIN || c.Flags&CQEMore == 0 || a.InFlight() != 1 {
			t.Fatalf("poll: %+v, %d in flight", c, a.InFlight())
		}
		sys.DrainEventfd(ev)
	}
	if !a.Supports(OpMsgRing) {
		t.Skip("this kernel has no MSG_RING")
	}
	s := a.SQE()
	s.PrepMsgRing(b, 42, 99)
	s.UserData = 5
	if c := one(t, a); c.UserData != 5 || c.Res != 0 {
		t.Errorf("sender: %+v", c)
	}
	var c [1]CQE
	b.inFlight++ // the message counts as a completion without a request
	for b.Ready() == 0 {
		runtime.Gosched()
	}
	if b.Drain(c[:]) != 1 || c[0].Res != 42 || c[0].UserData != 99 {
		t.Errorf("receiver: %+v", c[0])
	}
}

func TestFixedFilesAndBuffers(t *testing.T) {
	r, fd, mem := ring(t, Options{}), file(t, 1<<20), memory(t, 64<<10)
	if err := r.RegisterFiles([]int32{-1, int32(fd)}); err != nil {
		t.Fatal(err)
	}
	if err := r.RegisterBuffers([][]byte{mem[:8192], mem[8192:]}); err != nil {
		t.Fatal(err)
	}
	for i := range mem[8192:12288] {
		mem[8192+i] = byte(i)
	}
	s := r.SQE()
	s.PrepWriteFixed(1, mem[8192:12288], 4096, unix.RWF_DSYNC, 1)
	s.Flags = SQEFixedFile
	if c := one(t, r); c.Res != 4096 {
		t.Fatalf("write: %+v", c)
	}
	s = r.SQE()
	s.PrepReadFixed(1, mem[:4096], 4096, 0)
	s.Flags = SQEFixedFile
	if c := one(t, r); c.Res != 4096 || !bytes.Equal(mem[:4096], mem[8192:12288]) {
		t.Fatalf("read: %+v", c)
	}
	s = r.SQE() // memory outside the registered buffer
	s.PrepReadFixed(1, mem[8192:12288], 4096, 0)
	s.Flags = SQEFixedFile
	if c := one(t, r); c.Res != -int32(unix.EFAULT) {
		t.Errorf("wrong buffer: %+v", c)
	}
	if err := errors.Join(r.UnregisterFiles(), r.UnregisterBuffers()); err != nil {
		t.Error(err)
	}
	if err := r.UnregisterFiles(); err == nil {
		t.Error("unregistered twice")
	}
}

// step is one request of the stress test; it owns block number block.
type step struct {
	kind, block int
	mem         []byte
	iov         []sys.Iovec
	busy        bool
}

const (
	stressBlocks = 48
	blockBytes   = 16 << 10
)

// stress runs random requests, chosen by choices, on disjoint blocks of a file
// and compares every read with a copy in memory.
func stress(t *testing.T, entries int, choices []byte) {
	r, fd := ring(t, Options{Entries: entries}), file(t, stressBlocks*blockBytes)
	shadow := memory(t, stressBlocks*blockBytes)
	mem := memory(t, stressBlocks*blockBytes)
	steps := make([]step, stressBlocks)
	for i := range steps {
		steps[i] = step{block: i, mem: mem[i*blockBytes:][:blockBytes], iov: make([]sys.Iovec, 4)}
	}
	finish := func(c CQE) {
		s := &steps[c.UserData]
		s.busy = false
		if err := s.check(c.Res, shadow); err != nil {
			t.Fatal(err)
		}
	}
	var out [7]CQE
	drain := func() {
		for _, c := range out[:r.Drain(out[:])] {
			finish(c)
		}
	}
	for i := 0; i+1 < len(choices); i += 2 {
		s := &steps[int(choices[i])%stressBlocks]
		sqe := (*SQE)(nil)
		for s.busy || sqe == nil {
			if sqe == nil && !s.busy {
				if sqe = r.SQE(); sqe != nil {
					break
				}
			}
			if e := r.Wait(1); e != 0 {
				t.Fatal(e)
			}
			drain()
		}
		s.prepare(sqe, int(choices[i+1]), fd, shadow)
		if choices[i+1]&64 != 0 {
			if e := r.Submit(); e != 0 {
				t.Fatal(e)
			}
		}
	}
	for r.InFlight() > 0 {
		r.Wait(1)
		drain()
	}
}

func (s *step) prepare(sqe *SQE, choice, fd int, shadow []byte) {
	offset := int64(s.block) * blockBytes
	area := shadow[offset:][:blockBytes]
	s.kind, s.busy = choice%6, true
	for i := range s.iov {
		s.iov[i] = sys.NewIovec(s.mem[i*blockBytes/4:][:blockBytes/4])
	}
	if s.kind == 1 || s.kind == 3 {
		for i := range s.mem {
			s.mem[i] = byte(choice + i>>3)
		}
		copy(area, s.mem)
	}
	switch s.kind {
	case 0:
		sqe.PrepRead(fd, s.mem, offset)
	case 1:
		sqe.PrepWrite(fd, s.mem, offset, 0)
	case 2:
		sqe.PrepReadv(fd, s.iov, offset)
	case 3:
		sqe.PrepWritev(fd, s.iov, offset, unix.RWF_DSYNC)
	case 4:
		sqe.PrepFsync(fd, FsyncDatasync)
	case 5:
		sqe.PrepPunchHole(fd, offset, blockBytes)
		clear(area)
	}
	sqe.UserData = uint64(s.block)
}

func (s *step) check(res int32, shadow []byte) error {
	want := int32(blockBytes)
	if s.kind >= 4 {
		want = 0
	}
	if res != want {
		return fmt.Errorf("request %d on block %d: result %d", s.kind, s.block, res)
	}
	if (s.kind == 0 || s.kind == 2) && !bytes.Equal(s.mem, shadow[s.block*blockBytes:][:blockBytes]) {
		return fmt.Errorf("block %d read back wrong", s.block)
	}
	return nil
}

func TestStress(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	for _, entries := range []int{1, 4, 64} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			choices := make([]byte, 6000)
			for i := range choices {
				choices[i] = byte(r.Uint32())
			}
			stress(t, entries, choices)
		})
	}
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte{2, 1, 65, 1, 0, 2, 3, 3, 4, 3, 0, 5})
	f.Add([]byte{1, 0, 1, 0, 2, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 0 {
			stress(t, 1+int(in[0])%16, in[1:])
		}
	})
}

func TestNothingAllocates(t *testing.T) {
	r, fd, mem := ring(t, Options{}), file(t, 1<<20), memory(t, 4096)
	var out [16]CQE
	if n := testing.AllocsPerRun(100, func() {
		r.SQE().PrepWrite(fd, mem, 0, 0)
		r.Submit()
		r.Wait(1)
		if r.Drain(out[:]) != 1 || out[0].Res != 4096 {
			t.Error(out[0])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestUnavailableErrors(t *testing.T) {
	for e, want := range map[unix.Errno]bool{unix.ENOSYS: true, unix.EPERM: true, unix.EMFILE: false, unix.EFAULT: false} {
		if err := unavailable("x", e); errors.Is(err, ErrUnavailable) != want || !errors.Is(err, e) {
			t.Errorf("%v: %v", e, err)
		}
	}
	if _, err := New(Options{Entries: -1}); err == nil {
		t.Error("negative size accepted")
	}
}

func BenchmarkNop(b *testing.B) {
	r := ring(b, Options{})
	var out [16]CQE
	for b.Loop() {
		r.SQE().PrepNop()
		r.Submit()
		r.Drain(out[:])
	}
}
