package simcluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vitastor/internal/meta"
)

// GranuleBytes is the unit of all I/O and of the checks.
const GranuleBytes = 4096

// Tick orders the beginnings and ends of operations: no two are equal.
type Tick int64

// Forever is the end of an operation that may still take effect.
const Forever Tick = 1<<63 - 1

// OpKind is what a client asked for.
type OpKind uint8

// The kinds.
const (
	OpRead OpKind = iota
	OpWrite
	OpDelete // one whole object: it reads as its parent, or zeroes, afterwards
	OpSync
)

func (k OpKind) String() string { return [...]string{"read", "write", "delete", "sync"}[k] }

// Outcome is what the client knows about an operation.
type Outcome uint8

// The outcomes.
const (
	Pending Outcome = iota // no answer: it may have happened, or may yet
	Done                   // acknowledged
	Failed                 // an error: it may have happened in part, and may yet
	Refused                // certainly not done (CAS with another version)
)

func (o Outcome) String() string { return [...]string{"pending", "done", "failed", "refused"}[o] }

// Op is one operation in a History.
type Op struct {
	ID      int // its index in History.Ops
	Client  int // one life of a client: a restarted one has another number
	Kind    OpKind
	Inode   meta.Inode
	First   int    // granule number in the image
	Count   int    // granules
	Stamp   Stamp  // writes: what is in each granule
	Compare bool   // CAS: Expected must be the version that is there
	Expect  uint64 // ... of the object before
	Version uint64 // result, if the operation stays inside of one object; 0 = unknown or absent

	Begin, End     Tick
	BeginAt, EndAt time.Duration
	Outcome        Outcome
	Err            string
	Seen           []Stamp // reads: per granule
}

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d client %d %v", o.ID, o.Client, o.Kind)
	if o.Kind != OpSync {
		fmt.Fprintf(&b, " %v [%d+%d)", o.Inode, o.First, o.Count)
	}
	if o.Kind == OpWrite {
		fmt.Fprintf(&b, " stamp %d", o.Stamp)
	}
	if o.Compare {
		fmt.Fprintf(&b, " expecting %v", meta.Version(o.Expect))
	}
	fmt.Fprintf(&b, " from %v", o.BeginAt)
	if o.Outcome != Pending {
		fmt.Fprintf(&b, " to %v", o.EndAt)
	}
	fmt.Fprintf(&b, " %v", o.Outcome)
	if o.Err != "" {
		fmt.Fprintf(&b, " (%s)", o.Err)
	}
	if o.Version != 0 {
		fmt.Fprintf(&b, " version %v", meta.Version(o.Version))
	}
	if o.Kind == OpRead && o.Outcome == Done {
		fmt.Fprintf(&b, " saw %v", o.Seen)
	}
	return b.String()
}

// History is all that clients did and saw.
type History struct {
	Ops     []*Op
	Crashed map[int]bool // clients that died: what they had not synced may be lost
	tick    Tick
	stamps  Stamp
}

// NewHistory makes an empty one.
func NewHistory() *History { return &History{Crashed: map[int]bool{}} }

// NewStamp returns a stamp that no write carried before.
func (h *History) NewStamp() Stamp {
	h.stamps++
	return h.stamps
}

// Invoke records that an operation begins; o.Kind and arguments are set.
func (h *History) Invoke(o *Op, at time.Duration) {
	h.tick++
	o.ID, o.Begin, o.BeginAt, o.End, o.Outcome = len(h.Ops), h.tick, at, Forever, Pending
	h.Ops = append(h.Ops, o)
}

// Return records the answer; results are set by the caller.
func (h *History) Return(o *Op, outcome Outcome, at time.Duration) {
	h.tick++
	o.End, o.EndAt, o.Outcome = h.tick, at, outcome
}

// Crash records that a client died.
func (h *History) Crash(client int) { h.Crashed[client] = true }

// syncs returns, per client, its successful syncs in order of their beginning.
func (h *History) syncs() map[int][]*Op {
	m := map[int][]*Op{}
	for _, o := range h.Ops {
		if o.Kind == OpSync && o.Outcome == Done {
			m[o.Client] = append(m[o.Client], o)
		}
	}
	return m
}

// register is one granule of an image, and what was done to it.
type register struct {
	inode   meta.Inode
	granule int
	ops     []*Op
}

// registers splits a history into granules, in order.
func (h *History) registers() []*register {
	type key struct {
		inode   meta.Inode
		granule int
	}
	m := map[key]*register{}
	var all []*register
	for _, o := range h.Ops {
		if o.Kind == OpSync {
			continue
		}
		for g := o.First; g < o.First+o.Count; g++ {
			k := key{o.Inode, g}
			r := m[k]
			if r == nil {
				r = &register{inode: o.Inode, granule: g}
				m[k] = r
				all = append(all, r)
			}
			r.ops = append(r.ops, o)
		}
	}
	slices.SortFunc(all, func(a, b *register) int {
		if a.inode != b.inode {
			if a.inode < b.inode {
				return -1
			}
			return 1
		}
		return a.granule - b.granule
	})
	return all
}
