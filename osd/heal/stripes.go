package heal

import (
	"bytes"
	"fmt"

	"vitastor/internal/ec"
	"vitastor/internal/meta"
)

// combinationsMax bounds scrub_ec_max_bruteforce: memory and time.
const combinationsMax = 10000

// stripes compares the chunks of one erasure-coded object, a slice of bytes at a
// time. Any k chunks determine all others. So chunks are right if k of them
// (a combination) give the others; a combination has to hold in every slice.
//
//	begin, then for each slice: slice, check until it returns false; then good
//
// A slice in which everything fits, which is nearly every one, costs one
// combination.
type stripes struct {
	code  *ec.Code
	roles []meta.Role // of each chunk; a role may be there more than once
	first []int       // chunks, the first one of each role, ascending by role
	limit int         // combinations to be tried

	combination []int // k indexes of first, ascending
	number      int   // of the combination
	differs     bool  // some slice did not fit
	fits        []ec.RoleSet

	data    [][]byte // of the slice, by chunk
	buffers [][]byte // for chunks computed
	chunks  [][]byte // by role, for Reconstruct
}

// begin starts with chunks of these roles, ascending. At most maxTries
// combinations are tried, or only the first if there are more.
func (c *stripes) begin(code *ec.Code, roles []meta.Role, maxTries int) {
	c.code, c.roles = code, append(c.roles[:0], roles...)
	c.first = c.first[:0]
	for i, role := range roles {
		if i == 0 || role != roles[i-1] {
			c.first = append(c.first, i)
		}
	}
	c.limit = combinations(len(c.first), code.DataChunks(), min(maxTries, combinationsMax))
	c.differs, c.fits = false, c.fits[:0]
	c.chunks = append(c.chunks[:0], make([][]byte, code.Chunks())...)
}

// combinations is n over k, or 1 if that is more than limit.
func combinations(n, k, limit int) int {
	if k > n {
		return 0
	}
	total := 1
	for i := 1; i <= min(k, n-k); i++ {
		total = total * (n - min(k, n-k) + i) / i
		if total > limit {
			return 1
		}
	}
	return total
}

// spare is the number of buffers that slice needs.
func (c *stripes) spare() int { return max(len(c.first)-c.code.DataChunks(), 0) }

// slice begins to compare a slice: data has the bytes of each chunk, buffers are
// spare() ones of the same length. They are used until check returns false.
func (c *stripes) slice(data, buffers [][]byte) {
	c.data, c.buffers = data, buffers
	c.combination = c.combination[:0]
	for i := range c.code.DataChunks() {
		c.combination = append(c.combination, i)
	}
	c.number = 0
}

// check tries the next combination on the slice. It returns whether there are
// more to be tried.
func (c *stripes) check() (more bool, err error) {
	if c.limit == 0 {
		return false, nil
	}
	fit, err := c.try()
	if err != nil {
		return false, fmt.Errorf("scrub: %w", err)
	}
	if fit.Len() == len(c.roles) && c.number == 0 {
		return false, nil // then it is so for all combinations
	}
	if !c.differs {
		c.differs = true
		for range c.limit {
			c.fits = append(c.fits, everything(len(c.roles)))
		}
	}
	for i := range fit {
		c.fits[c.number][i] &= fit[i]
	}
	c.number++
	return c.number < c.limit && c.advance(), nil
}

func everything(n int) (s ec.RoleSet) {
	for i := range n {
		s.Add(i)
	}
	return s
}

// advance goes to the next combination.
func (c *stripes) advance() bool {
	k, n := len(c.combination), len(c.first)
	for i := k - 1; i >= 0; i-- {
		if c.combination[i] < n-k+i {
			c.combination[i]++
			for j := i + 1; j < k; j++ {
				c.combination[j] = c.combination[j-1] + 1
			}
			return true
		}
	}
	return false
}

// try returns the chunks that fit to the combination.
func (c *stripes) try() (fit ec.RoleSet, err error) {
	var have, want ec.RoleSet
	for _, i := range c.combination {
		chunk := c.first[i]
		have.Add(int(c.roles[chunk]))
		c.chunks[c.roles[chunk]] = c.data[chunk]
	}
	spare := 0
	for _, chunk := range c.first {
		if role := int(c.roles[chunk]); !have.Has(role) {
			want.Add(role)
			c.chunks[role] = c.buffers[spare]
			spare++
		}
	}
	if want.Len() > 0 {
		if err := c.code.Reconstruct(c.chunks, have, want); err != nil {
			return fit, err
		}
	}
	for i, role := range c.roles {
		if bytes.Equal(c.data[i], c.chunks[role]) {
			fit.Add(i)
		}
	}
	return fit, nil
}

// equal tells whether every slice fitted.
func (c *stripes) equal() bool { return !c.differs }

// good appends the chunks that belong to the largest set that fits together.
// A set has to have more than k roles, otherwise nothing proves it. ok is false
// when there is none, or two different ones of the same size.
func (c *stripes) good(dst []bool) (good []bool, ok bool) {
	var best ec.RoleSet
	tie := false
	for i := range c.fits {
		fit := c.fits[i]
		switch n := fit.Len(); {
		case c.rolesIn(&fit) <= c.code.DataChunks() || n < best.Len() || fit == best:
		case n > best.Len():
			best, tie = fit, false
		default:
			tie = true
		}
	}
	for i := range c.roles {
		dst = append(dst, best.Has(i))
	}
	return dst, best.Len() > 0 && !tie
}

// rolesIn counts the different roles of a set of chunks.
func (c *stripes) rolesIn(chunks *ec.RoleSet) int {
	n, last := 0, -1
	for i := chunks.Next(0); i >= 0; i = chunks.Next(i + 1) {
		if role := int(c.roles[i]); role != last {
			n, last = n+1, role
		}
	}
	return n
}

// covers tells whether the good chunks have every role that was compared.
func (c *stripes) covers(good []bool) bool {
	var set ec.RoleSet
	for i, ok := range good {
		if ok {
			set.Add(i)
		}
	}
	return c.rolesIn(&set) == len(c.first)
}
