package ec

import (
	"fmt"
	"testing"
)

var benchGeometries = [][2]int{{2, 1}, {4, 2}, {8, 3}}

// BenchmarkEncode counts bytes of data. Target: 4+2 of 128 KiB >= 20 GB/s per core.
func BenchmarkEncode(b *testing.B) {
	eachGeometry(b, func(b *testing.B, c *Code, chunks [][]byte) {
		k := c.DataChunks()
		for b.Loop() {
			must(b, c.Encode(chunks[:k], chunks[k:]))
		}
	})
}

// BenchmarkReconstruct loses one and all losable data chunks; bytes of data.
func BenchmarkReconstruct(b *testing.B) {
	for _, all := range []bool{false, true} {
		b.Run(map[bool]string{false: "one", true: "max"}[all], func(b *testing.B) {
			eachGeometry(b, func(b *testing.B, c *Code, chunks [][]byte) {
				have, want := Roles(upTo(c.Chunks())...), Roles(0)
				if all {
					want = Roles(upTo(c.ParityChunks())...)
				}
				for r := want.Next(0); r >= 0; r = want.Next(r + 1) {
					have.Remove(r)
				}
				for b.Loop() {
					must(b, c.Reconstruct(chunks, have, want))
				}
			})
		})
	}
}

func eachGeometry(b *testing.B, f func(b *testing.B, c *Code, chunks [][]byte)) {
	for _, km := range benchGeometries {
		for _, chunkBytes := range []int{4, 4 << 10, 128 << 10} {
			b.Run(fmt.Sprintf("%d+%d/%d", km[0], km[1], chunkBytes), func(b *testing.B) {
				c := mustNew(b, ReedSolomon, km[0], km[1])
				chunks := newMatrix(km[0]+km[1], chunkBytes)
				fillRandom(chunks[:km[0]], 1)
				b.SetBytes(int64(km[0] * chunkBytes))
				b.ReportAllocs()
				f(b, c, chunks)
			})
		}
	}
}

func BenchmarkPlanWrite(b *testing.B) {
	var p Plan
	g, old, target := Geometry{4, 2, 128 << 10}, osds("1 2 3 4 5 6"), osds("0 2 3 4 5 6")
	b.ReportAllocs()
	for b.Loop() {
		must(b, p.PlanWrite(g, old, target, 0x22000, 0x1000))
	}
}
