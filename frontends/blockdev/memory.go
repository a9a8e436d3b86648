package blockdev

import (
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
)

// Memory is a Disk of memory: for tests of front ends, and to measure a front
// end without a cluster.
type Memory struct {
	exec  env.Exec
	data  []byte
	used  []bool // by memoryBlock, what was written
	info  Info
	first *Request
	last  *Request
	task  env.Task
	// Fail, if set, gives requests an error.
	Fail func(r *Request) syscall.Errno
	// Flushes counts completed flushes, and writes with FUA.
	Flushes, Durable int
}

const memoryBlock = 4096

// NewMemory makes a disk of zeroes.
func NewMemory(e *env.Env, name string, sizeBytes uint64, readOnly bool) (*Memory, error) {
	data, err := pinned.Make[byte](int(sizeBytes))
	if err != nil {
		return nil, fmt.Errorf("disk of memory: %w", err)
	}
	m := &Memory{exec: e.Exec, data: data, used: make([]bool, (sizeBytes+memoryBlock-1)/memoryBlock)}
	m.info = Info{Name: name, SizeBytes: sizeBytes, GranuleBytes: memoryBlock, ObjectBytes: 128 << 10, ReadOnly: readOnly, WriteCache: true}
	m.task.Run = m.work
	return m, nil
}

// Info implements Disk.
func (m *Memory) Info() Info { return m.info }

// Close implements Disk. The memory stays until Free.
func (m *Memory) Close() {}

// Free gives the memory back.
func (m *Memory) Free() { pinned.Free(m.data) }

// Data is the content.
func (m *Memory) Data() []byte { return m.data }

// Put changes the content.
func (m *Memory) Put(offset uint64, b []byte) {
	copy(m.data[offset:], b)
	m.mark(offset, uint64(len(b)))
}

// Submit implements Disk.
func (m *Memory) Submit(r *Request) {
	r.Extents, r.nextEnded = r.Extents[:0], nil
	if m.last == nil {
		m.first = r
	} else {
		m.last.nextEnded = r
	}
	m.last = r
	m.exec.Defer(&m.task)
}

// work executes everything that was submitted.
func (m *Memory) work() {
	r := m.first
	m.first, m.last = nil, nil
	for r != nil {
		next := r.nextEnded
		r.nextEnded = nil
		if r.Err = r.check(&m.info); r.Err == 0 && m.Fail != nil {
			r.Err = m.Fail(r)
		}
		if r.Err == 0 {
			m.execute(r)
		}
		r.Done(r)
		r = next
	}
}

func (m *Memory) execute(r *Request) {
	at := m.data[r.Offset:][:r.Bytes]
	if r.Flags&FUA != 0 {
		m.Durable++
	}
	switch r.Kind {
	case Flush:
		m.Flushes++
	case Read:
		for _, b := range r.Iov {
			at = at[copy(b, at):]
		}
	case Write:
		for _, b := range r.Iov {
			at = at[copy(at, b):]
		}
		m.mark(r.Offset, r.Bytes)
	case WriteZeroes:
		clear(at)
	case Discard, Status:
		if r.Kind == Status {
			m.status(r)
		}
	}
}

func (m *Memory) mark(offset, bytes uint64) {
	from, to := align(offset, bytes, memoryBlock)
	for b := from / memoryBlock; b < to/memoryBlock; b++ {
		m.used[b] = true
	}
}

func (m *Memory) status(r *Request) {
	for at, end := r.Offset, r.Offset+r.Bytes; at < end; {
		b := at / memoryBlock
		stop := min(end, (b+1)*memoryBlock)
		if !r.extend(stop-at, m.used[b]) {
			return
		}
		at = stop
	}
}

// extend adds to the extents of a Status, and tells whether there is room for
// more.
func (r *Request) extend(bytes uint64, allocated bool) bool {
	n := len(r.Extents)
	switch {
	case n > 0 && r.Extents[n-1].Allocated == allocated:
		r.Extents[n-1].Bytes += bytes
	case n == ExtentsMax || n == 1 && r.Flags&OneExtent != 0:
		return false
	default:
		r.Extents = append(r.Extents, Extent{bytes, allocated})
	}
	return true
}
