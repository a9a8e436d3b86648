package envtest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
)

var diskChecks = []check{
	{"facts about a new disk", checkDiskInfo},
	{"written bytes are read back", checkDiskReadBack},
	{"many requests in flight against a model", checkDiskModel},
	{"an op may be reused in its Done", checkDiskReuse},
	{"wrong requests fail cleanly", checkDiskWrong},
	{"discard", checkDiskDiscard},
	{"close waits, then refuses", checkDiskClose},
	{"a second opener is refused", checkDiskLock},
	{"a missing disk is a clear error", checkDiskMissing},
}

const diskBytes = 8 << 20

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// after calls fn after n milliseconds.
func (w *World) after(n int, fn func()) {
	w.Env.Clock.Arm(&env.Timer{Fire: fn}, ms(n))
}

// withDisk runs body on the loop with a fresh open disk and closes it.
func (w *World) withDisk(t *testing.T, body func(d env.Disk, finish func())) {
	path := w.NewDisk(t, diskBytes)
	var d env.Disk
	w.run(t, func(finish func()) {
		var err error
		if d, err = w.Env.Storage.OpenDisk(path, env.DiskOptions{}); err != nil {
			t.Errorf("OpenDisk: %v", err)
			finish()
			return
		}
		body(d, finish)
	})
	w.run(t, func(finish func()) {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		finish()
	})
}

// do submits op and checks that Done does not run inside Submit.
func do(t *testing.T, d env.Disk, op *env.DiskOp, done func(error)) {
	inside := true
	op.Done = func(got *env.DiskOp) {
		if inside || got != op {
			t.Errorf("%+v: Done inside Submit %v, same op %v", op.Kind, inside, got == op)
		}
		done(op.Err)
	}
	d.Submit(op)
	inside = false
}

func checkDiskInfo(t *testing.T, w *World) {
	w.withDisk(t, func(d env.Disk, finish func()) {
		i := d.Info()
		if i.SizeBytes != diskBytes || i.BlockBytes < 1 || i.BlockBytes > 4096 ||
			i.BlockBytes&(i.BlockBytes-1) != 0 || i.AtomicWriteBytes < i.BlockBytes || i.Path == "" {
			t.Errorf("%+v", i)
		}
		finish()
	})
}

func checkDiskReadBack(t *testing.T, w *World) {
	for name, flags := range map[string]env.DiskFlags{"plain": 0, "FUA": env.DiskFUA, "atomic": env.DiskAtomic} {
		t.Run(name, func(t *testing.T) {
			src, dst := pattern(w.Alloc(t, 4096), 1), w.Alloc(t, 3*4096)
			w.withDisk(t, func(d env.Disk, finish func()) {
				if flags == env.DiskAtomic { // the rest of dst stays zero, as that of src
					clear(src[min(len(src), d.Info().AtomicWriteBytes):])
				}
				want := func(err error) {
					if err != nil {
						t.Errorf("error %v", err)
					}
				}
				read := &env.DiskOp{Kind: env.DiskRead, Offset: 4096, Iov: [][]byte{dst[:4096], dst[4096:]}}
				sync := &env.DiskOp{Kind: env.DiskSync}
				write := &env.DiskOp{Kind: env.DiskWrite, Flags: flags, Offset: 8192, Buf: src}
				if flags == env.DiskAtomic {
					write.Buf = src[:min(len(src), d.Info().AtomicWriteBytes)]
				}
				do(t, d, write, func(err error) {
					want(err)
					do(t, d, sync, func(err error) {
						want(err)
						do(t, d, read, func(err error) { want(err); finish() })
					})
				})
			})
			zero := make([]byte, 4096)
			if !bytes.Equal(dst[:4096], zero) || !bytes.Equal(dst[4096:8192], src) || !bytes.Equal(dst[8192:], zero) {
				t.Error("read something else than was written")
			}
		})
	}
}

// modelOp is one random request of checkDiskModel with its memory.
type modelOp struct {
	env.DiskOp
	mem  []byte
	area int // part of the disk that the request has for itself
}

// checkDiskModel keeps many requests in flight, each in an area of its own,
// and compares every read with a copy in memory.
func checkDiskModel(t *testing.T, w *World) {
	const block, areaBlocks, areas, inFlight, total = 4096, 32, 64, 24, 1500
	shadow := make([]byte, diskBytes)
	r := rand.New(rand.NewPCG(5, 6))
	w.withDisk(t, func(d env.Disk, finish func()) {
		busy := [areas]bool{}
		started, ended := 0, 0
		var start func(o *modelOp)
		end := func(o *modelOp, err error) {
			if err != nil {
				t.Errorf("op %d at %d: %v", o.Kind, o.Offset, err)
			}
			if o.Kind == env.DiskRead && !bytes.Equal(o.mem[:o.Bytes()], shadow[o.Offset:][:o.Bytes()]) {
				t.Errorf("read of %d at %d differs", o.Bytes(), o.Offset)
			}
			busy[o.area] = false
			if ended++; ended == total {
				finish()
			} else if started < total {
				start(o)
			}
		}
		start = func(o *modelOp) {
			for o.area = r.IntN(areas); busy[o.area]; {
				o.area = r.IntN(areas)
			}
			busy[o.area] = true
			started++
			o.random(r, block, areaBlocks)
			if o.Kind == env.DiskWrite {
				copy(shadow[o.Offset:], o.mem[:o.Bytes()])
			}
			do(t, d, &o.DiskOp, func(err error) { end(o, err) })
		}
		for range inFlight {
			start(&modelOp{mem: w.Alloc(t, areaBlocks*block)})
		}
	})
}

// random makes o a read, write or sync somewhere in its area.
func (o *modelOp) random(r *rand.Rand, block, areaBlocks int) {
	first := r.IntN(areaBlocks)
	n := (1 + r.IntN(areaBlocks-first)) * block
	o.DiskOp = env.DiskOp{Offset: int64((o.area*areaBlocks + first) * block)}
	switch x := r.IntN(10); {
	case x < 5:
		o.Kind = env.DiskWrite
		pattern(o.mem[:n], r.IntN(1<<24))
		if x == 0 {
			o.Flags = env.DiskFUA
		}
	case x == 5:
		o.Kind = env.DiskSync
		return
	}
	if r.IntN(2) == 0 {
		o.Buf = o.mem[:n]
		return
	}
	for rest := o.mem[:n]; len(rest) > 0; {
		part := min(len(rest), (1+r.IntN(4))*block)
		o.Iov = append(o.Iov, rest[:part])
		rest = rest[part:]
	}
}

func checkDiskReuse(t *testing.T, w *World) {
	mem := w.Alloc(t, 4096)
	w.withDisk(t, func(d env.Disk, finish func()) {
		n := 0
		op := &env.DiskOp{Kind: env.DiskWrite, Buf: mem}
		op.Done = func(op *env.DiskOp) {
			if op.Err != nil {
				t.Errorf("round %d: %v", n, op.Err)
			}
			if n++; n == 20 {
				finish()
				return
			}
			op.Offset += 4096
			d.Submit(op)
		}
		d.Submit(op)
	})
}

func checkDiskWrong(t *testing.T, w *World) {
	mem := w.Alloc(t, 8192)
	wrong := map[string]env.DiskOp{
		"negative offset":       {Kind: env.DiskRead, Offset: -4096, Buf: mem},
		"read past the end":     {Kind: env.DiskRead, Offset: diskBytes - 4096, Buf: mem},
		"write past the end":    {Kind: env.DiskWrite, Offset: diskBytes, Buf: mem},
		"offset overflow":       {Kind: env.DiskWrite, Offset: 1<<63 - 4096, Buf: mem},
		"discard past the end":  {Kind: env.DiskDiscard, Offset: 0, Length: diskBytes + 4096},
		"too many parts":        {Kind: env.DiskWrite, Iov: make([][]byte, env.DiskIovMax+1)},
		"an unknown kind":       {Kind: 77, Buf: mem},
		"negative discard size": {Kind: env.DiskDiscard, Offset: 4096, Length: -4096},
	}
	w.withDisk(t, func(d env.Disk, finish func()) {
		left := len(wrong)
		for name, op := range wrong {
			do(t, d, &op, func(err error) {
				if err == nil {
					t.Errorf("%s succeeded", name)
				}
				if left--; left == 0 {
					finish()
				}
			})
		}
	})
}

// checkDiskDiscard: discarded blocks may read as anything, the others stay.
func checkDiskDiscard(t *testing.T, w *World) {
	mem := w.Alloc(t, 1<<20)
	w.withDisk(t, func(d env.Disk, finish func()) {
		if d.Info().DiscardGranularityBytes == 0 {
			t.Log("this disk cannot discard")
			finish()
			return
		}
		fail := func(err error) {
			if err != nil {
				t.Errorf("error %v", err)
			}
		}
		write := &env.DiskOp{Kind: env.DiskWrite, Buf: pattern(mem, 0)}
		discard := &env.DiskOp{Kind: env.DiskDiscard, Offset: 256 << 10, Length: 512 << 10}
		read := &env.DiskOp{Kind: env.DiskRead, Buf: mem}
		do(t, d, write, func(err error) {
			fail(err)
			do(t, d, discard, func(err error) {
				fail(err)
				clear(mem)
				do(t, d, read, func(err error) {
					fail(err)
					at := 0
					verify(t, mem[:256<<10], &at)
					at = 768 << 10
					verify(t, mem[768<<10:], &at)
					finish()
				})
			})
		})
	})
}

func checkDiskClose(t *testing.T, w *World) {
	path, mem := w.NewDisk(t, diskBytes), w.Alloc(t, 1<<20)
	w.run(t, func(finish func()) {
		d, err := w.Env.Storage.OpenDisk(path, env.DiskOptions{})
		if err != nil {
			t.Error(err)
			finish()
			return
		}
		completed := 0
		done := func(want error) func(error) {
			return func(err error) {
				if err != want {
					t.Errorf("got %v, want %v", err, want)
				}
				if completed++; completed == 9 {
					finish()
				}
			}
		}
		for i := range 8 {
			op := &env.DiskOp{Kind: env.DiskWrite, Offset: int64(i) << 17, Buf: mem[i<<17:][:1<<17]}
			do(t, d, op, done(nil))
		}
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		do(t, d, &env.DiskOp{Kind: env.DiskRead, Buf: mem}, done(env.ErrDiskClosed))
	})
}

func checkDiskLock(t *testing.T, w *World) {
	path := w.NewDisk(t, diskBytes)
	w.run(t, func(finish func()) {
		defer finish()
		open := func(o env.DiskOptions) env.Disk {
			d, err := w.Env.Storage.OpenDisk(path, o)
			if err != nil {
				stop(t, "%+v: %v", o, err)
			}
			return d
		}
		d := open(env.DiskOptions{})
		if _, err := w.Env.Storage.OpenDisk(path, env.DiskOptions{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("second opener got error %v", err)
		}
		open(env.DiskOptions{NoLock: true, ReadOnly: true}).Close()
		d.Close()
		open(env.DiskOptions{}).Close()
	})
}

func checkDiskMissing(t *testing.T, w *World) {
	path := w.NewDisk(t, diskBytes) + ".missing"
	w.run(t, func(finish func()) {
		if _, err := w.Env.Storage.OpenDisk(path, env.DiskOptions{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v", err)
		}
		finish()
	})
}
