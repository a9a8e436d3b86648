package client

import (
	"cmp"

	"vitastor/internal/pinned"
)

const memoryBytesDefault = 256 << 20

// memory is where buffered data is kept: a pool, and when that is full the Go
// heap, because data that was acknowledged must go somewhere. The pool is made
// at first use: clients of pools with immediate_commit=all need none.
//
// Buffers of the pool have a capacity that is a power of two; those of the heap
// get an odd one, so that they can be told apart.
type memory struct {
	pool  *pinned.Pool
	limit int
	full  bool // there is no pool
}

// Get implements writeback.Memory.
func (m *memory) Get(n int) []byte {
	if m.pool == nil && !m.full {
		p, err := pinned.NewPool("unsynced writes of the client", cmp.Or(m.limit, memoryBytesDefault))
		m.pool, m.full = p, err != nil
	}
	if m.pool != nil {
		if b, ok := m.pool.Get(n); ok {
			return b
		}
	}
	return make([]byte, n, (n+1)|1)
}

// Put implements writeback.Memory.
func (m *memory) Put(b []byte) {
	if cap(b)%2 == 0 {
		m.pool.Put(b)
	}
}

// used is how much of the pool is in use.
func (m *memory) used() int64 {
	if m.pool == nil {
		return 0
	}
	return m.pool.Stats().UsedBytes
}

// free returns everything to the system, also what abandoned operations of a
// crashed process have.
func (m *memory) free() {
	if m.pool != nil {
		m.pool.Discard()
		m.pool = nil
	}
}
