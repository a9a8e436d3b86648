package secondary

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

var (
	modelSeeds = flag.Int("model.seeds", 4, "histories of TestModel")
	modelFirst = flag.Uint64("model.first", 0, "seed of the first one")
)

// TestModel runs random secondary operations of two primaries, each on its own
// PG, against a model: what a request returns has to be what it does to the
// model. Connections are reset or fall silent and the OSD is killed meanwhile:
// what a lost request has done is unknown then, so an object has a set of
// possible states, which further results make smaller. Once a primary has its
// lock back, nothing it sent before may happen any more.
func TestModel(t *testing.T) {
	total := map[string]int{}
	for i := range uint64(*modelSeeds) {
		seed := *modelFirst + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := newHistory(t, seed)
			h.run(1200)
			for k, n := range h.seen {
				total[k] += n
			}
		})
		if t.Failed() {
			t.Fatalf("replay: go test ./osd/secondary -run TestModel -model.first %d -model.seeds 1", seed)
		}
	}
	for _, k := range []string{"SEC_READ", "SEC_WRITE", "SEC_WRITE_STABLE", "SEC_DELETE", "SEC_STABILIZE", "SEC_ROLLBACK", "SEC_READ_BMP", "SEC_LIST",
		"ENOENT", "EEXIST", "EINVAL", "EBUSY", "lost", "undecided", "delayed"} {
		if total[k] < 3 {
			t.Errorf("%q happened %d times: the test tests nothing", k, total[k])
		}
	}
	t.Log(total)
}

const (
	modelGranules = 8
	objectsEach   = 6
)

// version is one version of an object: which write each granule comes from.
type version struct {
	v    meta.Version
	from [modelGranules]uint32
	bm   byte
}

// state is an object: its newest stable version, and the unstable ones above.
type state struct {
	base     *version
	unstable []version
	deleted  bool // perhaps the store remembers that there was something
}

func (s *state) newest() *version {
	if n := len(s.unstable); n > 0 {
		return &s.unstable[n-1]
	}
	return s.base
}

func (s *state) String() string {
	text := "absent"
	if s.base != nil {
		text = s.base.v.String()
	}
	for _, u := range s.unstable {
		text += " +" + u.v.String()
	}
	return text
}

// step is one operation on an object.
type step struct {
	code   wire.Op
	v      meta.Version
	offset int // granules
	n      int
	bm     byte
	serial uint32
}

// apply returns the state after a step and what it returns; any tells that the
// result may be OK or ENOENT.
func (s state) apply(p *step) (after state, ret wire.Retval, any bool) {
	switch p.code {
	case wire.OpSecWrite, wire.OpSecWriteStable:
		return s.write(p)
	case wire.OpSecDelete:
		return state{deleted: s.deleted || s.newest() != nil}, 0, false
	case wire.OpSecStabilize:
		return s.stabilize(p.v)
	case wire.OpSecRollback:
		return s.rollback(p.v)
	}
	return s, 0, false
}

func (s state) write(p *step) (state, wire.Retval, bool) {
	top := s.newest()
	switch {
	case top != nil && p.v <= top.v:
		return s, wire.EEXIST, false
	case p.code == wire.OpSecWriteStable && len(s.unstable) > 0:
		return s, wire.EINVAL, false
	}
	next := version{v: p.v, bm: p.bm}
	if top != nil {
		next.from = top.from
	}
	for i := p.offset; i < p.offset+p.n; i++ {
		next.from[i] = p.serial
	}
	if p.code == wire.OpSecWriteStable {
		s.base = &next
	} else {
		s.unstable = append(slices.Clone(s.unstable), next)
	}
	return s, wire.Retval(p.n * granuleBytes), false
}

func (s state) stabilize(v meta.Version) (state, wire.Retval, bool) {
	switch {
	case s.newest() == nil:
		return s, wire.ENOENT, s.deleted
	case s.base != nil && v <= s.base.v:
		return s, 0, false
	}
	for i := range s.unstable {
		if s.unstable[i].v == v {
			return state{base: &s.unstable[i], unstable: slices.Clone(s.unstable[i+1:])}, 0, false
		}
	}
	return s, wire.ENOENT, false
}

func (s state) rollback(v meta.Version) (state, wire.Retval, bool) {
	switch {
	case s.newest() == nil:
		return s, wire.ENOENT, false
	case s.base != nil && s.base.v > v:
		return s, wire.EBUSY, false
	}
	after := state{base: s.base}
	for _, u := range s.unstable {
		if u.v <= v {
			after.unstable = append(after.unstable, u)
		}
	}
	after.deleted = after.newest() == nil
	return after, 0, false
}

// find is the newest version <= limit.
func (s *state) find(limit meta.Version) *version {
	for i := len(s.unstable) - 1; i >= 0; i-- {
		if s.unstable[i].v <= limit {
			return &s.unstable[i]
		}
	}
	if s.base != nil && s.base.v <= limit {
		return s.base
	}
	return nil
}

// object is a chunk with its possible states.
type object struct {
	id     meta.ObjectID
	owner  *primary
	states []state
	step   step
	op     *msgr.Op
}

// primary is a peer that holds the lock of one PG.
type primary struct {
	*peer
	pg      meta.PG
	conn    *msgr.Conn // on which it has the lock
	locking *msgr.Op
	objects []*object
	listing *msgr.Op
}

type history struct {
	t         *testing.T
	r         *rig
	rng       *rand.Rand
	primaries []*primary
	serial    uint32
	seen      map[string]int
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, rng: rand.New(rand.NewPCG(seed, 7)), seen: map[string]int{}}
	h.r = newRig(t, seed, pgLocks(option.On), withConfig(func(c *Config) {
		c.Recovery.Sleep = time.Duration(h.rng.IntN(8)) * time.Millisecond
		c.Limits = Limits{Running: 1 + h.rng.IntN(4), Answers: 1 + h.rng.IntN(2)}
	}), func(r *rig, d *sim.DiskConfig) { r.store.CsumBytes = uint32(h.rng.IntN(2)) * 4096 })
	for i := range 2 {
		p := &primary{peer: h.r.peer(meta.OSDNum(10 + i)), pg: meta.PG{Pool: 3, Num: meta.PGNum(i + 1)}}
		for k := range uint64(objectsEach) {
			p.objects = append(p.objects, &object{id: oid(3, 1+k/2, (k*2+uint64(i))*blockBytes), owner: p, states: make([]state, 1)})
		}
		h.primaries = append(h.primaries, p)
	}
	return h
}

func (h *history) run(steps int) {
	for i := range steps {
		for _, p := range h.primaries {
			h.turn(p)
		}
		h.r.w.RunFor(time.Duration(h.rng.IntN(300)) * time.Microsecond)
		if i%40 == 39 {
			h.fault()
		}
		if h.t.Failed() {
			return
		}
	}
	h.r.w.Net().HealAll()
	for _, p := range h.primaries {
		for !h.t.Failed() && !(h.quiet(p) && p.conn != nil && p.conn == p.up) {
			h.finish(p)
			h.r.w.RunFor(10 * time.Millisecond)
		}
		h.compareListing(p, p.call(h.r.peering(p.pg)))
		for _, o := range p.objects {
			h.step(o, step{code: wire.OpSecRead, v: newest, n: modelGranules})
			p.wait(o.op)
			h.finish(p)
		}
	}
	h.seen["delayed"] += int(h.r.s.Stats().Delayed)
	h.r.w.RunFor(20 * time.Minute) // until TCP notices that a silent connection is lost
	h.r.idle()
}

// fault breaks something.
func (h *history) fault() {
	p := h.primaries[h.rng.IntN(2)]
	w := h.r.w
	switch h.rng.IntN(6) {
	case 0, 1:
		w.Net().Reset(p.node, h.r.node)
	case 2: // the peer gives up after a while, we may not notice for long
		w.Net().Blackhole(p.node, h.r.node)
		w.RunFor(12 * time.Second)
	case 3:
		w.Net().CutOneWay(h.r.node, p.node)
		w.RunFor(time.Duration(h.rng.IntN(15)) * time.Second)
		w.Net().HealAll()
	case 4:
		h.r.node.Crash()
		w.RunFor(time.Duration(h.rng.IntN(100)) * time.Millisecond)
		h.r.node.Restart()
		h.r.boot()
	}
}

// turn lets a primary look at what is finished and begin something new.
func (h *history) turn(p *primary) {
	h.finish(p)
	if p.conn == nil || p.conn != p.up || p.listing != nil {
		return
	}
	if h.rng.IntN(4) == 0 && h.quiet(p) {
		p.listing = p.begin(h.r.peering(p.pg))
		return
	}
	o := p.objects[h.rng.IntN(len(p.objects))]
	if o.op == nil {
		h.step(o, h.choose(o))
	}
}

func (h *history) quiet(p *primary) bool {
	return p.listing == nil && p.locking == nil && !slices.ContainsFunc(p.objects, func(o *object) bool { return o.op != nil })
}

// finish looks at completed requests, and takes the lock of a new connection.
func (h *history) finish(p *primary) {
	for _, o := range p.objects {
		if o.op != nil && done(o.op) {
			h.result(o)
			o.op = nil
		}
	}
	if p.listing != nil && done(p.listing) {
		if !p.listing.Lost {
			h.compareListing(p, p.listing)
		}
		p.listing = nil
	}
	switch {
	case p.locking != nil && done(p.locking):
		if p.locking.Retval == 0 {
			p.conn = p.up
			p.listing = p.begin(h.r.peering(p.pg)) // the fence: a primary lists before it writes
		} else if !p.locking.Lost {
			h.t.Errorf("lock: %v", p.locking.Retval)
		}
		p.locking = nil
	case p.locking == nil && p.up != nil && p.conn != p.up && h.quiet(p):
		p.locking = p.begin(&wire.SecLock{Flags: wire.LockAcquire, Pool: uint64(p.pg.Pool), PG: uint64(p.pg.Num), PGState: 8})
	}
}

// choose draws a step that a primary may take: it never reads below the newest
// stable version.
func (h *history) choose(o *object) step {
	s := &o.states[h.rng.IntN(len(o.states))]
	versions := []meta.Version{0}
	if s.base != nil {
		versions = append(versions, s.base.v)
	}
	for _, u := range s.unstable {
		versions = append(versions, u.v)
	}
	old := versions[h.rng.IntN(len(versions))]
	last := versions[len(versions)-1]
	h.serial++
	p := step{offset: h.rng.IntN(modelGranules), bm: byte(h.serial), serial: h.serial, v: last + 1 + meta.Version(h.rng.IntN(3))}
	p.n = h.rng.IntN(modelGranules - p.offset + 1)
	codes := []wire.Op{wire.OpSecWrite, wire.OpSecWrite, wire.OpSecWriteStable, wire.OpSecWriteStable, wire.OpSecRead, wire.OpSecRead,
		wire.OpSecReadBmp, wire.OpSecStabilize, wire.OpSecStabilize, wire.OpSecRollback, wire.OpSecDelete}
	p.code = codes[h.rng.IntN(len(codes))]
	switch p.code {
	case wire.OpSecRead, wire.OpSecReadBmp:
		p.v = newest
		if h.rng.IntN(3) == 0 {
			p.v = max(old, h.least(o))
		}
	case wire.OpSecStabilize, wire.OpSecRollback:
		p.v = old
		if h.rng.IntN(8) == 0 {
			p.v++
		}
	case wire.OpSecWrite, wire.OpSecWriteStable:
		if h.rng.IntN(12) == 0 && old > 0 {
			p.v = old
		}
	}
	return p
}

// least is the lowest version that may be read in all possible states.
func (h *history) least(o *object) meta.Version {
	v := meta.Version(0)
	for i := range o.states {
		if b := o.states[i].base; b != nil {
			v = max(v, b.v)
		}
	}
	return v
}

// step sends p.
func (h *history) step(o *object, p step) {
	flags := wire.SecFlags(h.rng.IntN(2))
	item := wire.ObjectList(nil).Append(at(o.id, p.v))
	o.step = p
	switch p.code {
	case wire.OpSecRead:
		o.op = o.owner.begin(&wire.SecRw{Op: p.code, Chunk: o.id, Version: p.v, Offset: uint32(p.offset * granuleBytes),
			Len: uint32(p.n * granuleBytes), Flags: flags})
	case wire.OpSecWrite, wire.OpSecWriteStable:
		o.op = o.owner.begin(&wire.SecRw{Op: p.code, Chunk: o.id, Version: p.v, Offset: uint32(p.offset * granuleBytes),
			Len: uint32(p.n * granuleBytes), AttrLen: bitmapBytes, Flags: flags}, []byte{p.bm, 0, 0, 0},
			bytes.Repeat(granule(p.serial), p.n))
	case wire.OpSecDelete:
		o.op = o.owner.begin(&wire.SecDel{Chunk: o.id, Version: p.v, Flags: flags})
	case wire.OpSecReadBmp:
		o.op = o.owner.begin(&wire.SecReadBmp{Len: 24, Flags: flags}, item)
	default:
		o.op = o.owner.begin(&wire.SecStab{Op: p.code, Len: 24, Flags: flags}, item)
	}
}

func granule(serial uint32) []byte {
	if serial == 0 {
		return make([]byte, granuleBytes)
	}
	return pattern(granuleBytes, uint64(serial))
}

// result compares a reply with what the step does in each possible state.
func (h *history) result(o *object) {
	p, op := &o.step, o.op
	if op.Lost || op.Retval == wire.EPIPE && o.owner.conn != o.owner.up {
		h.seen["lost"]++
		h.lost(o)
		return
	}
	h.seen[p.code.String()]++
	if op.Retval.Failed() {
		h.seen[op.Retval.String()]++
	}
	var left []state
	for _, s := range o.states {
		if after, ok := h.explains(&s, p, op); ok {
			left = append(left, after)
		}
	}
	if len(left) == 0 {
		h.t.Errorf("seed %d: %v of %v version %v returned %v, which fits none of %v", h.r.w.Seed(), p.code, o.id, p.v, op.Retval, o.states)
		return
	}
	o.states = left
}

// lost adds the states in which the step was done.
func (h *history) lost(o *object) {
	for _, s := range slices.Clone(o.states) {
		if after, ret, _ := s.apply(&o.step); !ret.Failed() && after.String() != s.String() {
			o.states = append(o.states, after)
			h.seen["undecided"]++
		}
	}
}

func (h *history) explains(s *state, p *step, op *msgr.Op) (state, bool) {
	switch p.code {
	case wire.OpSecRead:
		return *s, h.explainsRead(s, p, op)
	case wire.OpSecReadBmp:
		v, bm := meta.Version(0), byte(0)
		if x := s.find(p.v); x != nil {
			v, bm = x.v, x.bm
		}
		l, err := wire.MakeBitmapList(op.Body[0][:op.BodyBytes], bitmapBytes, 1)
		return *s, err == nil && l.Version(0) == v && bytes.Equal(l.Bitmap(0), []byte{bm, 0, 0, 0})
	}
	after, ret, any := s.apply(p)
	return after, op.Retval == ret || any && op.Retval == 0
}

func (h *history) explainsRead(s *state, p *step, op *msgr.Op) bool {
	x := s.find(p.v)
	if x == nil {
		return op.Retval == wire.ENOENT
	}
	var re wire.SecRwReply
	re.Decode(&op.Reply)
	if op.Retval != wire.Retval(p.n*granuleBytes) || re.Version != x.v || !bytes.Equal(op.Attr[:op.AttrBytes], []byte{x.bm, 0, 0, 0}) {
		return false
	}
	for i := range p.n {
		if !bytes.Equal(op.Body[0][i*granuleBytes:(i+1)*granuleBytes], granule(x.from[p.offset+i])) {
			return false
		}
	}
	return true
}

// compareListing keeps the states that a listing shows.
func (h *history) compareListing(p *primary, op *msgr.Op) {
	h.seen["SEC_LIST"]++
	var re wire.SecListReply
	re.Decode(&op.Reply)
	if op.Retval.Failed() {
		h.t.Errorf("listing: %v", op.Retval)
		return
	}
	listed := map[meta.ObjectID]string{}
	l := wire.ObjectList(op.Body[0][:op.BodyBytes])
	for i := range l.Len() {
		text := fmt.Sprint(" +", l.At(i).Version)
		if uint64(i) < re.StableCount {
			text = l.At(i).Version.String()
		}
		if listed[l.At(i).ObjectID] == "" && uint64(i) >= re.StableCount {
			text = "absent" + text
		}
		listed[l.At(i).ObjectID] += text
	}
	for _, o := range p.objects {
		want := listed[o.id]
		if want == "" {
			want = "absent"
		}
		delete(listed, o.id)
		left := slices.DeleteFunc(slices.Clone(o.states), func(s state) bool { return sorted(s.String()) != sorted(want) })
		if len(left) == 0 {
			h.t.Errorf("seed %d: %v is listed as %s, which is none of %v", h.r.w.Seed(), o.id, want, o.states)
			return
		}
		o.states = left
	}
	if len(listed) > 0 {
		h.t.Errorf("seed %d: unknown objects listed: %v", h.r.w.Seed(), slices.Collect(maps.Keys(listed)))
	}
}

// sorted makes the order of unstable versions in a listing not matter.
func sorted(text string) string {
	words := bytes.Split([]byte(text), []byte(" "))
	slices.SortFunc(words[1:], bytes.Compare)
	return string(bytes.Join(words, []byte(" ")))
}
