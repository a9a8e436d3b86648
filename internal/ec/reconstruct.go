package ec

import (
	"fmt"

	"vitastor/internal/invariant"
)

// Reconstruct computes the chunks of the roles in want from the first k roles
// in have, in role order. chunks has k+m entries: those of the k sources are
// read, those of want are overwritten, all of the same length (any sub-range,
// or bitmaps); the rest is not touched and may be nil. A role cannot be in both
// sets. Fewer than k roles in have give ErrTooFewChunks.
func (c *Code) Reconstruct(chunks [][]byte, have, want RoleSet) error {
	if err := c.checkReconstruct(chunks, have, want); err != nil {
		return err
	}
	sources, ok := have.First(c.dataChunks, c.Chunks())
	if !ok {
		return ErrTooFewChunks
	}
	for r := sources.Next(0); r >= 0; r = sources.Next(r + 1) {
		c.in = append(c.in, chunks[r])
	}
	rows := c.decoders.rows(c, sources)
	for r, i := 0, 0; r < c.Chunks(); r++ {
		if sources.Has(r) {
			continue
		}
		if want.Has(r) {
			c.out = append(c.out, chunks[r])
			c.rows = append(c.rows, rows[i])
		}
		i++
	}
	err := checkReconstructLengths(c.in, c.out)
	if err == nil {
		product(c.rows, c.in, c.out)
	}
	c.releaseScratch()
	return err
}

func (c *Code) checkReconstruct(chunks [][]byte, have, want RoleSet) error {
	if len(chunks) != c.Chunks() {
		return fmt.Errorf("ec: Reconstruct got %d chunks, the code has %d", len(chunks), c.Chunks())
	}
	if r := max(have.Next(c.Chunks()), want.Next(c.Chunks())); r >= 0 {
		return fmt.Errorf("ec: Reconstruct: role %d does not exist, the code has %d roles", r, c.Chunks())
	}
	if have.Intersects(&want) {
		return fmt.Errorf("ec: Reconstruct: a role is both available and wanted: %v and %v", have, want)
	}
	return nil
}

func checkReconstructLengths(in, out [][]byte) error {
	bytes := len(in[0])
	for _, chunks := range [2][][]byte{in, out} {
		for _, chunk := range chunks {
			if len(chunk) != bytes {
				return fmt.Errorf("ec: Reconstruct: chunks of %d and %d bytes: give the same range of every source and every wanted chunk",
					bytes, len(chunk))
			}
		}
	}
	return nil
}

// releaseScratch forgets the caller's buffers, so that they are not kept alive.
func (c *Code) releaseScratch() {
	clear(c.in)
	clear(c.out)
	clear(c.rows)
	c.in, c.out, c.rows = c.in[:0], c.out[:0], c.rows[:0]
}

// decoderLimit bounds the cache: more sets of sources than a PG usually meets,
// 1 MiB at most (128+128 chunks).
const decoderLimit = 64

// decoderCache keeps the matrices of recently used sets of k sources.
type decoderCache struct {
	entries []decoder
	last    int    // entry of the last hit: nearly always the next one, too
	clock   uint64 // counts lookups, for eviction of the least recently used
}

// decoder makes all other chunks from k sources: rows has one row of k factors
// for each of the m roles which are not sources, in role order.
type decoder struct {
	sources RoleSet
	rows    [][]byte
	used    uint64
}

// rows returns the matrix for sources, which are k roles. A hit allocates nothing.
func (d *decoderCache) rows(c *Code, sources RoleSet) [][]byte {
	d.clock++
	if len(d.entries) == 0 || d.entries[d.last].sources != sources {
		d.last = d.find(sources)
	}
	if d.last == len(d.entries) {
		d.last = d.insert(decoder{sources: sources, rows: c.decoderRows(sources)})
	}
	e := &d.entries[d.last]
	e.used = d.clock
	return e.rows
}

func (d *decoderCache) find(sources RoleSet) int {
	for i := range d.entries {
		if d.entries[i].sources == sources {
			return i
		}
	}
	return len(d.entries)
}

func (d *decoderCache) insert(e decoder) int {
	if len(d.entries) < decoderLimit {
		d.entries = append(d.entries, e)
		return len(d.entries) - 1
	}
	oldest := 0
	for i := range d.entries {
		if d.entries[i].used < d.entries[oldest].used {
			oldest = i
		}
	}
	d.entries[oldest] = e
	return oldest
}

// decoderRows solves for the e lost data chunks with the e parity sources
// p = A*lost + R*present, that is lost = 1/A * (p + R*present): only an e x e
// matrix has to be inverted. Lost parity is M applied to that.
func (c *Code) decoderRows(sources RoleSet) [][]byte {
	k := c.dataChunks
	column := make([]int, c.Chunks()) // of each source in the result
	var lost, parity []int
	n := 0
	for r := range c.Chunks() {
		switch {
		case sources.Has(r):
			column[r] = n
			n++
			if r >= k {
				parity = append(parity, r)
			}
		case r < k:
			lost = append(lost, r)
		}
	}
	invariant.Must(n == k && len(lost) == len(parity), "ec: a decoder needs exactly k sources")

	a := newMatrix(len(lost), len(lost))
	for i, p := range parity {
		for j, l := range lost {
			a[i][j] = c.parityRows[p-k][l]
		}
	}
	inverse := invert(a)

	rows := newMatrix(c.parityChunks, k)
	for i := range lost {
		for j, p := range parity {
			c.addParityRow(rows[i], inverse[i][j], p, column, &sources)
			rows[i][column[p]] = inverse[i][j]
		}
	}
	next := len(lost)
	for p := k; p < c.Chunks(); p++ {
		if sources.Has(p) {
			continue
		}
		c.addParityRow(rows[next], 1, p, column, &sources)
		for i, l := range lost {
			addRow(rows[next], c.parityRows[p-k][l], rows[i])
		}
		next++
	}
	return rows
}

// addParityRow adds factor times the present data chunks' part of parity p.
func (c *Code) addParityRow(row []byte, factor byte, p int, column []int, sources *RoleSet) {
	for j := range c.dataChunks {
		if sources.Has(j) {
			row[column[j]] ^= gfMul(factor, c.parityRows[p-c.dataChunks][j])
		}
	}
}
