package crashtest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"vitastor/internal/meta"
)

// Version is one version of an object. It is immutable.
type Version struct {
	Number  meta.Version
	Stable  bool
	Content []Seed // of each granule
	Ext     string // external bitmap
}

func (v *Version) equal(w *Version) bool {
	return v.Number == w.Number && v.Stable == w.Stable && v.Ext == w.Ext && slices.Equal(v.Content, w.Content)
}

func (v *Version) String() string {
	kind := "unstable"
	if v.Stable {
		kind = "stable"
	}
	return fmt.Sprintf("v%d %s ext %x [%s]", uint64(v.Number), kind, v.Ext, seedsText(v.Content))
}

// State is an object: its newest stable version, if any, and all newer ones,
// oldest first. Empty: the object does not exist. It is immutable.
type State []*Version

func (s State) equal(t State) bool {
	return slices.EqualFunc(s, t, (*Version).equal)
}

func (s State) String() string {
	if len(s) == 0 {
		return "absent"
	}
	parts := make([]string, len(s))
	for i, v := range s {
		parts[i] = v.String()
	}
	return strings.Join(parts, "; ")
}

// newest is the newest version; nil if there is none.
func (s State) newest() *Version {
	if len(s) == 0 {
		return nil
	}
	return s[len(s)-1]
}

// stable is the newest stable version; nil if there is none.
func (s State) stable() *Version {
	if len(s) == 0 || !s[0].Stable {
		return nil
	}
	return s[0]
}

// at is the version with exactly that number; nil if there is none.
func (s State) at(n meta.Version) *Version {
	for _, v := range s {
		if v.Number == n {
			return v
		}
	}
	return nil
}

// read is what a read with a limit returns; defined is false if the limit is
// under the newest stable version (wire.md §7.2: undefined).
func (s State) read(limit meta.Version) (v *Version, defined bool) {
	if st := s.stable(); st != nil && limit < st.Number {
		return nil, false
	}
	for i := len(s) - 1; i >= 0; i-- {
		if s[i].Number <= limit {
			return s[i], true
		}
	}
	return nil, true
}

// MutationKind is a kind of change of one object.
type MutationKind uint8

// Kinds of changes.
const (
	Write MutationKind = iota
	WriteStable
	Delete
	Stabilize
	Rollback
)

// Mutation is one change of one object, as submitted.
type Mutation struct {
	Kind     MutationKind
	Version  meta.Version
	From, To int     // granules written
	Seed     Seed    // of the data written
	Ext      *string // nil = keep the bitmap
	// MayFail: both results are right; MustFail: only an error is.
	MayFail, MustFail bool

	seq     uint64 // of the object
	acked   bool
	durable bool
}

// apply returns the state after m; blank is the version before the first one.
func (s State) apply(m *Mutation, blank *Version) State {
	switch m.Kind {
	case Delete:
		return nil
	case Write, WriteStable:
		return s.write(m, blank)
	case Stabilize:
		return s.stabilize(m.Version)
	}
	return s.rollback(m.Version)
}

func (s State) write(m *Mutation, blank *Version) State {
	old := s.newest()
	if old == nil {
		old = blank
	}
	v := &Version{Number: m.Version, Stable: m.Kind == WriteStable, Content: slices.Clone(old.Content), Ext: old.Ext}
	for i := m.From; i < m.To; i++ {
		v.Content[i] = m.Seed
	}
	if m.Ext != nil {
		v.Ext = *m.Ext
	}
	if v.Stable {
		return State{v}
	}
	return append(slices.Clip(s), v)
}

func (s State) stabilize(n meta.Version) State {
	i := slices.IndexFunc(s, func(v *Version) bool { return v.Number == n })
	if i < 0 || s[i].Stable {
		return s
	}
	v := *s[i]
	v.Stable = true
	return append(State{&v}, s[i+1:]...)
}

func (s State) rollback(n meta.Version) State {
	i := slices.IndexFunc(s, func(v *Version) bool { return !v.Stable && v.Number > n })
	if i < 0 {
		return s
	}
	return slices.Clip(s[:i])
}

// object is the model of one object: what it is for the running process, and
// what a power loss may leave of it.
//
//	base ── durable for certain
//	log  ── mutations after base in the order of submission; the last one may be
//	        in flight; folded into base from the left as they become durable
//	live ── what reads see: base + all finished mutations
type object struct {
	index int
	id    meta.ObjectID
	blank *Version
	base  State
	log   []*Mutation
	live  State
	next  uint64 // seq of the next mutation
	// past[i] is the state after i finished mutations of this life: readers
	// remember where they began.
	past     []State
	inFlight *Mutation

	candidatesCache []candidate
}

// candidate is a state which a crash may leave, and the mutations of the log
// that make it.
type candidate struct {
	state State
	kept  []*Mutation
}

func newObject(index int, id meta.ObjectID, granules, bitmapBytes int) *object {
	blank := &Version{Content: make([]Seed, granules), Ext: string(make([]byte, bitmapBytes))}
	return &object{index: index, id: id, blank: blank, past: []State{nil}}
}

// begin notes that m was submitted.
func (o *object) begin(m *Mutation) {
	m.seq = o.next
	o.next++
	o.log = append(o.log, m)
	o.inFlight = m
	o.candidatesCache = nil
}

// finish notes the answer to the mutation in flight: done, or refused without
// any effect.
func (o *object) finish(done bool) {
	m := o.inFlight
	o.inFlight, o.candidatesCache = nil, nil
	if done {
		m.acked = true
		o.live = o.live.apply(m, o.blank)
	} else {
		o.log = o.log[:len(o.log)-1]
	}
	o.past = append(o.past, o.live)
}

// settleThrough notes that everything up to mutation seq is durable.
func (o *object) settleThrough(seq uint64) {
	for _, m := range o.log {
		if m.seq <= seq {
			m.durable = true
		}
	}
	o.fold()
}

// settleStabilize notes that a successful STABILIZE is durable: itself, and the
// version it names with all that came before.
func (o *object) settleStabilize(m *Mutation) {
	m.durable = true
	for i := len(o.log) - 1; i >= 0; i-- {
		w := o.log[i]
		if w.seq < m.seq && (w.Kind == Write || w.Kind == WriteStable) && w.Version == m.Version {
			o.settleThrough(w.seq)
			return
		}
	}
	o.fold()
}

// settleRollback notes that a successful ROLLBACK is durable: what it dropped
// is gone. The versions under it are as durable as before.
func (o *object) settleRollback(m *Mutation) {
	m.durable = true
	o.fold()
}

func (o *object) fold() {
	o.candidatesCache = nil
	for len(o.log) > 0 && o.log[0].durable && o.log[0].acked {
		o.base = o.base.apply(o.log[0], o.blank)
		o.log = o.log[1:]
	}
}

// lastAcked is the seq of the newest acknowledged mutation that a SYNC
// submitted now has to make durable; false if there is none.
func (o *object) lastAcked() (uint64, bool) {
	for i := len(o.log) - 1; i >= 0; i-- {
		if o.log[i].acked {
			return o.log[i].seq, true
		}
	}
	return 0, false
}

// candidates are the states which a crash may leave (rules 6-8): durable
// mutations are there; of the others, the first so many of this object. The
// likeliest comes first.
func (o *object) candidates() []candidate {
	if o.candidatesCache != nil {
		return o.candidatesCache
	}
	loose := 0
	for _, m := range o.log {
		if !m.durable {
			loose++
		}
	}
	var out []candidate
	for keep := loose; keep >= 0; keep-- {
		out = append(out, o.replay(keep, nil))
		// A STABILIZE in flight may be there without newer versions that are
		// not durable, if the version it names is.
		if m := o.inFlight; m != nil && m.Kind == Stabilize && !m.durable && keep < loose {
			out = append(out, o.replay(keep, m))
		}
	}
	o.candidatesCache = out
	return out
}

// replay applies the durable mutations and the first keep others, and then also.
func (o *object) replay(keep int, also *Mutation) candidate {
	c := candidate{state: o.base}
	for _, m := range o.log {
		if !m.durable {
			if keep == 0 && m != also {
				continue
			}
			if m != also {
				keep--
			}
		}
		c.kept = append(c.kept, m)
		c.state = c.state.apply(m, o.blank)
	}
	return c
}

// match finds the candidate that equals what was found after a crash.
func (o *object) match(found State) (candidate, error) {
	all := o.candidates()
	for _, c := range all {
		if c.state.equal(found) {
			return c, nil
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "object %d (%v): found %v\n", o.index, o.id, found)
	seen := map[string]bool{}
	for _, c := range all {
		if t := c.state.String(); !seen[t] {
			seen[t] = true
			fmt.Fprintf(&b, "  permitted: %s\n", t)
		}
	}
	return candidate{}, fmt.Errorf("%s", strings.TrimSuffix(b.String(), "\n"))
}

// afterCrash continues with what a crash left. If it was a power loss, all that
// is there is durable; after a kill it may still be in the volatile cache.
func (o *object) afterCrash(c candidate, durable bool) {
	o.inFlight, o.candidatesCache = nil, nil
	o.live, o.past = c.state, []State{c.state}
	if durable {
		o.base, o.log = c.state, nil
		return
	}
	o.log = slices.Clone(c.kept)
	for i, m := range o.log {
		k := *m
		k.acked = true
		o.log[i] = &k
	}
	o.fold()
}

// clone copies an object for a branch of the history.
func (o *object) clone() *object {
	p := *o
	p.log = slices.Clone(o.log)
	for i, m := range p.log {
		k := *m
		p.log[i] = &k
		if m == o.inFlight {
			p.inFlight = &k
		}
	}
	p.past = slices.Clone(o.past)
	p.candidatesCache = nil
	return &p
}

// window is what an operation may see that was submitted when the object had
// since finished mutations: every state from then to now, with the mutation in
// flight or without.
func (o *object) window(since int) []State {
	w := slices.Clone(o.past[min(since, len(o.past)-1):])
	if m := o.inFlight; m != nil {
		w = append(w, o.live.apply(m, o.blank))
	}
	return w
}
