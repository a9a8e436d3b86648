package msgr

// sink is where the bytes of a payload go: bitmap memory first, then the parts
// of the body; or nowhere, when they are not wanted.
type sink struct {
	left  uint32 // bytes still to come
	drain bool
	attr  []byte   // rest of the bitmap memory
	body  [][]byte // rest of the parts
	off   int      // in body[0]
}

// receive prepares for attr bytes of bitmap and body bytes after them. There
// must be room for them.
func (s *sink) receive(attrMem []byte, attr uint32, bodyMem [][]byte, body uint32) {
	*s = sink{left: attr + body, attr: attrMem[:attr], body: bodyMem}
}

// discard prepares for bytes that nobody wants.
func (s *sink) discard(n uint32) { *s = sink{left: n, drain: true} }

// memory is the contiguous memory for the next bytes; nil if they are drained
// or none are left.
func (s *sink) memory() []byte {
	if s.left == 0 || s.drain {
		return nil
	}
	if len(s.attr) > 0 {
		return s.attr
	}
	for s.off == len(s.body[0]) {
		s.body, s.off = s.body[1:], 0
	}
	m := s.body[0][s.off:]
	return m[:min(len(m), int(s.left))]
}

// advance notes that n bytes are in the memory returned last.
func (s *sink) advance(n int) {
	s.left -= uint32(n)
	if len(s.attr) > 0 {
		s.attr = s.attr[n:]
		return
	}
	s.off += n
}

// take consumes what belongs to the payload from b and returns the rest.
func (s *sink) take(b []byte) []byte {
	if s.drain {
		n := min(uint64(len(b)), uint64(s.left))
		s.left -= uint32(n)
		return b[n:]
	}
	for s.left > 0 && len(b) > 0 {
		n := copy(s.memory(), b)
		s.advance(n)
		b = b[n:]
	}
	return b
}

// total is the length of all parts, in bytes.
func total(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}
