package heal

import "bytes"

// replicas compares copies of one object, a slice of bytes at a time. Copies are
// in one class as long as they have been equal in every slice.
type replicas struct {
	class []int // of each copy: the first copy that is equal to it
	old   []int // before the slice
	size  []int // of classes, see best
}

// begin starts with n copies that are not known to differ.
func (c *replicas) begin(n int) {
	c.class = append(c.class[:0], make([]int, n)...)
}

// slice compares the same bytes of all copies.
func (c *replicas) slice(data [][]byte) {
	c.old = append(c.old[:0], c.class...)
	for i := range c.class {
		c.class[i] = c.classOf(i, data)
	}
}

// classOf finds copy i's class among those made from its old one.
func (c *replicas) classOf(i int, data [][]byte) int {
	for j := c.old[i]; j < i; j++ {
		if c.old[j] == c.old[i] && c.class[j] == j && bytes.Equal(data[i], data[j]) {
			return j
		}
	}
	return i
}

// equal tells whether there is only one class.
func (c *replicas) equal() bool {
	for _, class := range c.class {
		if class != 0 {
			return false
		}
	}
	return true
}

// good appends the copies that are in the largest class. ok is false when two
// classes are equally large: then nobody knows.
func (c *replicas) good(dst []bool) (good []bool, ok bool) {
	c.size = append(c.size[:0], make([]int, len(c.class))...)
	best, tie := 0, false
	for _, class := range c.class {
		c.size[class]++
	}
	for class, n := range c.size {
		switch {
		case n > c.size[best]:
			best, tie = class, false
		case n == c.size[best] && class != best && n > 0:
			tie = true
		}
	}
	for _, class := range c.class {
		dst = append(dst, class == best)
	}
	return dst, !tie
}
