package client

// opState is what the client keeps in an Op.
type opState struct {
	phase     opPhase
	cancelled bool
	next      *Op // in one opQueue
}

type opPhase uint8

const (
	phaseIdle   opPhase = iota // the owner's
	phaseQueued                // in Client.queue
	phaseActive                // being executed, or about to be completed
)

// opQueue is a FIFO of Ops.
type opQueue struct{ head, tail *Op }

func (q *opQueue) push(op *Op) {
	op.next = nil
	if q.tail == nil {
		q.head = op
	} else {
		q.tail.next = op
	}
	q.tail = op
}

func (q *opQueue) pop() *Op {
	op := q.head
	if op == nil {
		return nil
	}
	if q.head = op.next; q.head == nil {
		q.tail = nil
	}
	op.next = nil
	return op
}

// ioList is a list of ios in the order of their arrival.
type ioList struct{ head, tail *io }

func (l *ioList) push(x *io) {
	x.prev, x.next, x.list = l.tail, nil, l
	if l.tail == nil {
		l.head = x
	} else {
		l.tail.next = x
	}
	l.tail = x
}

func (l *ioList) remove(x *io) {
	if x.prev == nil {
		l.head = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		l.tail = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next, x.list = nil, nil, nil
}

// partList is a list of parts in the order of their arrival.
type partList struct{ head, tail *part }

func (l *partList) push(p *part) {
	p.next = nil
	if l.tail == nil {
		l.head = p
	} else {
		l.tail.next = p
	}
	l.tail = p
}

func (l *partList) pop() *part {
	p := l.head
	if p == nil {
		return nil
	}
	if l.head = p.next; l.head == nil {
		l.tail = nil
	}
	p.next = nil
	return p
}
