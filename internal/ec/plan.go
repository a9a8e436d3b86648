package ec

import (
	"errors"
	"fmt"
	"math"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// ErrTooFewTargets refuses a write that fewer than k roles would receive:
// nobody could read the object back.
var ErrTooFewTargets = errors.New("ec: fewer roles have an OSD than data chunks exist, nothing can be written safely")

// Range is the bytes [From, To) of a chunk; empty when they are equal.
type Range struct{ From, To uint32 }

// Empty tells whether there is no byte in the range.
func (r Range) Empty() bool { return r.From >= r.To }

// Len is the number of bytes.
func (r Range) Len() uint32 { return r.To - r.From }

// Contains tells whether all of s is inside of r.
func (r Range) Contains(s Range) bool {
	return s.Empty() || r.From <= s.From && s.To <= r.To
}

// Hull is the smallest range with all of both in it.
func (r Range) Hull(s Range) Range {
	if r.Empty() {
		return s
	}
	if s.Empty() {
		return r
	}
	return Range{min(r.From, s.From), max(r.To, s.To)}
}

// Without is the smallest range with all of r that is not in s: one piece, so
// the whole r when s lies strictly inside.
func (r Range) Without(s Range) Range {
	switch {
	case s.Empty() || s.To <= r.From || s.From >= r.To:
		return r
	case s.From <= r.From && s.To >= r.To:
		return Range{}
	case s.From <= r.From:
		return Range{s.To, r.To}
	case s.To >= r.To:
		return Range{r.From, s.From}
	}
	return r
}

func (r Range) String() string {
	if r.Empty() {
		return "-"
	}
	return fmt.Sprintf("%x-%x", r.From, r.To)
}

// Need tells how much of the old contents of a chunk an operation must know.
type Need uint8

const (
	// NeedNothing: the chunk is not read.
	NeedNothing Need = iota
	// NeedBitmap: a read of length 0, which returns the bitmap.
	NeedBitmap
	// NeedData: a read of a range, which returns the bitmap, too.
	NeedData
)

// RolePlan is what happens to one chunk.
type RolePlan struct {
	// From is the OSD to read from, 0 = the chunk is missing.
	From meta.OSDNum
	// To is the OSD to write to, 0 = nobody. Every other one is sent a write,
	// with the whole bitmap, even when Write is empty.
	To meta.OSDNum
	// Request is the part of the client's range in this chunk.
	Request Range
	// Need and Read are what has to be known of the old contents: by reading
	// it from From, or, when From is 0, by decoding (see Plan.Decode). Read is
	// empty unless Need is NeedData.
	Need Need
	Read Range
	// Write is the range to write. Of a data role it is all in Request or Read;
	// of a parity role it is Plan.Coded.
	Write Range
}

// Missing tells that no OSD has the old chunk.
func (r *RolePlan) Missing() bool { return r.From == 0 }

// Moved tells that the chunk is written to an OSD that does not have it.
func (r *RolePlan) Moved() bool { return r.To != 0 && r.To != r.From }

// Geometry is the shape of an object.
type Geometry struct {
	DataChunks   int
	ParityChunks int
	BlockBytes   uint32 // B, the size of one chunk
}

// Roles is the number of chunks.
func (g Geometry) Roles() int { return g.DataChunks + g.ParityChunks }

// Plan says what to read, rebuild, encode and write for one operation on one
// object (osd.md §4, §5.2). To follow the plan of a write:
//
//  1. Read from each role with From != 0 what Need and Read say.
//  2. If Decode is not empty: rebuild the Read range of each role in it, and its
//     bitmap, from Sources (Code.Reconstruct); all of them have been read there.
//  3. Put the request over what was read, set its bits in the data bitmaps. A
//     data chunk that needs nothing is wholly overwritten: its bitmap is full.
//  4. Encode parity over Coded, and parity bitmaps over all data bitmaps: always,
//     even if Coded is empty. (Release 3.0.8 sends bitmaps of zeroes then, and
//     loses them: §5.2 "Caution".)
//  5. Write each role with To != 0.
//
// Release 3.0.8 has left parity bitmaps of zeroes in clusters, and zeroes can be
// right, too (two equal data bitmaps): a bitmap decoded from parity is the best
// there is, not a proof.
//
// A Plan is reused: only its first use for a larger geometry allocates. After an
// error its contents mean nothing.
type Plan struct {
	Geometry Geometry
	// Roles has one entry per role.
	Roles []RolePlan
	// Coded is [S, E) of §5.2, in which the parity roles that have an OSD are
	// written. Empty in the plan of a read.
	Coded Range
	// Decode are the missing data roles to rebuild, Sources the k roles to do
	// it from. Both are empty if there is nothing to rebuild.
	Decode  RoleSet
	Sources RoleSet
}

// PlanWrite plans the write of length bytes at offset of the object. old is the
// OSD that holds each role now, target the one that shall; 0 = nobody. Length 0
// is a recovery or move. Errors: ErrTooFewChunks, ErrTooFewTargets, or a
// description of arguments that fit no geometry. Alignment is the caller's: all
// ranges are aligned as the request is.
func (p *Plan) PlanWrite(g Geometry, old, target []meta.OSDNum, offset, length uint64) error {
	if len(target) != len(old) {
		return fmt.Errorf("ec: plan of a write: %d old and %d target OSDs, give one of each per role", len(old), len(target))
	}
	if err := p.start(g, old, offset, length); err != nil {
		return err
	}
	targets := 0
	for r, osd := range target {
		p.Roles[r].To = osd
		if osd != 0 {
			targets++
		}
	}
	if targets < g.DataChunks {
		return ErrTooFewTargets
	}
	parityWritten := p.planParity()
	for r := range g.DataChunks {
		p.planDataWrite(&p.Roles[r], parityWritten)
	}
	if err := p.planDecode(); err != nil {
		return err
	}
	if invariant.Enabled {
		if err := p.check(); err != nil {
			invariant.Fail("ec: plan %+v: %v", p, err)
		}
	}
	return nil
}

// PlanRead plans a read of length bytes at offset: touched roles are read, and
// missing ones decoded. sources is read_target of the object.
func (p *Plan) PlanRead(g Geometry, sources []meta.OSDNum, offset, length uint64) error {
	if err := p.start(g, sources, offset, length); err != nil {
		return err
	}
	p.Coded = Range{} // a read codes nothing
	for r := range g.DataChunks {
		if role := &p.Roles[r]; !role.Request.Empty() {
			role.Need, role.Read = NeedData, role.Request
		}
	}
	return p.planDecode()
}

// start checks the arguments and fills From, Request and the hull of the requests.
func (p *Plan) start(g Geometry, old []meta.OSDNum, offset, length uint64) error {
	if err := checkCounts(g.DataChunks, g.ParityChunks); err != nil {
		return err
	}
	if g.BlockBytes == 0 || g.BlockBytes > math.MaxInt32 {
		return fmt.Errorf("ec: plan: chunks of %d bytes: must be 1..2^31-1", g.BlockBytes)
	}
	n := g.Roles()
	if len(old) != n {
		return fmt.Errorf("ec: plan: %d OSDs for %d roles, give one per role, 0 = nobody", len(old), n)
	}
	block := uint64(g.BlockBytes)
	if bytes := block * uint64(g.DataChunks); offset > bytes || length > bytes-offset {
		return fmt.Errorf("ec: plan: request [%d, +%d) is not inside of the object of %d bytes", offset, length, bytes)
	}
	if cap(p.Roles) < n {
		p.Roles = make([]RolePlan, n)
	}
	p.Roles = p.Roles[:n]
	p.Geometry, p.Coded, p.Decode, p.Sources = g, Range{}, RoleSet{}, RoleSet{}
	for r := range p.Roles {
		p.Roles[r] = RolePlan{From: old[r]}
		if start := uint64(r) * block; r < g.DataChunks {
			from := min(max(offset, start)-start, block)
			to := min(max(offset+length, start)-start, block)
			if from < to {
				p.Roles[r].Request = Range{uint32(from), uint32(to)}
			}
		}
		p.Coded = p.Coded.Hull(p.Roles[r].Request)
	}
	return nil
}

// planParity settles Coded and the writes of parity; it tells whether there are any.
func (p *Plan) planParity() (written bool) {
	parity := p.Roles[p.Geometry.DataChunks:]
	for i := range parity {
		if parity[i].Moved() {
			p.Coded = Range{0, p.Geometry.BlockBytes}
		}
	}
	for i := range parity {
		if parity[i].To != 0 {
			parity[i].Write = p.Coded
			written = true
		}
	}
	return written
}

// planDataWrite settles one data role. The bitmap is always needed unless the
// chunk is overwritten: it goes into the write of its own role and into the
// bitmaps of parity.
func (p *Plan) planDataWrite(role *RolePlan, parityWritten bool) {
	whole := Range{0, p.Geometry.BlockBytes}
	if role.To != 0 {
		role.Write = role.Request
	}
	switch {
	case role.Request == whole:
		return
	case role.Moved():
		role.Read, role.Write = whole, whole
	case parityWritten:
		role.Read = p.Coded.Without(role.Request)
	}
	role.Need = NeedBitmap
	if !role.Read.Empty() {
		role.Need = NeedData
	}
}

// planDecode makes the first k present roles read what missing ones need.
func (p *Plan) planDecode() error {
	need := NeedNothing
	var read Range
	for r := range p.Geometry.DataChunks {
		if role := &p.Roles[r]; role.Missing() && role.Need != NeedNothing {
			p.Decode.Add(r)
			need = max(need, role.Need)
			read = read.Hull(role.Read)
		}
	}
	if need == NeedNothing {
		return nil
	}
	left := p.Geometry.DataChunks
	for r := 0; r < len(p.Roles) && left > 0; r++ {
		role := &p.Roles[r]
		if role.Missing() {
			continue
		}
		p.Sources.Add(r)
		role.Need = max(role.Need, need)
		role.Read = role.Read.Hull(read)
		left--
	}
	if left > 0 {
		return ErrTooFewChunks
	}
	return nil
}

// check verifies what makes a plan of a write safe.
func (p *Plan) check() error {
	whole := Range{0, p.Geometry.BlockBytes}
	for r := range p.Roles {
		role := &p.Roles[r]
		data := r < p.Geometry.DataChunks
		switch {
		case !whole.Contains(role.Read) || !whole.Contains(role.Write):
			return fmt.Errorf("role %d leaves the chunk", r)
		case role.To == 0 && !role.Write.Empty():
			return fmt.Errorf("role %d is written to nobody", r)
		case role.Moved() && role.Write != whole:
			return fmt.Errorf("moved role %d is not written as a whole", r)
		case (role.Need == NeedData) == role.Read.Empty():
			return fmt.Errorf("role %d: need and range disagree", r)
		case role.Missing() && role.Need != NeedNothing && !p.Decode.Has(r):
			return fmt.Errorf("role %d is read from nobody", r)
		case data && role.To != 0 && !role.Write.Contains(role.Request):
			return fmt.Errorf("role %d loses a part of the request", r)
		case data && role.Need == NeedNothing && role.Request != whole:
			return fmt.Errorf("bitmap of role %d stays unknown", r)
		case data && !role.Read.Contains(role.Write.Without(role.Request)):
			return fmt.Errorf("role %d writes bytes that were not read", r)
		case data && p.parityTargets() && !role.Read.Contains(p.Coded.Without(role.Request)):
			return fmt.Errorf("parity is coded from bytes of role %d that were not read", r)
		case !data && role.To != 0 && role.Write != p.Coded:
			return fmt.Errorf("parity role %d is not written as coded", r)
		case p.Decode.Has(r) && !p.sourcesCover(role):
			return fmt.Errorf("sources of role %d were not read", r)
		}
	}
	return nil
}

func (p *Plan) parityTargets() bool {
	for i := p.Geometry.DataChunks; i < len(p.Roles); i++ {
		if p.Roles[i].To != 0 {
			return true
		}
	}
	return false
}

func (p *Plan) sourcesCover(lost *RolePlan) bool {
	for r := p.Sources.Next(0); r >= 0; r = p.Sources.Next(r + 1) {
		s := &p.Roles[r]
		if s.Missing() || s.Need < lost.Need || !s.Read.Contains(lost.Read) {
			return false
		}
	}
	return p.Sources.Len() == p.Geometry.DataChunks
}
