package loop

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/sys"
)

// transfer submits op and waits.
func transfer(t testing.TB, l *Loop, d env.Disk, op env.DiskOp) error {
	t.Helper()
	do(t, l, func(finish func()) {
		op.Done = func(*env.DiskOp) { finish() }
		d.Submit(&op)
	})
	return op.Err
}

func openDisk(t testing.TB, l *Loop, path string, o env.DiskOptions) (d env.Disk) {
	t.Helper()
	do(t, l, func(finish func()) {
		var err error
		if d, err = l.OpenDisk(path, o); err != nil {
			t.Error(err)
		}
		finish()
	})
	if d == nil {
		t.FailNow()
	}
	return d
}

func TestDiskModes(t *testing.T) {
	for _, noRing := range []bool{false, true} {
		l := start(t, Options{NoRing: noRing})
		for _, mode := range []env.DiskMode{env.DiskDirect, env.DiskCached, env.DiskDirectSync} {
			path, mem := newFile(t, 1<<20), alloc(t, 8192)
			copy(mem, "some text")
			d := openDisk(t, l, path, env.DiskOptions{Mode: mode})
			if err := transfer(t, l, d, env.DiskOp{Kind: env.DiskWrite, Offset: 4096, Buf: mem[:4096]}); err != nil {
				t.Errorf("mode %d: %v", mode, err)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b[4096:], []byte("some text")) {
				t.Errorf("mode %d: not written, %v", mode, err)
			}
			err := transfer(t, l, d, env.DiskOp{Kind: env.DiskRead, Offset: 4097, Buf: mem[:3]})
			if cached := mode == env.DiskCached; cached != (err == nil) || cached && string(mem[:3]) != "ome" {
				t.Errorf("mode %d: unaligned read: %v", mode, err)
			}
		}
	}
}

func TestReadOnlyDisk(t *testing.T) {
	l, path, mem := start(t, Options{}), newFile(t, 1<<20), alloc(t, 4096)
	d := openDisk(t, l, path, env.DiskOptions{ReadOnly: true})
	for kind, want := range map[env.DiskOpKind]error{env.DiskRead: nil, env.DiskWrite: syscall.EROFS, env.DiskDiscard: syscall.EROFS} {
		if err := transfer(t, l, d, env.DiskOp{Kind: kind, Buf: mem, Length: 4096}); err != want {
			t.Errorf("%d: %v", kind, err)
		}
	}
	if d.Info().DiscardGranularityBytes != 0 {
		t.Error("a read-only disk can discard")
	}
}

func TestLockedDiskNamesItsHolder(t *testing.T) {
	l, path := start(t, Options{}), newFile(t, 1<<20)
	holder := exec.Command("flock", path, "sh", "-c", "echo locked; read x")
	in, _ := holder.StdinPipe()
	out, _ := holder.StdoutPipe()
	if err := holder.Start(); err != nil {
		t.Skipf("no flock program: %v", err)
	}
	defer func() { in.Close(); holder.Wait() }()
	out.Read(make([]byte, 7))
	do(t, l, func(finish func()) {
		_, err := l.OpenDisk(path, env.DiskOptions{})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "in use by") ||
			!errors.Is(err, syscall.EWOULDBLOCK) {
			t.Errorf("error %v", err)
		}
		if b, _ := os.ReadFile("/proc/locks"); len(b) > 0 && !strings.Contains(err.Error(), "pid ") {
			t.Errorf("the holder is not named: %v", err)
		}
		finish()
	})
}

func TestBlockDevice(t *testing.T) {
	out, err := exec.Command("losetup", "--find", "--show", newFile(t, 8<<20)).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %v %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	for _, noRing := range []bool{false, true} {
		l, mem := start(t, Options{NoRing: noRing}), alloc(t, 1<<20)
		d := openDisk(t, l, dev, env.DiskOptions{})
		if i := d.Info(); i.SizeBytes != 8<<20 || i.DiscardGranularityBytes == 0 {
			t.Errorf("%+v", i)
		}
		for i := range mem {
			mem[i] = byte(i) | 1
		}
		for _, op := range []env.DiskOp{
			{Kind: env.DiskWrite, Offset: 1 << 20, Buf: mem},
			{Kind: env.DiskSync},
			{Kind: env.DiskDiscard, Offset: 1 << 20, Length: 1 << 19},
			{Kind: env.DiskRead, Offset: 1 << 20, Buf: mem},
		} {
			if err := transfer(t, l, d, op); err != nil {
				t.Errorf("op %d: %v", op.Kind, err)
			}
		}
		if bytes.IndexByte(mem[:1<<19], 1) >= 0 || mem[1<<19] != 1 {
			t.Error("the wrong part was discarded")
		}
		do(t, l, func(finish func()) { d.Close(); finish() })
	}
}

func TestTruncatedDiskIsAnError(t *testing.T) {
	for _, noRing := range []bool{false, true} {
		l, path, mem := start(t, Options{NoRing: noRing}), newFile(t, 1<<20), alloc(t, 8192)
		d := openDisk(t, l, path, env.DiskOptions{})
		if err := os.Truncate(path, 512<<10); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{512<<10 - 4096, 768 << 10} {
			if err := transfer(t, l, d, env.DiskOp{Kind: env.DiskRead, Offset: at, Buf: mem}); err != syscall.EIO {
				t.Errorf("read at %d: %v", at, err)
			}
		}
	}
}

func TestThreadsWhenTheRingFails(t *testing.T) {
	log, text := logger()
	l, path, mem := start(t, Options{Log: log}), newFile(t, 1<<20), alloc(t, 4096)
	d := openDisk(t, l, path, env.DiskOptions{})
	withoutDescriptors(t, func() {
		if err := transfer(t, l, d, env.DiskOp{Kind: env.DiskWrite, Buf: mem}); err != nil {
			t.Error(err)
		}
	})
	if !strings.Contains(text.String(), "threads instead of io_uring") {
		t.Errorf("the log says: %s", text)
	}
}

func TestSubmittingTwiceStops(t *testing.T) {
	l, path, mem := start(t, Options{}), newFile(t, 1<<20), alloc(t, 4096)
	d := openDisk(t, l, path, env.DiskOptions{})
	do(t, l, func(finish func()) {
		op := &env.DiskOp{Kind: env.DiskWrite, Buf: mem, Done: func(*env.DiskOp) { finish() }}
		d.Submit(op)
		defer func() {
			if _, ok := recover().(invariant.Violation); !ok {
				t.Error("not noticed")
			}
		}()
		d.Submit(op)
	})
}

// TestPartialTransfers plays the kernel: it transfers a part, or nothing, of
// what each try asks for. All bytes must be asked for exactly once.
func TestPartialTransfers(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	l, err := New(Options{NoRing: true, DiskInFlight: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer l.shutdown()
	l.o.DiskThreads, l.io.running = 0, true // the test is the only thread
	d, err := l.OpenDisk(newFile(t, 1<<20), env.DiskOptions{Mode: env.DiskCached})
	if err != nil {
		t.Fatal(err)
	}
	d.(*disk).memory = false // wherever the tests keep their files
	mem := alloc(t, 64<<10)
	for round := range 300 {
		op, ended := &env.DiskOp{Kind: env.DiskOpKind(round & 1), Buf: mem[:r.IntN(len(mem))]}, false
		if round%3 != 0 {
			op.Buf = nil
			for at := 0; at < len(mem) && len(op.Iov) < env.DiskIovMax; {
				n := min(r.IntN(4000), len(mem)-at)
				op.Iov = append(op.Iov, mem[at:at+n])
				at += n
			}
		}
		op.Done = func(*env.DiskOp) { ended = true }
		d.Submit(op)
		fail := playKernel(t, l, op, r)
		for l.io.turn() {
		}
		if want := map[bool]error{true: syscall.ENOSPC, false: nil}[fail]; !ended || op.Err != want {
			t.Fatalf("round %d: ended %v, error %v, want %v", round, ended, op.Err, want)
		}
	}
}

// playKernel serves op until it has all bytes, or fails it.
func playKernel(t *testing.T, l *Loop, op *env.DiskOp, r *rand.Rand) (fail bool) {
	for got := int64(0); got < op.Bytes() || op.Bytes() == 0; {
		l.io.turn() // takes the last result
		l.io.turn() // starts the rest
		s := <-l.io.threads.work
		var want, rest int64 = op.Bytes() - got, 0
		var parts []sys.Iovec = s.parts()
		for _, p := range parts {
			rest += int64(p.Len)
		}
		if rest != want || s.done != got {
			t.Fatalf("asked for %d bytes after %d, want %d", rest, got, want)
		}
		var result int64
		switch x := r.IntN(12); {
		case want == 0:
		case x == 0:
			result, fail = -int64(syscall.ENOSPC), true
		case x < 3:
			result = -int64(syscall.EINTR)
		case x < 5:
			result = -int64(syscall.EAGAIN)
		case x < 10:
			result = 1 + r.Int64N(want)
		default:
			result = want
		}
		l.io.threads.results[s.index] = result
		l.io.threads.done <- s
		if got += max(0, result); fail || want == 0 {
			break
		}
	}
	return fail
}
