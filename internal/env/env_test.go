package env

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestTimersAgainstSort(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h Timers
	timers := make([]*Timer, 50)
	armed := map[*Timer]Instant{}
	for i := range timers {
		timers[i] = &Timer{}
	}
	for range 5000 {
		tm := timers[r.IntN(len(timers))]
		switch r.IntN(4) {
		case 0, 1:
			at := Instant(r.IntN(1000))
			h.Arm(tm, at)
			armed[tm] = at
		case 2:
			h.Disarm(tm)
			delete(armed, tm)
		case 3:
			now := Instant(r.IntN(1000))
			got := h.Pop(now)
			if got != nil {
				if armed[got] > now {
					t.Fatal("popped too early")
				}
				delete(armed, got)
			}
			for _, at := range armed {
				if got == nil && at <= now {
					t.Fatal("due timer not popped")
				}
			}
		}
		if h.Len() != len(armed) || tm.Armed() != contains(armed, tm) {
			t.Fatal("armed set differs")
		}
	}
}

func contains(m map[*Timer]Instant, t *Timer) bool { _, ok := m[t]; return ok }

func TestTimersKeepOrderOfArming(t *testing.T) {
	var h Timers
	var fired []int
	timers := make([]Timer, 20)
	for i := range timers {
		timers[i].Fire = func() { fired = append(fired, i) }
		h.Arm(&timers[i], 7)
	}
	for tm := h.Pop(7); tm != nil; tm = h.Pop(7) {
		tm.Fire()
	}
	if !slices.IsSorted(fired) || len(fired) != 20 {
		t.Errorf("fired %v", fired)
	}
	if _, ok := h.Next(); ok {
		t.Error("heap is not empty")
	}
}

func TestTasks(t *testing.T) {
	var q Tasks
	var ran []int
	tasks := make([]Task, 3)
	for i := range tasks {
		tasks[i].Run = func() { ran = append(ran, i) }
		q.Push(&tasks[i])
		q.Push(&tasks[0])
	}
	first := true
	for tk := q.Pop(); tk != nil; tk = q.Pop() {
		tk.Run()
		if first {
			q.Push(tk) // again, at the end
			first = false
		}
	}
	if !slices.Equal(ran, []int{0, 1, 2, 0}) || !q.Empty() {
		t.Errorf("ran %v", ran)
	}
}

func TestDiskOpBytes(t *testing.T) {
	for _, c := range []struct {
		op   DiskOp
		want int64
	}{
		{DiskOp{Buf: make([]byte, 7)}, 7},
		{DiskOp{Kind: DiskWrite, Iov: [][]byte{make([]byte, 3), make([]byte, 4)}}, 7},
		{DiskOp{Kind: DiskDiscard, Length: 9}, 9},
		{DiskOp{Kind: DiskSync}, 0},
	} {
		if got := c.op.Bytes(); got != c.want {
			t.Errorf("%+v: %d", c.op, got)
		}
	}
}

func TestNothingAllocates(t *testing.T) {
	var h Timers
	var q Tasks
	tm, tk := &Timer{Fire: func() {}}, &Task{Run: func() {}}
	h.Arm(tm, 1) // grows the heap
	if n := testing.AllocsPerRun(100, func() {
		h.Arm(tm, 2)
		h.Pop(3)
		q.Push(tk)
		q.Pop()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
