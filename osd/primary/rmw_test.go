package primary

import (
	"bytes"
	"slices"
	"testing"

	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// stripe is what an EC object must look like.
type stripe struct {
	k, m    int
	image   []byte
	bitmaps [][]byte // of data chunks
}

func newStripe(k, m int) *stripe {
	s := &stripe{k: k, m: m, image: make([]byte, k*testBlock)}
	for range k {
		s.bitmaps = append(s.bitmaps, make([]byte, testBitmap))
	}
	return s
}

// write is what a write does to the object.
func (s *stripe) write(from, n int, seed uint64) []byte {
	data := pattern(n, seed)
	copy(s.image[from:], data)
	for at := from; at < from+n; at += testGran {
		meta.Bitmap(s.bitmaps[at/testBlock]).SetRange(at%testBlock/testGran, at%testBlock/testGran+1)
	}
	return data
}

// chunk is the data and bitmap of a role.
func (s *stripe) chunk(t *testing.T, scheme ec.Scheme, role int) (data, bitmap []byte) {
	var chunks [][]byte
	for i := range s.k {
		chunks = append(chunks, s.image[i*testBlock:(i+1)*testBlock])
	}
	if role < s.k {
		return chunks[role], s.bitmaps[role]
	}
	code, err := ec.New(scheme, s.k, s.m)
	if err != nil {
		t.Fatal(err)
	}
	parity, bitmaps := make([][]byte, s.m), make([][]byte, s.m)
	for i := range parity {
		parity[i], bitmaps[i] = make([]byte, testBlock), make([]byte, testBitmap)
	}
	if err := code.Encode(chunks, parity); err != nil {
		t.Fatal(err)
	}
	if err := code.Encode(s.bitmaps, bitmaps); err != nil {
		t.Fatal(err)
	}
	return parity[role-s.k], bitmaps[role-s.k]
}

// checkStripe compares every chunk that is in its place with what it must be.
func (r *rig) checkStripe(t *testing.T, p *rigPG, s *stripe, version meta.Version) {
	t.Helper()
	id := meta.ObjectID{Inode: inode(p.id.Pool)}
	for role, num := range p.set {
		if num == 0 || !r.osds[num].up {
			continue
		}
		c := r.readChunk(num, id.WithRole(meta.Role(role)))
		if c == nil {
			t.Errorf("OSD %d has no role %d", num, role)
			continue
		}
		data, bitmap := s.chunk(t, ec.ReedSolomon, role)
		if !bytes.Equal(c.data, data) {
			t.Errorf("role %d on OSD %d: %s", role, num, differ(c.data, data))
		}
		if !bytes.Equal(c.bitmap, bitmap) {
			t.Errorf("role %d on OSD %d: bitmap %x, want %x", role, num, c.bitmap, bitmap)
		}
		if c.version != version {
			t.Errorf("role %d on OSD %d: version %v, want %v", role, num, c.version, version)
		}
	}
}

// TestReadModifyWrite does what the table of osd.md §5.2 lists, and looks at what
// is on the disks afterwards: data, parity and bitmaps.
func TestReadModifyWrite(t *testing.T) {
	const b = testBlock
	type write struct{ from, n int }
	all := []meta.OSDNum{1, 2, 3, 4, 5, 6}
	cases := []struct {
		name   string
		before []meta.OSDNum // set in which the object is written first
		after  []meta.OSDNum // set at the operation
		down   []meta.OSDNum
		write  write // n 0: recovery
		ret    wire.Retval
	}{
		{"clean, part of r1", all, all, nil, write{b + 0x2000, 0x1000}, 0},
		{"clean, end of r0 and begin of r1", all, all, nil, write{b - 0x2000, 0x4000}, 0},
		{"clean, full stripe", all, all, nil, write{0, 4 * b}, 0},
		{"clean, full chunk", all, all, nil, write{b, b}, 0},
		{"r0 lost, part of r1", all, all, []meta.OSDNum{1}, write{b + 0x2000, 0x1000}, 0},
		{"r0 lost, part of r0", all, all, []meta.OSDNum{1}, write{0x2000, 0x1000}, 0},
		{"recovery of r0", all, []meta.OSDNum{7, 2, 3, 4, 5, 6}, []meta.OSDNum{1}, write{}, 0},
		{"recovery of r5", all, []meta.OSDNum{1, 2, 3, 4, 5, 7}, []meta.OSDNum{6}, write{}, 0},
		{"recovery of r0 and r4", all, []meta.OSDNum{7, 2, 3, 4, 8, 6}, []meta.OSDNum{1, 5}, write{}, 0},
		{"write and recovery of r0", all, []meta.OSDNum{7, 2, 3, 4, 5, 6}, []meta.OSDNum{1}, write{0x3000, 0x1000}, 0},
		{"move of r0", all, []meta.OSDNum{7, 2, 3, 4, 5, 6}, nil, write{}, 0},
		{"move of r5", all, []meta.OSDNum{1, 2, 3, 4, 5, 7}, nil, write{}, 0},
		{"move of r0 and r4 and a write", all, []meta.OSDNum{7, 2, 3, 4, 8, 6}, nil, write{b - 0x1000, 0x2000}, 0},
		{"r0, r1, r2 lost and replaced, part of r0", all, []meta.OSDNum{7, 8, 9, 4, 5, 6}, []meta.OSDNum{1, 2, 3}, write{0x2000, 0x1000}, wire.EIO},
		{"r0, r1, r2 lost and replaced, full stripe", all, []meta.OSDNum{7, 8, 9, 4, 5, 6}, []meta.OSDNum{1, 2, 3}, write{0, 4 * b}, 0},
		{"r4 has no OSD, part of r1", all, all, []meta.OSDNum{5}, write{b + 0x2000, 0x1000}, 0},
		{"roles exchanged", all, []meta.OSDNum{2, 1, 3, 4, 6, 5}, nil, write{}, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			const primary = 9 // not a member, or of r2: it never goes down
			r := newRig(t, 3, meta.CommitAll, 9)
			p := r.pool(1, meta.EC, 2, c.before...)
			r.stop(p)
			p.primary = primary
			r.peer(p)
			u, s := r.user(primary), newStripe(4, 2)
			u.write(1, 0, s.write(0, 0x8000, 1))
			u.write(1, 2*b+0x4000, s.write(2*b+0x4000, b, 2))
			v := u.write(1, b, s.write(b, 0x3000, 3))
			r.checkStripe(t, p, s, v)
			r.stop(p)
			for _, num := range c.down {
				r.crash(num)
			}
			p.set = c.after
			r.peer(p)
			if c.write.n > 0 {
				data := pattern(c.write.n, 9)
				if c.ret == 0 {
					data = s.write(c.write.from, c.write.n, 9)
				}
				call := u.beginWrite(1, uint64(c.write.from), data, 0)
				if c.ret != 0 {
					u.want(c.ret, call)
					return
				}
				v = u.want(wire.Retval(c.write.n), call).version()
			} else {
				r.recoverAll(p)
				v = r.readChunk(p.set[3], meta.ObjectID{Inode: inode(1), Stripe: 3}).version
			}
			r.w.RunFor(1e7)
			r.checkStripe(t, p, s, v)
			u.read(1, 0, s.image)
			r.noExtraCopies(t, p)
			bm := u.want(0, u.beginRead(1, 0, 0))
			if want := slices.Concat(s.bitmaps...); !bytes.Equal(bm.Attr[:bm.AttrBytes], want) {
				t.Errorf("bitmap of the object %x, want %x", bm.Attr[:bm.AttrBytes], want)
			}
			r.idle()
		})
	}
}

// noExtraCopies checks that nothing is left outside of the set.
func (r *rig) noExtraCopies(t *testing.T, p *rigPG) {
	t.Helper()
	for _, num := range p.members {
		if !r.osds[num].up {
			continue
		}
		stable, unstable := r.list(r.osds[num], p.id)
		for _, v := range slices.Concat(stable, unstable) {
			role := int(v.Role())
			if r.pools[p.id.Pool].Scheme == meta.Replicated {
				role = slices.Index(p.set, num)
			}
			if role < 0 || p.set[role] != num {
				t.Errorf("OSD %d still has %v", num, v)
			}
		}
	}
}

// TestDegradedReads reads every kind of range with every choice of missing roles.
func TestDegradedReads(t *testing.T) {
	const b = testBlock
	for _, down := range [][]meta.OSDNum{{1}, {2}, {4}, {5}, {1, 2}, {2, 4}, {1, 6}, {5, 6}} {
		r := newRig(t, 4, meta.CommitAll, 9)
		p := r.pool(1, meta.EC, 2, 1, 2, 3, 4, 5, 6)
		r.stop(p)
		p.primary = 9
		r.peer(p)
		u, s := r.user(9), newStripe(4, 2)
		u.write(1, 0, s.write(0, 4*b, 1))
		u.want(wire.OK, u.beginDelete(1, 0, 0))
		s = newStripe(4, 2)
		u.write(1, 0x5000, s.write(0x5000, 3*b, 2))
		for _, num := range down {
			r.crash(num)
		}
		r.peer(p)
		for _, q := range []struct{ from, n int }{{0, 4 * b}, {0, 0x1000}, {0x6000, 0x2000}, {b - 0x3000, 0x6000}, {b, b}, {2*b + 0x1000, b}, {3*b - 0x1000, 0x2000}, {3 * b, b}} {
			u.read(1, uint64(q.from), s.image[q.from:q.from+q.n])
		}
		bm := u.want(0, u.beginRead(1, 0, 0))
		if want := slices.Concat(s.bitmaps...); !bytes.Equal(bm.Attr[:bm.AttrBytes], want) {
			t.Errorf("without %v: bitmap of the object %x, want %x", down, bm.Attr[:bm.AttrBytes], want)
		}
		r.idle()
	}
}
