package primary

import (
	"math/rand/v2"
	"testing"

	"vitastor/internal/meta"
)

// TestLargeBlocks: requests of several parts, chunks longer than one buffer, and
// borders of both anywhere.
func TestLargeBlocks(t *testing.T) {
	const block = 4 << 20
	for _, c := range []struct {
		name   string
		scheme meta.Scheme
		parity int
		set    []meta.OSDNum
	}{
		{"replicated", meta.Replicated, 0, []meta.OSDNum{1, 2}},
		{"ec", meta.EC, 1, []meta.OSDNum{1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, meta.CommitAll, 4, func(r *rig) {
				r.block = block
				r.blocks = map[meta.OSDNum]int64{1: 8, 2: 8, 3: 8, 4: 8}
			})
			p := r.pool(1, c.scheme, c.parity, c.set...)
			u := r.user(1)
			size := int(r.pools[1].ObjectBytes())
			image := make([]byte, size)
			rnd := rand.New(rand.NewPCG(1, 1))
			write := func(from, n int) {
				t.Helper()
				copy(image[from:], pattern(n, rnd.Uint64()))
				u.write(1, uint64(from), image[from:from+n])
			}
			part := func() (from, n int) {
				from = rnd.IntN(size/testGran) * testGran
				return from, min(size-from, (1+rnd.IntN(size/testGran))*testGran)
			}
			rounds := func(n int) {
				t.Helper()
				for range n {
					write(part())
					from, n := part()
					u.read(1, uint64(from), image[from:from+n])
				}
				u.read(1, 0, image)
			}
			write(block/2, 3*testGran)
			rounds(6)
			write(0, size)
			write(testGran, size-2*testGran)
			r.atRest(p)
			r.crash(c.set[1])
			r.peer(p)
			rounds(6)
			p.set = append([]meta.OSDNum{}, c.set...)
			p.set[1] = 4
			r.peer(p)
			rounds(1)
			r.recoverAll(p)
			r.atRest(p)
		})
	}
}
