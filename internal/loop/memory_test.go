package loop

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"vitastor/internal/env"
)

// memoryFile is a file on tmpfs.
func memoryFile(t testing.TB, size int64) string {
	dir, err := os.MkdirTemp("/dev/shm", "loop-test-")
	if err != nil {
		t.Skipf("no file system in memory here: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func openMemory(t testing.TB, l *Loop, path string) env.Disk {
	t.Helper()
	d := openDisk(t, l, path, env.DiskOptions{Mode: env.DiskCached})
	if !d.(*disk).memory {
		t.Skip("/dev/shm is not in memory here")
	}
	return d
}

// TestMemoryDisk compares random requests of all kinds, many at a time, with
// what the file and the memory must be.
func TestMemoryDisk(t *testing.T) {
	const size, unit, depth = 1 << 20, 4 << 10, 16
	for _, noRing := range []bool{false, true} {
		l := start(t, Options{NoRing: noRing, DiskInFlight: 5})
		path := memoryFile(t, size)
		d, r, want := openMemory(t, l, path), rand.New(rand.NewPCG(3, 3)), make([]byte, size)
		mem := alloc(t, size)
		for range 50 {
			var check []func()
			do(t, l, func(finish func()) {
				left := depth
				for i := range depth { // each has a region of its own
					at, n := i*size/depth, (1+r.IntN(size/depth/unit))*unit
					buf := mem[at:][:n]
					op := &env.DiskOp{Kind: env.DiskOpKind(r.IntN(4)), Offset: int64(at), Buf: buf}
					switch op.Kind {
					case env.DiskRead:
						clear(buf)
						check = append(check, func() {
							if !bytes.Equal(buf, want[at:][:n]) {
								t.Errorf("wrong bytes read at %d", at)
							}
						})
					case env.DiskWrite:
						for i := range buf {
							buf[i] = byte(r.Uint32())
						}
						copy(want[at:], buf)
						op.Buf, op.Iov = nil, [][]byte{buf[:100], buf[100:]}
					case env.DiskSync:
						op.Offset, op.Buf = 0, nil
					case env.DiskDiscard:
						op.Buf, op.Length = nil, int64(n)
						clear(want[at:][:n])
					}
					op.Done = func(op *env.DiskOp) {
						if op.Err != nil {
							t.Errorf("kind %d at %d: %v", op.Kind, at, op.Err)
						}
						if left--; left == 0 {
							finish()
						}
					}
					d.Submit(op)
				}
			})
			for _, f := range check {
				f()
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the file differs, error %v", err)
		}
	}
}

func TestMemoryDiskErrors(t *testing.T) {
	l, path, mem := start(t, Options{}), memoryFile(t, 1<<20), alloc(t, 8192)
	d := openMemory(t, l, path)
	if err := os.Truncate(path, 512<<10); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{512<<10 - 4096, 768 << 10} { // a part of it, nothing of it
		if err := transfer(t, l, d, env.DiskOp{Kind: env.DiskRead, Offset: at, Buf: mem}); err != syscall.EIO {
			t.Errorf("read at %d: %v", at, err)
		}
	}
	do(t, l, func(finish func()) {
		d.Submit(&env.DiskOp{Kind: env.DiskWrite, Buf: mem, Done: func(op *env.DiskOp) {
			if op.Err != nil {
				t.Errorf("a write that was submitted before Close: %v", op.Err)
			}
			finish()
		}})
		d.Close()
	})
	if err := transfer(t, l, d, env.DiskOp{Kind: env.DiskWrite, Buf: mem}); err != env.ErrDiskClosed {
		t.Errorf("write to a closed disk: %v", err)
	}
}

// TestMemoryDiskLetsOthersRun: one turn of the loop copies a bounded amount, the
// rest comes after a look at everything else.
func TestMemoryDiskLetsOthersRun(t *testing.T) {
	const requests, size = 64, 256 << 10
	l, mem := start(t, Options{}), alloc(t, size)
	d := openMemory(t, l, memoryFile(t, 1<<20))
	do(t, l, func(finish func()) {
		left, first := requests, l.iterations
		for range requests {
			d.Submit(&env.DiskOp{Kind: env.DiskWrite, Buf: mem, Done: func(*env.DiskOp) {
				if left--; left > 0 {
					return
				}
				turns := (l.iterations - first) * passesPerWait
				if turns < requests*size/copyBytesMax/2 {
					t.Errorf("%d MiB were copied in %d turns", requests*size>>20, turns)
				}
				finish()
			}})
		}
	})
}

func TestMemoryDiskDoesNotAllocate(t *testing.T) {
	l, mem := start(t, Options{}), alloc(t, 4096)
	d := openMemory(t, l, memoryFile(t, 1<<20))
	if n := allocations(t, l, 1000, func(rounds int, finish func()) {
		op := &env.DiskOp{Kind: env.DiskWrite, Buf: mem}
		op.Done = func(*env.DiskOp) {
			if rounds--; rounds == 0 {
				finish()
				return
			}
			d.Submit(op)
		}
		d.Submit(op)
	}); n > 0.1 {
		t.Errorf("%.2f allocations per request", n)
	}
}
