package ec

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"vitastor/internal/meta"
)

// A stripe on model OSDs. Plans are followed exactly as the comment of Plan says,
// and then every target has to hold the right chunk: this is what the plan is for.

const (
	modelBlock   = 64 // bytes; a granule is 8 bytes, a bitmap one byte
	modelGranule = 8
)

type modelChunk struct {
	data   []byte
	bitmap meta.Bitmap
}

type model struct {
	code   *Code
	plan   Plan
	chunks map[meta.OSDNum]modelChunk // each OSD holds at most one role
	want   []modelChunk               // what the chunks have to be after the write
	// What the primary knows of each role while it follows the plan.
	data, bitmaps [][]byte
}

type modelCase struct {
	k, m           int
	old, target    []meta.OSDNum
	offset, length int
	seed           uint64
}

// newModel stores an encoded stripe with random bitmaps on the old OSDs, and
// computes the expected result of the request.
func newModel(t fataler, c modelCase, request []byte) *model {
	random := rand.New(rand.NewPCG(c.seed, 1))
	code := mustNew(t, ReedSolomon, c.k, c.m)
	n := c.k + c.m
	data, bitmaps := newMatrix(n, modelBlock), newMatrix(n, 1)
	for r := range c.k {
		bitmaps[r][0] = byte(random.Uint32())
		for x := range data[r] {
			data[r][x] = byte(random.Uint32())
		}
	}
	must(t, code.Encode(data[:c.k], data[c.k:]))
	must(t, code.Encode(bitmaps[:c.k], bitmaps[c.k:]))
	m := &model{code: code, chunks: map[meta.OSDNum]modelChunk{}}
	for r, osd := range c.old {
		if osd != 0 {
			m.chunks[osd] = modelChunk{bytes.Clone(data[r]), bytes.Clone(bitmaps[r])}
		}
	}
	for x, b := range request {
		r, at := (c.offset+x)/modelBlock, (c.offset+x)%modelBlock
		data[r][at] = b
		meta.Bitmap(bitmaps[r]).SetRange(at/modelGranule, at/modelGranule+1)
	}
	must(t, code.Encode(data[:c.k], data[c.k:]))
	must(t, code.Encode(bitmaps[:c.k], bitmaps[c.k:]))
	for r := range n {
		m.want = append(m.want, modelChunk{data[r], bitmaps[r]})
	}
	return m
}

// read takes from the OSDs exactly what the plan says; all else stays garbage.
func (m *model) read() {
	n := len(m.plan.Roles)
	m.data, m.bitmaps = newMatrix(n, modelBlock), newMatrix(n, 1)
	for r := range n {
		for x := range m.data[r] {
			m.data[r][x] = 0xaa
		}
		m.bitmaps[r][0] = 0x55
		role := &m.plan.Roles[r]
		if role.Missing() || role.Need == NeedNothing {
			continue
		}
		stored := m.chunks[role.From]
		copy(m.bitmaps[r], stored.bitmap)
		copy(m.data[r][role.Read.From:role.Read.To], stored.data[role.Read.From:role.Read.To])
	}
}

func (m *model) decode(t fataler) {
	for r := m.plan.Decode.Next(0); r >= 0; r = m.plan.Decode.Next(r + 1) {
		read := m.plan.Roles[r].Read
		part := make([][]byte, len(m.data))
		for i := range part {
			part[i] = m.data[i][read.From:read.To]
		}
		must(t, m.code.Reconstruct(part, m.plan.Sources, Roles(r)))
	}
	must(t, m.code.Reconstruct(m.bitmaps, m.plan.Sources, m.plan.Decode))
}

// merge puts the request over the old data and encodes parity.
func (m *model) merge(t fataler, request []byte) {
	k := m.plan.Geometry.DataChunks
	for r := range k {
		role := &m.plan.Roles[r]
		n := copy(m.data[r][role.Request.From:role.Request.To], request)
		request = request[n:]
		if role.Need == NeedNothing {
			clear(m.bitmaps[r])
		}
		meta.Bitmap(m.bitmaps[r]).SetBytes(role.Request.From, role.Request.Len(), modelGranule)
	}
	must(t, m.code.Encode(m.bitmaps[:k], m.bitmaps[k:]))
	part := make([][]byte, len(m.data))
	for i := range part {
		part[i] = m.data[i][m.plan.Coded.From:m.plan.Coded.To]
	}
	must(t, m.code.Encode(part[:k], part[k:]))
}

// write sends each role to its target; a chunk that is new there begins as zeroes.
func (m *model) write() {
	written := map[meta.OSDNum]modelChunk{}
	for r := range m.plan.Roles {
		role := &m.plan.Roles[r]
		if role.To == 0 {
			continue
		}
		chunk := modelChunk{make([]byte, modelBlock), bytes.Clone(m.bitmaps[r])}
		if role.To == role.From {
			copy(chunk.data, m.chunks[role.From].data)
		}
		copy(chunk.data[role.Write.From:role.Write.To], m.data[r][role.Write.From:role.Write.To])
		written[role.To] = chunk
	}
	m.chunks = written
}

// runCase follows the plan of one write; it returns the plan's error.
func runCase(t fataler, c modelCase) error {
	t.Helper()
	request := make([]byte, c.length)
	for x := range request {
		request[x] = byte(c.seed) + byte(x)
	}
	m := newModel(t, c, request)
	g := Geometry{c.k, c.m, modelBlock}
	if err := m.plan.PlanWrite(g, c.old, c.target, uint64(c.offset), uint64(c.length)); err != nil {
		return err
	}
	must(t, m.plan.check())
	m.read()
	if m.plan.Decode != (RoleSet{}) {
		m.decode(t)
	}
	m.merge(t, request)
	m.write()
	for r, osd := range c.target {
		if osd == 0 {
			continue
		}
		if got := m.chunks[osd]; !bytes.Equal(got.data, m.want[r].data) || !bytes.Equal(got.bitmap, m.want[r].bitmap) {
			t.Fatal("role", r, "on OSD", osd, "is wrong after", c)
		}
	}
	return nil
}

// checkRefusal: a plan may only fail for the reasons §5.2 gives.
func checkRefusal(t fataler, c modelCase, err error) {
	t.Helper()
	present, targets := 0, 0
	for r := range c.old {
		if c.old[r] != 0 {
			present++
		}
		if c.target[r] != 0 {
			targets++
		}
	}
	switch {
	case err == nil:
		if targets < c.k {
			t.Fatal("accepted with too few targets:", c)
		}
		if present < c.k && c.length == 0 {
			t.Fatal("accepted with too few chunks:", c)
		}
	case errors.Is(err, ErrTooFewTargets):
		if targets >= c.k {
			t.Fatal("refused with", targets, "targets:", c)
		}
	case errors.Is(err, ErrTooFewChunks):
		if present >= c.k || c.length == c.k*modelBlock {
			t.Fatal("refused with", present, "chunks:", c)
		}
	default:
		t.Fatal(err, c)
	}
}

func drawCase(t *rapid.T) modelCase {
	c := modelCase{k: rapid.IntRange(1, 6).Draw(t, "k"), m: rapid.IntRange(1, 4).Draw(t, "m")}
	for r := range c.k + c.m {
		old, target := meta.OSDNum(r+1), meta.OSDNum(r+1)
		switch rapid.IntRange(0, 9).Draw(t, "fate") {
		case 0:
			old = 0 // to be recovered
		case 1:
			old, target = 0, 0 // lost
		case 2:
			old += 100 // moves
		case 3:
			target = 0 // its OSD has just gone
		}
		c.old, c.target = append(c.old, old), append(c.target, target)
	}
	granules := c.k * modelBlock / modelGranule
	from := rapid.IntRange(0, granules).Draw(t, "from")
	to := rapid.IntRange(from, granules).Draw(t, "to")
	if rapid.Bool().Draw(t, "chunks") { // whole chunks
		per := modelBlock / modelGranule
		from, to = from/per*per, (to+per-1)/per*per
	}
	c.offset, c.length = from*modelGranule, (to-from)*modelGranule
	c.seed = rapid.Uint64().Draw(t, "seed")
	return c
}

func TestPlanLeavesTheRightStripe(t *testing.T) {
	refused, followed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		c := drawCase(t)
		err := runCase(t, c)
		checkRefusal(t, c, err)
		if err != nil {
			refused++
		} else {
			followed++
		}
	})
	if refused == 0 || followed == 0 {
		t.Errorf("%d plans were refused, %d followed: both must happen", refused, followed)
	}
}

// FuzzPlan: any arguments give an error or a safe plan. Small ones that are
// aligned are also followed.
func FuzzPlan(f *testing.F) {
	f.Add(4, 2, uint32(0x20000), []byte{1, 1, 1, 1, 1, 1}, uint64(0x22000), uint64(0x1000))
	f.Add(4, 2, uint32(0x20000), []byte{0, 1, 1, 1, 1, 1}, uint64(0x2000), uint64(0x1000))
	f.Add(4, 2, uint32(0x20000), []byte{2, 1, 3, 1, 1, 2}, uint64(0), uint64(0))
	f.Add(2, 1, uint32(modelBlock), []byte{3, 1, 1}, uint64(8), uint64(64))
	f.Add(3, 2, uint32(modelBlock), []byte{2, 0, 1, 1, 3}, uint64(64), uint64(64))
	f.Add(256, 1, uint32(1<<31), []byte{}, ^uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, k, m int, block uint32, fates []byte, offset, length uint64) {
		old, target := make([]meta.OSDNum, len(fates)), make([]meta.OSDNum, len(fates))
		for r, fate := range fates {
			if fate&1 != 0 {
				old[r] = meta.OSDNum(r + 1)
			}
			if fate&2 == 0 {
				target[r] = meta.OSDNum(r + 1 + int(fate&4)*100)
			}
		}
		var p Plan
		g := Geometry{k, m, block}
		if err := p.PlanRead(g, old, offset, length); err == nil {
			checkReadPlan(t, &p)
		}
		if err := p.PlanWrite(g, old, target, offset, length); err != nil {
			return
		}
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		checkAlignment(t, &p, offset|length)
		if block == modelBlock && (offset|length)%modelGranule == 0 && k+m <= 20 {
			must(t, runCase(t, modelCase{k, m, old, target, int(offset), int(length), offset}))
		}
	})
}

// checkAlignment: ranges are as aligned as the request and the chunk are.
func checkAlignment(t *testing.T, p *Plan, request uint64) {
	bits := uint32(request) | p.Geometry.BlockBytes
	unit := bits & -bits
	for r := range p.Roles {
		role := &p.Roles[r]
		if (role.Read.From|role.Read.To|role.Write.From|role.Write.To)%unit != 0 {
			t.Fatalf("role %d is not aligned to %x: %+v", r, unit, role)
		}
	}
}

func checkReadPlan(t *testing.T, p *Plan) {
	for r := range p.Roles {
		role := &p.Roles[r]
		if !role.Write.Empty() || role.To != 0 {
			t.Fatalf("a read writes role %d: %+v", r, role)
		}
		if !role.Read.Contains(role.Request) || role.Read.To > p.Geometry.BlockBytes {
			t.Fatalf("role %d does not read its request: %+v", r, role)
		}
		if role.Missing() && !role.Read.Empty() && (!p.Decode.Has(r) || !p.sourcesCover(role)) {
			t.Fatalf("role %d is neither read nor rebuilt: %+v", r, role)
		}
	}
}
