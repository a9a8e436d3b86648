package primary

import (
	"fmt"

	"vitastor/internal/ec"
	"vitastor/internal/pinned"
)

// memory hands out buffers outside of the Go heap under one limit. Those longer
// than pinned.MaxBufferBytes (of pools with large blocks) are mappings of their
// own, of which one is always given: otherwise such an operation would never
// begin.
type memory struct {
	limit int
	pool  *pinned.Pool
	long  int    // bytes in long buffers
	alone bool   // nobody has long buffers: what is taken now is not limited
	zero  []byte // nothing but zeroes
}

// zeroBytes is the length of memory.zero.
const zeroBytes = 128 << 10

// open makes the pool when it is first needed.
func (m *memory) open() (err error) {
	if m.pool != nil {
		return nil
	}
	if m.zero, err = pinned.AlignedBuffer(zeroBytes); err != nil {
		return err
	}
	m.pool, err = pinned.NewPool("primary", m.limit)
	return err
}

func (m *memory) get(n int) ([]byte, bool) {
	if n <= pinned.MaxBufferBytes {
		return m.pool.Get(n)
	}
	if !m.alone && m.long+n > m.limit {
		return nil, false
	}
	b, err := pinned.AlignedBuffer(n)
	if err != nil {
		return nil, false
	}
	m.long += n
	return b, true
}

func (m *memory) put(b []byte) {
	if len(b) <= pinned.MaxBufferBytes {
		m.pool.Put(b)
		return
	}
	m.long -= len(b)
	pinned.Free(b)
}

// free returns everything to the system, also what abandoned operations of a
// crashed process have. Long buffers in use are lost.
func (m *memory) free() {
	if m.pool != nil {
		m.pool.Discard()
		pinned.Free(m.zero)
		m.pool, m.zero = nil, nil
	}
}

// equip gives every chunk its buffers. If there is not enough memory the
// operation waits, false is returned, and it goes on with issueReads.
func (o *op) equip() bool {
	s := o.s
	if s.memWaiters.head == nil && o.takeBuffers() {
		return true
	}
	s.stats.Waits++
	o.phase = phaseMemory
	s.memWaiters.push(o)
	return false
}

// takeBuffers takes all or nothing: two operations with halves would wait for
// each other for ever.
func (o *op) takeBuffers() bool {
	s := o.s
	if err := s.memory.open(); err != nil {
		s.config.Fatal(fmt.Errorf("no memory for the operations of clients: %w", err))
		return false
	}
	s.memory.alone = s.memory.long == 0
	for i := range o.chunks {
		c := &o.chunks[i]
		read, write := o.bufferOf(i)
		ok := true
		if read > 0 {
			c.buf, ok = s.memory.get(int(read))
		}
		if ok && write > 0 {
			c.out, ok = s.memory.get(int(write))
		}
		if !ok {
			o.putBuffers()
			return false
		}
	}
	return true
}

// bufferOf returns the bytes of own memory that chunk i needs for what is read
// and for parity.
func (o *op) bufferOf(i int) (read, write uint32) {
	c := &o.chunks[i]
	if c.need == ec.NeedData && !c.direct {
		read = c.read.Len()
	}
	if o.kind == opWrite && !o.pg.replicated && i >= o.pg.dataChunks {
		write = o.plan.Roles[i].Write.Len()
	}
	return read, write
}

// putBuffers gives back the buffers of all chunks.
func (o *op) putBuffers() (any bool) {
	m := &o.s.memory
	for i := range o.chunks {
		c := &o.chunks[i]
		for _, b := range [2]*[]byte{&c.buf, &c.out} {
			if *b != nil {
				m.put(*b)
				*b, any = nil, true
			}
		}
	}
	return any
}

// releaseMemory gives the buffers back, for others to use.
func (o *op) releaseMemory() {
	o.payload = o.payload[:0]
	if o.putBuffers() {
		o.s.serveMemWaiters()
	}
}

// serveMemWaiters lets operations go on for which there is memory now, in order.
func (s *Server) serveMemWaiters() {
	for o := s.memWaiters.head; o != nil && o.takeBuffers(); o = s.memWaiters.head {
		s.memWaiters.remove(o)
		o.resume = (*op).issueReads
		s.soon(o)
	}
}
