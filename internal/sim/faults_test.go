package sim

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
)

func TestReadAndWriteErrors(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.write(0, filled(4096, 1))
	r.d.SetFaults(DiskFaults{ReadError: 1, WriteError: 1})
	if _, err := r.read(0, 4096); err != syscall.EIO {
		t.Errorf("read: %v", err)
	}
	left := map[[2]byte]int{}
	for i := range byte(100) {
		if err := r.write(8192, filled(8192, i+1)); err != syscall.EIO {
			t.Fatalf("write: %v", err)
		}
		v := [2]byte{firstByte(r.d.visible, 8192), firstByte(r.d.visible, 12288)}
		for j := range v {
			v[j] = byte(boolBit(v[j] == i+1))
		}
		left[v]++
	}
	if len(left) != 4 {
		t.Errorf("failed writes left only %v", left)
	}
	r.d.SetFaults(DiskFaults{})
	if b, err := r.read(0, 4096); err != nil || b[0] != 1 {
		t.Errorf("healed: %v", err)
	}
	if s := r.d.Stats(); s.Errors != 101 {
		t.Errorf("stats %+v", s)
	}
}

func TestLatentErrorLastsUntilRewritten(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, VolatileCache: volatile})
		r.write(0, filled(8192, 1))
		r.sync()
		r.d.MakeUnreadable(4096+512, 1)
		if _, err := r.read(0, 4096); err != nil {
			t.Errorf("the neighbour: %v", err)
		}
		for range 2 {
			if _, err := r.read(0, 8192); err != syscall.EIO {
				t.Errorf("unreadable: %v", err)
			}
		}
		if !r.d.PowerLossImages(1)[0].unreadable(4096, 4096) {
			t.Error("forgotten in a power loss")
		}
		r.write(4096, filled(4096, 2))
		if _, err := r.read(0, 8192); err != nil {
			t.Errorf("rewritten: %v", err)
		}
	}
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.d.SetFaults(DiskFaults{LatentError: 1})
	r.read(0, 4096)
	r.d.SetFaults(DiskFaults{})
	if _, err := r.read(0, 4096); err != syscall.EIO {
		t.Errorf("by chance: %v", err)
	}
}

func TestBitRotIsSilentAndLasting(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
	r.write(0, filled(4096, 0xff))
	r.sync()
	r.d.SetFaults(DiskFaults{BitRot: 1})
	r.read(0, 4096)
	r.d.SetFaults(DiskFaults{})
	b, err := r.read(0, 4096)
	zeroes := 0
	for _, c := range b {
		for bit := range 8 {
			zeroes += int(^c >> bit & 1)
		}
	}
	if err != nil || zeroes != 1 {
		t.Errorf("%d bits flipped, err %v", zeroes, err)
	}
	var c [4096]byte
	r.d.PowerLossImages(1)[0].read(0, c[:])
	if string(c[:]) != string(b) {
		t.Error("gone after a power loss")
	}
}

func TestLostWrite(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.d.SetFaults(DiskFaults{LostWrite: 1})
	if err := r.write(0, filled(4096, 1)); err != nil {
		t.Fatal(err)
	}
	if b, _ := r.read(0, 4096); b[0] != 0 {
		t.Error("the write happened")
	}
}

func TestFailedSyncMakesNothingSure(t *testing.T) {
	lost, kept := 0, 0
	for seed := range uint64(40) {
		r := newRig(t, seed, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true})
		r.write(0, filled(4096, 1))
		r.d.SetFaults(DiskFaults{SyncError: 1})
		if err := r.sync(); err != syscall.EIO {
			t.Fatalf("sync: %v", err)
		}
		r.d.SetFaults(DiskFaults{})
		if err := r.sync(); err != nil {
			t.Fatalf("second sync: %v", err)
		}
		if b, _ := r.read(0, 4096); b[0] != 1 {
			t.Fatal("not visible any more")
		}
		r.n.PowerLoss()
		if firstByte(r.d.visible, 0) == 1 {
			kept++
		} else {
			lost++
		}
	}
	if lost == 0 || kept == 0 {
		t.Errorf("%d lost, %d kept", lost, kept)
	}
}

func TestFullAndReadOnly(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, SpaceLimitBytes: 8192})
	for i, want := range []error{nil, nil, syscall.ENOSPC} {
		if err := r.write(int64(i)*4096, filled(4096, 1)); err != want {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if err := r.write(0, filled(4096, 2)); err != nil {
		t.Errorf("overwrite on a full disk: %v", err)
	}
	r.d.SetSpaceLimit(0)
	if err := r.write(8192, filled(4096, 1)); err != nil {
		t.Errorf("after growth: %v", err)
	}
	r.d.SetReadOnly(true)
	if err := r.write(0, filled(4096, 3)); err != syscall.EROFS {
		t.Errorf("write-protected: %v", err)
	}
	r.n.Crash()
	r.n.Restart()
	r.n.Do(func(e *env.Env) {
		if _, err := e.Storage.OpenDisk("/dev/a", env.DiskOptions{}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("open for writing: %v", err)
		}
		h, err := e.Storage.OpenDisk("/dev/a", env.DiskOptions{ReadOnly: true})
		if err != nil {
			t.Fatalf("open for reading: %v", err)
		}
		r.h = h
	})
	if err := r.write(0, filled(4096, 3)); err != syscall.EBADF {
		t.Errorf("write to a read-only handle: %v", err)
	}
	if err := r.do(&env.DiskOp{Kind: env.DiskDiscard, Length: 4096}); err != syscall.EBADF {
		t.Errorf("discard on a read-only handle: %v", err)
	}
}

func TestSlowAndStalledDisk(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	took := func() time.Duration {
		start := r.w.Now()
		for range 20 {
			r.read(0, 4096)
		}
		return r.w.Now() - start
	}
	healthy := took()
	r.d.SetFaults(DiskFaults{Slowdown: 100})
	if slow := took(); slow < 10*healthy {
		t.Errorf("healthy %v, slow %v", healthy, slow)
	}
	r.d.SetFaults(DiskFaults{Stall: 1, StallTime: time.Second})
	if stalled := took(); stalled < 20*time.Second {
		t.Errorf("stalled: %v", stalled)
	}
}

func TestDiscard(t *testing.T) {
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20, VolatileCache: true, DiscardGranularityBytes: 4096})
	r.write(0, filled(64*4096, 1))
	if err := r.do(&env.DiskOp{Kind: env.DiskDiscard, Offset: 4096, Length: 62 * 4096}); err != nil {
		t.Fatal(err)
	}
	b, _ := r.read(0, 64*4096)
	gone := 0
	for i := 1; i < 63; i++ {
		gone += int(boolBit(b[i*4096] == 0))
	}
	if b[0] != 1 || b[63*4096] != 1 || gone == 0 || gone == 62 {
		t.Errorf("%d of 62 blocks forgotten, neighbours %d and %d", gone, b[0], b[63*4096])
	}
	if s := r.d.Stats(); s.Discards != 1 || s.DiscardBytes != 62*4096 {
		t.Errorf("stats %+v", s)
	}
}

func TestCachedAndSyncModes(t *testing.T) {
	lost := func(c DiskConfig, o env.DiskOptions) bool {
		c.SizeBytes = 1 << 20
		r := newRig(t, 1, c)
		r.h.Close()
		r.open(o)
		r.write(0, filled(4096, 1))
		for _, m := range r.d.PowerLossImages(20) {
			if firstByte(m, 0) == 0 {
				return true
			}
		}
		return false
	}
	if !lost(DiskConfig{}, env.DiskOptions{Mode: env.DiskCached}) {
		t.Error("the page cache survives a power loss")
	}
	if lost(DiskConfig{VolatileCache: true}, env.DiskOptions{Mode: env.DiskDirectSync}) {
		t.Error("a synchronous write is lost")
	}
	r := newRig(t, 1, DiskConfig{SizeBytes: 1 << 20})
	r.h.Close()
	r.open(env.DiskOptions{Mode: env.DiskCached})
	if err := r.write(100, filled(50, 1)); err != nil {
		t.Errorf("unaligned write through the page cache: %v", err)
	}
}
