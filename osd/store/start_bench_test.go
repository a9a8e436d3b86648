package store

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// genDisk has a metadata area full of BIG_WRITE entries that are made when they
// are read, so that a store of any size can be started in a test.
type genDisk struct {
	memDisk
	geo   layout.Geometry
	at    int64 // of the metadata area
	count uint64
}

func (d *genDisk) fill(buf []byte, from int64) {
	m := int64(d.geo.MetaBlockBytes)
	per := uint64(int(m) / d.geo.BigWriteBytes())
	all := meta.Bitmap(strings.Repeat("\xff", d.geo.BitmapBytes()))
	for at := int64(0); at < int64(len(buf)); at += m {
		b := layout.NewBlockBuilder(buf[at : at+m])
		n := uint64((from+at-d.at)/m) - 1
		for i := n * per; i < min((n+1)*per, d.count); i++ {
			id := meta.ObjectID{Inode: meta.MakeInode(1, 1+i%100), Stripe: i / 100 << 17}
			b.Add(d.geo.PutBigWrite(b.Room(), layout.Head{LSN: layout.LSN(i + 1), Object: id, Version: 1, Stable: true}, layout.BlockNum(i), all, all, nil))
		}
		b.Finish()
	}
}

func residentBytes(key string) int {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			n, _ := strconv.Atoi(f[1])
			return n << 10
		}
	}
	return 0
}

// BenchmarkStart starts stores of 8 million objects: time without the disk, and
// memory per object.
func BenchmarkStart(b *testing.B) {
	for _, csum := range []uint32{0, 4096} {
		b.Run(map[uint32]string{0: "plain", 4096: "csum4k"}[csum], func(b *testing.B) {
			const count = 8_000_000
			c := Config{BlockBytes: 128 << 10, GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: csum,
				DisableDataFsync: true, DisableMetaFsync: true, DisableBufferFsync: true}
			geo, err := layout.Geometry{BlockBytes: 128 << 10, GranuleBytes: 4096, MetaBlockBytes: 4096, CsumBytes: csum, BlockCount: count + 1000}.Complete()
			if err != nil {
				b.Fatal(err)
			}
			blocks := int64(count*2) / int64(4096/geo.BigWriteBytes())
			c.Areas = Areas{BufferOffset: 4096, BufferLen: 32 << 20, MetaOffset: 33 << 20, MetaLen: (blocks + 1) * 4096,
				DataOffset: 34<<20 + (blocks+1)*4096, DataLen: (count + 1000) * 128 << 10}
			for b.Loop() {
				startOnce(b, c, geo, count)
			}
		})
	}
}

func startOnce(b *testing.B, c Config, geo layout.Geometry, count uint64) {
	l := newMemLoop(b, 4096)
	d := &genDisk{geo: geo, at: c.Areas.MetaOffset, count: count}
	d.info = env.DiskInfo{Path: "generated", SizeBytes: c.Areas.DataOffset + c.Areas.DataLen, BlockBytes: 4096}
	runtime.GC()
	before := residentBytes("VmRSS:")
	var s *Store
	var made time.Duration
	start := time.Now()
	Open(&l.env, Disks{d, d, d}, c, func(st *Store, err error) {
		if err != nil {
			b.Fatal(err)
		}
		s = st
	})
	sb := (&Store{cfg: c, geo: geo}).superblock(0)
	for s == nil {
		l.runTasks()
		op := d.first
		if op == nil {
			continue
		}
		if d.first = op.Next; d.first == nil {
			d.last = nil
		}
		t := time.Now()
		switch {
		case op.Offset == c.Areas.MetaOffset:
			sb.Put(op.Buf)
		default:
			d.fill(op.Buf, op.Offset)
		}
		made += time.Since(t)
		op.Done(op)
	}
	took := time.Since(start) - made
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	b.ReportMetric(took.Seconds(), "s/start")
	b.ReportMetric(float64(residentBytes("VmRSS:")-before)/float64(count), "B/object")
	b.ReportMetric(float64(s.Totals().MemoryBytes)/float64(count), "B/object-counted")
	b.ReportMetric(float64(residentBytes("VmHWM:"))/float64(residentBytes("VmRSS:")), "peak/steady")
	b.ReportMetric(float64(ms.HeapAlloc)/(1<<20), "MiB-heap")
	if s.Totals().Objects != count {
		b.Fatal(s.Totals())
	}
	s.free()
}
