package simcluster

import (
	"fmt"
	"slices"
	"strings"

	"vitastor/internal/meta"
)

// Rules tell the checkers what the images of a history are.
type Rules struct {
	Initial    func(meta.Inode, int) Stamp // contents before the history, and of deleted objects
	Lazy       func(meta.Inode) bool       // commit mode other than "all"
	LocalReads func(meta.Inode) bool       // replicas may serve reads
	Chained    func(meta.Inode) bool       // there is a parent
	PerObject  func(meta.Inode) int        // granules in an object
}

// Violation is one broken promise.
type Violation struct {
	Kind string // short name: "linearizability", "replicas"...
	Text string
}

func (v Violation) String() string { return v.Kind + ": " + v.Text }

// violationsMax is how many of them a check reports.
const violationsMax = 10

// Check judges a history. Nil = everything is explained.
func (h *History) Check(r Rules) []Violation {
	var all []Violation
	syncs := h.syncs()
	for _, reg := range h.registers() {
		if len(all) >= violationsMax {
			return all
		}
		if v, ok := reg.check(r, syncs); !ok {
			all = append(all, v)
		}
	}
	for _, x := range h.objects(r.PerObject) {
		if r.Lazy(x.inode) || len(all) >= violationsMax {
			continue
		}
		if text := x.check(r.LocalReads(x.inode), r.Chained(x.inode)); text != "" {
			all = append(all, Violation{"versions", text})
		}
	}
	return all
}

type objectKey struct {
	inode meta.Inode
	index int
}

// check judges one granule.
func (reg *register) check(r Rules, syncs map[int][]*Op) (Violation, bool) {
	initial := r.Initial(reg.inode, reg.granule)
	events := reg.events(initial)
	if e := invented(events, initial); e != nil {
		return reg.violation("contents", "nobody wrote what this read saw", e, nil, events), false
	}
	if r.Lazy(reg.inode) || r.LocalReads(reg.inode) {
		bad, hider := stale(events, initial, r.Lazy(reg.inode), syncs)
		if bad == nil {
			return Violation{}, true
		}
		return reg.violation("stale read", "this read saw something that was replaced for certain", bad, hider, events), false
	}
	if bad := linearizable(events, initial); bad != nil {
		return reg.violation("linearizability", "no order explains this operation", bad, nil, events), false
	}
	return Violation{}, true
}

// invented returns a read of something that no write made.
func invented(events []event, initial Stamp) *event {
	written := map[Stamp]bool{initial: true}
	for _, e := range events {
		if e.write {
			written[e.value] = true
		}
	}
	for i, e := range events {
		if !e.write && !written[e.value] {
			return &events[i]
		}
	}
	return nil
}

// contextOps is how many operations around a violation are printed.
const contextOps = 14

// violation describes the neighbourhood of the bad operation.
func (reg *register) violation(kind, text string, bad, hider *event, events []event) Violation {
	var b strings.Builder
	fmt.Fprintf(&b, "granule %d of inode %v: %s: #%d", reg.granule, reg.inode, text, bad.op.ID)
	if hider != nil {
		fmt.Fprintf(&b, ", by #%d", hider.op.ID)
	}
	near := slices.Clone(events)
	near = slices.DeleteFunc(near, func(e event) bool { return e.from > bad.to })
	first := max(0, len(near)-contextOps)
	for i, e := range near {
		same := e.write && e.value == bad.value
		if i < first && !same && (hider == nil || e.op != hider.op) {
			continue
		}
		fmt.Fprintf(&b, "\n  %v", brief(&e, reg.granule))
	}
	return Violation{kind, b.String()}
}

// brief is an operation as far as it concerns one granule.
func brief(e *event, granule int) string {
	o := *e.op
	o.Seen = nil
	text := strings.TrimSuffix(o.String(), " saw []")
	if !e.write {
		text += fmt.Sprintf(" saw %d", e.value)
		if e.value == Garbage {
			text += " (garbage)"
		}
	}
	return text
}
