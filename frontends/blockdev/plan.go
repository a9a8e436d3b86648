package blockdev

const (
	stepsMax    = 3
	deleteChunk = 1 << 30 // longest range of one Delete
)

// step is a part of WriteZeroes or Discard.
type step struct {
	offset, bytes uint64
	delete        bool // whole objects; otherwise zeroes are written
}

// plan cuts WriteZeroes or Discard: objects that are covered as a whole are
// deleted, if that makes them zeroes; what is left is written, or nothing is
// done about it. The last object of the image counts as covered if the range
// goes up to the end.
func plan(steps *[stepsMax]step, k Kind, offset, bytes, size, object uint64, mayDelete bool) int {
	end := offset + bytes
	from, to := (offset+object-1)/object*object, end/object*object
	if end == size {
		to = (end + object - 1) / object * object
	}
	n := 0
	add := func(s step) {
		if s.bytes > 0 {
			steps[n] = s
			n++
		}
	}
	switch {
	case !mayDelete || from >= to:
		if k == WriteZeroes {
			add(step{offset, bytes, false})
		}
	case k == Discard:
		add(step{from, to - from, true})
	default:
		add(step{offset, from - offset, false})
		add(step{from, to - from, true})
		if to < end {
			add(step{to, end - to, false})
		}
	}
	return n
}

// span is a range and the whole granules around it.
type span struct {
	from, to   uint64 // whole granules
	granule    uint64
	before     uint64 // bytes of the first granule that are not wanted
	after      uint64 // bytes of the last granule that are not wanted
	head, tail bool   // the first granule, or another one that is last, is covered in part
}

func newSpan(offset, bytes, granule uint64) span {
	from, to := align(offset, bytes, granule)
	s := span{from: from, to: to, granule: granule, before: offset - from, after: to - offset - bytes}
	one := to-from == granule
	s.head = s.before > 0 || one && s.after > 0
	s.tail = !one && s.after > 0
	return s
}

// ends are the numbers of the user's bytes in the first and in the last granule,
// as far as these are covered in part.
func (s *span) ends() (head, tail uint64) {
	if s.head {
		head = s.granule - s.before
		if s.to-s.from == s.granule {
			head -= s.after
		}
	}
	if s.tail {
		tail = s.granule - s.after
	}
	return head, tail
}

// iov appends the memory of the whole span: the user's, and granules of edge
// where that covers them in part.
func (s *span) iov(dst [][]byte, edge []byte, user [][]byte) [][]byte {
	head, _ := s.ends()
	middle := s.to - s.from
	if s.head {
		dst = append(dst, edge[:s.granule])
		middle -= s.granule
	}
	if s.tail {
		middle -= s.granule
	}
	dst = cut(dst, user, head, middle)
	if s.tail {
		dst = append(dst, edge[s.granule:2*s.granule])
	}
	return dst
}

// copyIn puts the user's bytes at the ends into edge, copyOut takes them.
func (s *span) copyIn(edge []byte, user [][]byte)  { s.copyEnds(edge, user, true) }
func (s *span) copyOut(edge []byte, user [][]byte) { s.copyEnds(edge, user, false) }

func (s *span) copyEnds(edge []byte, user [][]byte, in bool) {
	head, tail := s.ends()
	if s.head {
		transfer(edge[s.before:s.before+head], user, 0, in)
	}
	if s.tail {
		total := s.to - s.from - s.before - s.after
		transfer(edge[s.granule:s.granule+tail], user, total-tail, in)
	}
}

// transfer copies between p and the bytes of iov from skip on.
func transfer(p []byte, iov [][]byte, skip uint64, in bool) {
	for _, b := range iov {
		if skip >= uint64(len(b)) {
			skip -= uint64(len(b))
			continue
		}
		b, skip = b[skip:], 0
		n := 0
		if in {
			n = copy(p, b)
		} else {
			n = copy(b, p)
		}
		if p = p[n:]; len(p) == 0 {
			return
		}
	}
}

// cut appends n bytes of iov from skip on to dst.
func cut(dst, iov [][]byte, skip, n uint64) [][]byte {
	for _, b := range iov {
		if skip >= uint64(len(b)) {
			skip -= uint64(len(b))
			continue
		}
		b, skip = b[skip:], 0
		if n == 0 {
			break
		}
		if uint64(len(b)) > n {
			b = b[:n]
		}
		dst = append(dst, b)
		n -= uint64(len(b))
	}
	return dst
}
