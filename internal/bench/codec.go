package main

import (
	"fmt"
	"testing"

	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
)

// benchWire measures coding a request header: what every message costs.
func benchWire(_ int, report func(Row)) error {
	var p wire.Packet
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		in := wire.Rw{Op: wire.OpWrite, Inode: meta.MakeInode(1, 5), Offset: 4096, Len: 4096}
		var out wire.Rw
		for b.Loop() {
			in.Encode(&p)
			out.Decode(&p)
		}
	})
	ns := float64(res.T.Nanoseconds()) / float64(res.N)
	report(Row{Figure: "encode + decode of a request", Value: fmt.Sprintf("%.1f ns", ns), Target: "< 30 ns", OK: ns < 30})
	report(Row{Figure: "allocations of it", Value: fmt.Sprint(res.AllocsPerOp()), Target: "0", OK: res.AllocsPerOp() == 0})
	return nil
}

// benchEC measures erasure coding on one core, in bytes of data per second.
func benchEC(_ int, report func(Row)) error {
	for _, c := range []struct {
		k, m  int
		bytes int
		min   float64 // GB/s; 0 = for information
	}{
		{2, 1, 128 << 10, 0}, {4, 2, 128 << 10, 20}, {8, 3, 128 << 10, 0}, {4, 2, 4096, 0},
	} {
		code, err := ec.New(ec.ReedSolomon, c.k, c.m)
		if err != nil {
			return err
		}
		chunks := make([][]byte, c.k+c.m)
		for i := range chunks {
			if chunks[i], err = pinned.AlignedBuffer(c.bytes); err != nil {
				return err
			}
			for j := range chunks[i] {
				chunks[i][j] = byte(i + j)
			}
		}
		res := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := code.Encode(chunks[:c.k], chunks[c.k:]); err != nil {
					b.Fatal(err)
				}
			}
		})
		gb := float64(c.k*c.bytes) * float64(res.N) / float64(res.T.Nanoseconds())
		row := Row{Figure: fmt.Sprintf("encode %d+%d, %d KiB chunks", c.k, c.m, c.bytes>>10), Value: fmt.Sprintf("%.1f GB/s, %d allocations", gb, res.AllocsPerOp())}
		if c.min > 0 {
			row.Target, row.OK = fmt.Sprintf(">= %.0f GB/s, 0 allocations", c.min), gb >= c.min && res.AllocsPerOp() == 0
		}
		report(row)
	}
	return nil
}
