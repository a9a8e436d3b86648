package env

// Timer is a one-shot callback; embed it in the structure it belongs to and set
// Fire once. A fired or disarmed timer may be armed again.
type Timer struct {
	Fire func()

	deadline Instant
	seq      uint64 // order of arming, so that equal deadlines fire in order
	slot     int    // index in the heap + 1; 0 = not armed
}

// Armed tells whether Fire is still to come.
func (t *Timer) Armed() bool { return t.slot != 0 }

// Timers is the heap of armed timers that Clock implementations are built on.
// Not safe for concurrent use.
type Timers struct {
	heap []*Timer
	seq  uint64
}

// Arm (re)arms t for deadline.
func (h *Timers) Arm(t *Timer, deadline Instant) {
	h.seq++
	t.deadline, t.seq = deadline, h.seq
	if t.slot == 0 {
		h.heap = append(h.heap, t)
		t.slot = len(h.heap)
		h.up(t.slot - 1)
		return
	}
	h.down(t.slot - 1)
	h.up(t.slot - 1)
}

// Disarm removes t if it is armed.
func (h *Timers) Disarm(t *Timer) {
	if t.slot == 0 {
		return
	}
	i, last := t.slot-1, len(h.heap)-1
	t.slot = 0
	moved := h.heap[last]
	h.heap[last] = nil
	h.heap = h.heap[:last]
	if i == last {
		return
	}
	h.heap[i] = moved
	moved.slot = i + 1
	h.down(i)
	h.up(moved.slot - 1)
}

// Next returns the earliest deadline; ok is false when nothing is armed.
func (h *Timers) Next() (deadline Instant, ok bool) {
	if len(h.heap) == 0 {
		return 0, false
	}
	return h.heap[0].deadline, true
}

// Pop disarms and returns the earliest timer due at now, or nil.
func (h *Timers) Pop(now Instant) *Timer {
	if len(h.heap) == 0 || h.heap[0].deadline > now {
		return nil
	}
	t := h.heap[0]
	h.Disarm(t)
	return t
}

// Len is the number of armed timers.
func (h *Timers) Len() int { return len(h.heap) }

func (h *Timers) less(i, j int) bool {
	a, b := h.heap[i], h.heap[j]
	if a.deadline != b.deadline {
		return a.deadline < b.deadline
	}
	return a.seq < b.seq
}

func (h *Timers) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].slot, h.heap[j].slot = i+1, j+1
}

func (h *Timers) up(i int) {
	for i > 0 && h.less(i, (i-1)/2) {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (h *Timers) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h.heap); c++ {
			if h.less(c, least) {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

// Task is a deferred call; embed it and set Run once.
type Task struct {
	Run func()

	next   *Task
	queued bool
}

// Tasks is the FIFO of deferred tasks that Exec implementations are built on.
// Not safe for concurrent use.
type Tasks struct {
	head, tail *Task
}

// Push queues t unless it is queued already.
func (q *Tasks) Push(t *Task) {
	if t.queued {
		return
	}
	t.queued, t.next = true, nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
}

// Pop removes the oldest task, or returns nil. The task may be pushed again
// from its own Run.
func (q *Tasks) Pop() *Task {
	t := q.head
	if t == nil {
		return nil
	}
	if q.head = t.next; q.head == nil {
		q.tail = nil
	}
	t.queued, t.next = false, nil
	return t
}

// Empty tells whether nothing is queued.
func (q *Tasks) Empty() bool { return q.head == nil }
