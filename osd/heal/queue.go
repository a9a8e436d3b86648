package heal

import (
	"slices"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// Kind of recovery.
type Kind uint8

const (
	Degraded  Kind = iota // a chunk or copy is missing, or its content is bad
	Misplaced             // a chunk or copy is on another OSD than it should be
	kinds
)

func (k Kind) String() string { return [...]string{"degraded", "misplaced"}[k] }

// Mask selects the objects of the kind. Incomplete and inconsistent ones cannot
// be recovered.
func (k Kind) Mask() meta.ObjectState {
	return [...]meta.ObjectState{meta.ObjectDegraded, meta.ObjectMisplaced}[k]
}

const (
	// retryPause is how long a PG rests after a pass in which objects failed.
	retryPause = 2 * time.Second
	// failuresMax in a row end a pass: more would not do better.
	failuresMax = 64
)

// Source is what the Queue knows of PGs. Objects change all the time.
type Source interface {
	// Next is the first object of the kind at or after from.
	Next(pg meta.PG, from meta.ObjectID, k Kind) (meta.ObjectID, bool)
	// Incomplete tells whether a member of the PG is missing: misplaced objects
	// stay where they are then (osd.md §12).
	Incomplete(pg meta.PG) bool
	// Suspended tells whether nothing is recovered in the pool:
	// backfillfull_pools.
	Suspended(pool meta.PoolID) bool
}

// QueueConfig are the options that the Queue obeys.
type QueueConfig struct {
	PGSwitch                int // objects of a PG before another one has its turn
	NoRecovery, NoRebalance bool
}

// Queue decides which object is recovered next. Each PG is walked in passes, from
// its first object to its last, once for each Kind. A pass sees every object
// that was there at its beginning; another one follows until one sees nothing.
type Queue struct {
	config   QueueConfig
	source   Source
	pgs      []*pgQueue     // ascending; only those with something to do
	turn     [kinds]meta.PG // whose turn it is: the first one not before it
	taken    [kinds]int     // objects taken of it in this turn
	flushing map[meta.PG]bool
	wake     env.Instant // of the first PG that rests, 0 = none does
}

type pgQueue struct {
	pg    meta.PG
	walks [kinds]walk
}

// walk is a pass over the objects of one kind in one PG.
type walk struct {
	state   walkState
	next    meta.ObjectID // where to look
	seen    bool          // the pass met objects, or there may be some behind next
	failed  bool          // an object of the pass failed
	inARow  int           // failures
	running int           // objects given away and not finished
	wake    env.Instant   // when resting
}

type walkState uint8

const (
	walkIdle walkState = iota // nothing to do
	walkOn
	walkResting
)

// Job is an object to be recovered.
type Job struct {
	PG   meta.PG
	OID  meta.ObjectID
	Kind Kind

	q *pgQueue
}

// NewQueue makes an empty one.
func NewQueue(s Source, c QueueConfig) *Queue {
	q := &Queue{source: s, flushing: map[meta.PG]bool{}}
	q.SetConfig(c)
	return q
}

// SetConfig changes the options.
func (q *Queue) SetConfig(c QueueConfig) {
	c.PGSwitch = max(c.PGSwitch, 1)
	q.config = c
}

// SetFlushing: unstable versions of the PG are being settled. Nothing is
// recovered, in no PG, until that is over.
func (q *Queue) SetFlushing(pg meta.PG, on bool) {
	if on {
		q.flushing[pg] = true
	} else {
		delete(q.flushing, pg)
	}
}

// Add: there may be (more) objects to recover in the PG.
func (q *Queue) Add(pg meta.PG) {
	i, found := q.find(pg)
	if !found {
		q.pgs = slices.Insert(q.pgs, i, &pgQueue{pg: pg})
	}
	for k := range q.pgs[i].walks {
		w := &q.pgs[i].walks[k]
		w.seen = true
		if w.state == walkIdle {
			*w = walk{state: walkOn, seen: true, running: w.running}
		}
	}
}

// Remove forgets a PG that is not active any more.
func (q *Queue) Remove(pg meta.PG) {
	delete(q.flushing, pg)
	if i, found := q.find(pg); found {
		q.pgs = slices.Delete(q.pgs, i, i+1)
	}
}

func (q *Queue) find(pg meta.PG) (int, bool) {
	return slices.BinarySearchFunc(q.pgs, pg, func(p *pgQueue, pg meta.PG) int { return p.pg.Compare(pg) })
}

// Wake is when Next has to be asked again if nothing happens before; 0 = never.
func (q *Queue) Wake() env.Instant { return q.wake }

// Next takes the object that is next. Done has to be called for it.
func (q *Queue) Next(now env.Instant) (Job, bool) {
	q.wake = 0
	if len(q.flushing) > 0 {
		return Job{}, false
	}
	for k := range kinds {
		if k == Degraded && q.config.NoRecovery || k == Misplaced && q.config.NoRebalance {
			continue
		}
		if job, ok := q.nextOf(k, now); ok {
			return job, true
		}
	}
	q.pgs = slices.DeleteFunc(q.pgs, (*pgQueue).empty)
	return Job{}, false
}

func (p *pgQueue) empty() bool {
	return p.walks[Degraded].state == walkIdle && p.walks[Misplaced].state == walkIdle
}

// nextOf goes round the PGs once, beginning with the one whose turn it is.
func (q *Queue) nextOf(k Kind, now env.Instant) (Job, bool) {
	if q.taken[k] >= q.config.PGSwitch {
		q.turn[k].Num++
		q.taken[k] = 0
	}
	first, _ := q.find(q.turn[k])
	for i := range q.pgs {
		p := q.pgs[(first+i)%len(q.pgs)]
		if q.source.Suspended(p.pg.Pool) || k == Misplaced && q.source.Incomplete(p.pg) {
			continue
		}
		id, ok := q.step(p, k, now)
		if !ok {
			continue
		}
		if p.pg != q.turn[k] {
			q.turn[k], q.taken[k] = p.pg, 0
		}
		q.taken[k]++
		return Job{PG: p.pg, OID: id, Kind: k, q: p}, true
	}
	return Job{}, false
}

// step takes the next object of a walk.
func (q *Queue) step(p *pgQueue, k Kind, now env.Instant) (meta.ObjectID, bool) {
	w := &p.walks[k]
	if w.state == walkResting && now >= w.wake {
		w.state, w.failed, w.inARow = walkOn, false, 0
	}
	for w.state == walkOn {
		if id, ok := q.source.Next(p.pg, w.next, k); ok {
			w.next = after(id)
			w.seen = true
			w.running++
			return id, true
		}
		if w.running > 0 {
			return meta.ObjectID{}, false // the pass ends with them
		}
		w.endPass(now)
	}
	if w.state == walkResting && (q.wake == 0 || w.wake < q.wake) {
		q.wake = w.wake
	}
	return meta.ObjectID{}, false
}

// after is the least object id above id.
func after(id meta.ObjectID) meta.ObjectID {
	if id.Stripe++; id.Stripe == 0 {
		id.Inode++
	}
	return id
}

// endPass decides what follows when the last object is finished.
func (w *walk) endPass(now env.Instant) {
	w.next = meta.ObjectID{}
	switch {
	case w.failed:
		w.rest(now)
	case !w.seen:
		w.state = walkIdle
	}
	w.seen = false
}

func (w *walk) rest(now env.Instant) { w.state, w.wake = walkResting, now.Add(retryPause) }

// Done ends a Job. ok is false when the object was not recovered, for whatever
// reason: also when it is not clean in spite of success. It returns whether
// this was the first failure of the pass.
func (q *Queue) Done(j Job, ok bool, now env.Instant) (firstFailure bool) {
	w := &j.q.walks[j.Kind]
	invariant.Must(w.running > 0, "heal: a recovery was finished twice")
	w.running--
	if ok {
		w.inARow = 0
		return false
	}
	firstFailure = !w.failed
	w.failed = true
	if w.inARow++; w.inARow >= failuresMax && w.state == walkOn {
		w.rest(now) // later it goes on where it is
	}
	return firstFailure
}
