package primary

import (
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

func TestReplicated(t *testing.T) {
	r := newRig(t, 1, meta.CommitAll, 3)
	p := r.pool(1, meta.Replicated, 0, 1, 2, 3)
	u := r.user(1)
	u.read(1, 0, make([]byte, 8192))
	a := pattern(4096, 1)
	if v := u.write(1, 8192, a); v != meta.MakeVersion(1, 1) {
		t.Errorf("version %v", v)
	}
	u.read(1, 8192, a)
	b := pattern(testBlock, 2)
	u.write(1, testBlock, b)
	u.read(1, testBlock, b)
	u.read(1, testBlock+4096, b[4096:12288])
	c := u.want(0, u.beginRead(1, 0, 0))
	if c.AttrBytes != testBitmap || c.Attr[0] != 4 {
		t.Errorf("bitmap %x", c.Attr[:c.AttrBytes])
	}
	r.atRest(p)
	u.want(wire.OK, u.beginDelete(1, 8192, 0))
	u.read(1, 0, make([]byte, testBlock))
	r.atRest(p)
}

func TestErasureCoded(t *testing.T) {
	for _, c := range []struct {
		name   string
		scheme meta.Scheme
		parity int
		set    []meta.OSDNum
	}{
		{"xor 2+1", meta.XOR, 1, []meta.OSDNum{1, 2, 3}},
		{"ec 2+1", meta.EC, 1, []meta.OSDNum{1, 2, 3}},
		{"ec 4+2", meta.EC, 2, []meta.OSDNum{1, 2, 3, 4, 5, 6}},
		{"ec 4+2, the primary has parity", meta.EC, 2, []meta.OSDNum{5, 2, 3, 4, 1, 6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2, meta.CommitAll, len(c.set))
			p := r.pool(1, c.scheme, c.parity, c.set...)
			p.primary = 1
			r.peer(p)
			size := int(r.pools[1].ObjectBytes())
			u := r.user(p.primary)
			image := make([]byte, 2*size)
			u.read(1, 0, image[:size])
			for i, w := range []struct{ from, n int }{
				{0x2000, 0x1000}, {testBlock - 0x2000, 0x4000}, {0, size}, {testBlock, testBlock}, {size, 0x3000},
				{size + testBlock, 0x1000}, {size + 0x1000, size - 0x1000}, {size - testBlock, 0x1000},
			} {
				copy(image[w.from:], pattern(w.n, uint64(i)))
				u.write(1, uint64(w.from), image[w.from:w.from+w.n])
				r.atRest(p)
				u.read(1, uint64(w.from), image[w.from:w.from+w.n])
				u.read(1, 0, image[:size])
				u.read(1, uint64(size), image[size:])
			}
		})
	}
}
