package store

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
)

// realDisk runs f on a real event loop with a store on a file opened for
// direct I/O, and waits until f calls finish.
func realDisk(t testing.TB, path string, c Config, f func(s *Store, finish func())) {
	t.Helper()
	l, err := loop.New(loop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() { l.Run(ctx); close(ended) }()
	stop := func() { l.Stop() }
	l.Post(func() {
		disk, err := l.OpenDisk(path, env.DiskOptions{})
		if err != nil {
			t.Error(err)
			stop()
			return
		}
		Open(l.Env(), Disks{disk, disk, disk}, c, func(s *Store, err error) {
			if err != nil {
				t.Error(err)
				stop()
				return
			}
			f(s, func() {
				s.Close(func(err error) {
					if err != nil {
						t.Error(err)
					}
					disk.Close()
					stop()
				})
			})
		})
	})
	<-ended
	if ctx.Err() != nil {
		t.Error("timeout")
	}
}

func realConfig() (c Config, size int64) {
	c = Config{BlockBytes: 128 << 10, GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: 4096, AtomicWriteBytes: 4096,
		DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true, Commit: CommitAll,
		Areas: Areas{BufferOffset: 4096, BufferLen: 4 << 20, MetaOffset: 4096 + 4<<20, MetaLen: 2 << 20,
			DataOffset: 4096 + 6<<20, DataLen: 64 << 20}}
	return c, c.Areas.DataOffset + c.Areas.DataLen
}

// Writes on a real disk, through O_DIRECT and io_uring, are read again by a
// store opened anew.
func TestRealDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	c, size := realConfig()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	const objects, depth, writes = 300, 32, 3000
	version, seeds := make([]meta.Version, objects), make([][32]uint64, objects)
	realDisk(t, path, c, func(s *Store, finish func()) {
		left, running, n := writes, 0, 0
		for i := range depth {
			op := &Op{}
			big, small := aligned(131072), aligned(4096)
			next := func() {
				o := (n*7919 + i) % (objects / depth) * depth // objects of this slot
				o += i
				n++
				left--
				version[o]++
				op.Kind, op.OID, op.Version = OpWriteStable, oid(uint64(o)), version[o]
				op.Offset, op.Len, op.Buf = 0, 131072, big
				from, to := 0, 32
				if version[o] > 1 {
					from = n % 32
					op.Offset, op.Len, op.Buf, to = uint32(from)*4096, 4096, small, from+1
				}
				fill(op.Buf, uint64(n), uint64(op.Offset))
				for g := from; g < to; g++ {
					seeds[o][g] = uint64(n)
				}
				running++
				s.Submit(op)
			}
			op.Done = func(op *Op) {
				if op.Err != 0 {
					t.Errorf("write of %v: %v", op.OID, op.Err)
				}
				if running--; left > 0 {
					next()
				} else if running == 0 {
					t.Logf("%+v", s.Counters())
					finish()
				}
			}
			next()
		}
	})
	realDisk(t, path, c, func(s *Store, finish func()) {
		left := 0
		for o := range objects {
			if version[o] == 0 {
				continue
			}
			left++
			op := &Op{Kind: OpRead, OID: oid(uint64(o)), Version: newest, Len: 131072, Buf: aligned(131072)}
			op.Done = func(op *Op) {
				if op.Err != 0 || op.Version != version[o] {
					t.Errorf("object %d: version %d, error %v, want version %d", o, op.Version, op.Err, version[o])
				}
				for g := range 32 {
					if got := binary.LittleEndian.Uint64(op.Buf[g*4096:]); got != seeds[o][g] {
						t.Errorf("object %d granule %d: seed %d, want %d", o, g, got, seeds[o][g])
						break
					}
				}
				if left--; left == 0 {
					if err := s.Check(); err != nil {
						t.Error(err)
					}
					finish()
				}
			}
			s.Submit(op)
		}
	})
}
