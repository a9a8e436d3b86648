package store

import "vitastor/internal/meta"

// opQueue is a FIFO of operations, linked through them. An operation is in at
// most one queue.
type opQueue struct {
	first, last *Op
}

func (q *opQueue) push(op *Op) {
	op.qnext = nil
	if q.last == nil {
		q.first = op
	} else {
		q.last.qnext = op
	}
	q.last = op
}

func (q *opQueue) pop() *Op {
	op := q.first
	if op == nil {
		return nil
	}
	if q.first = op.qnext; q.first == nil {
		q.last = nil
	}
	op.qnext = nil
	return op
}

func (q *opQueue) empty() bool { return q.first == nil }

// fifo is a queue of values without pointers in one growing ring.
type fifo[T any] struct {
	ring []T
	head int
	n    int
}

func (q *fifo[T]) len() int  { return q.n }
func (q *fifo[T]) front() *T { return &q.ring[q.head] }

func (q *fifo[T]) at(i int) *T { return &q.ring[(q.head+i)%len(q.ring)] }

func (q *fifo[T]) push(v T) {
	if q.n == len(q.ring) {
		ring := make([]T, max(64, 2*q.n))
		for i := range q.n {
			ring[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = v
	q.n++
}

func (q *fifo[T]) pop() T {
	v := q.ring[q.head]
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	return v
}

// locks serialize the mutations of an object. The holder is in the table;
// others wait in its queue, in order.
type locks struct {
	buckets [1024]*Op
}

func lockBucket(id meta.ObjectID) uint64 {
	h := uint64(id.Inode)*0x9e3779b97f4a7c15 ^ id.Stripe*0xc4ceb9fe1a85ec53
	return (h ^ h>>29) * 0x94d049bb133111eb >> 54
}

func (l *locks) holder(id meta.ObjectID) *Op {
	for op := l.buckets[lockBucket(id)]; op != nil; op = op.lockNext {
		if op.OID == id {
			return op
		}
	}
	return nil
}

// take gives op the lock of its object, or queues it and returns false.
func (l *locks) take(op *Op) bool {
	if h := l.holder(op.OID); h != nil {
		h.lockWaiters.push(op)
		return false
	}
	l.hold(op)
	return true
}

func (l *locks) hold(op *Op) {
	b := &l.buckets[lockBucket(op.OID)]
	op.locked, op.lockNext = true, *b
	*b = op
}

// drop returns the operation that has got the lock after op, or nil.
func (l *locks) drop(op *Op) *Op {
	b := &l.buckets[lockBucket(op.OID)]
	for *b != op {
		b = &(*b).lockNext
	}
	*b = op.lockNext
	op.locked, op.lockNext = false, nil
	heir := op.lockWaiters.pop()
	if heir != nil {
		heir.lockWaiters = op.lockWaiters // its own is empty: it did not hold the lock
		l.hold(heir)
	}
	op.lockWaiters = opQueue{}
	return heir
}
