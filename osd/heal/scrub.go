package heal

import (
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// scrubRun is the scrub of one PG. Objects come in pages from the list of one
// of its OSDs.
type scrubRun struct {
	pg       meta.PG
	page     []meta.ObjectID // without roles, ascending
	at       int             // the next one of page
	from     meta.ObjectID   // where the next page begins, with role
	end      bool            // there is no next page
	listing  bool
	inFlight int // objects in work, or pausing after it
	shown    bool
	retry    bool // after a failed listing, a pause
}

// scrubMark is where the scrub of a PG was interrupted, so that a PG which is
// peered again every hour gets to its end some day.
type scrubMark struct {
	pg   meta.PG
	from meta.ObjectID
}

// listRetry is the pause after a listing that failed.
const listRetry = time.Second

// planMissing plans scrubs of PGs that have none, if auto_scrub is on.
func (h *Healer) planMissing() {
	if !h.config.Scrub.AutoScrub || h.stopped {
		return
	}
	for pg, ok := h.plans.unplanned(meta.PG{}); ok; pg, ok = h.plans.unplanned(meta.PG{Pool: pg.Pool, Num: pg.Num + 1}) {
		if at := h.nextScrub(pg); at != 0 {
			h.plans.set(pg, at)
			h.deps.Owner.ScrubPlanned(pg, at)
		}
	}
}

// nextScrub is when a PG that is or was scrubbed now is to be scrubbed next; 0
// without auto_scrub.
func (h *Healer) nextScrub(pg meta.PG) uint64 {
	interval := h.config.Scrub.Interval
	if p := h.deps.View.Pool(pg.Pool); p != nil && p.ScrubInterval > 0 {
		interval = p.ScrubInterval
	}
	if !h.config.Scrub.AutoScrub || interval <= 0 {
		return 0
	}
	return h.wallSeconds() + uint64(max(interval/time.Second, 1))
}

// scrubMore begins scrubs of objects, requests of clients first.
func (h *Healer) scrubMore() {
	h.feedHungry()
	h.serveRequests()
	if h.stopped {
		return
	}
	if h.run == nil && !h.config.Scrub.NoScrub {
		h.choosePG()
	}
	r := h.run
	if r == nil {
		return
	}
	if h.deps.Primary.Objects(r.pg) == nil {
		h.leave(r.pg) // and Stopped will come
		return
	}
	if on := !h.config.Scrub.NoScrub; on != r.shown {
		r.shown = on
		h.deps.Primary.SetScrubbing(r.pg, on)
	}
	for h.mayScrub(r) {
		if r.at == len(r.page) {
			if !r.end {
				h.list.begin(r)
			}
			break
		}
		id := r.page[r.at]
		r.at++
		r.inFlight++
		h.scrubObject(r.pg, id).run = r
	}
	if r.end && r.at == len(r.page) && r.inFlight == 0 {
		h.finishPG(r)
	}
}

// mayScrub tells whether another object may be begun. Recovery goes first.
func (h *Healer) mayScrub(r *scrubRun) bool {
	return !h.config.Scrub.NoScrub && !r.listing && !r.retry && h.running == 0 && len(h.hungry) == 0 &&
		r.inFlight < max(h.config.Scrub.QueueDepth, 1)
}

// choosePG takes the PG whose time came first, or waits for the next one.
func (h *Healer) choosePG() {
	next, ok := h.plans.first()
	if !ok {
		return
	}
	if now := h.wallSeconds(); next.at > now {
		// The time of day may jump: look again from time to time.
		h.env.Clock.Arm(&h.scrubAt, min(time.Duration(min(next.at-now, 1<<20))*time.Second, 10*time.Minute))
		return
	}
	if h.deps.Primary.Objects(next.pg) == nil {
		h.plans.remove(next.pg)
		h.wake()
		return
	}
	h.run = &scrubRun{pg: next.pg, from: meta.ObjectID{Inode: meta.MakeInode(next.pg.Pool, 0)}}
	if h.resume.pg == next.pg {
		h.run.from = h.resume.from
	}
	h.resume = scrubMark{}
	h.log.Info("scrub begins", "pg", next.pg.String(), "from", h.run.from.String())
}

// leave gives up the scrub of a PG that is not active any more, for now.
func (h *Healer) leave(pg meta.PG) {
	r := h.run
	if r == nil || r.pg != pg {
		return
	}
	from := r.from
	if r.at < len(r.page) {
		from = r.page[r.at]
	}
	for j := h.jobs.head; j != nil; j = j.next {
		if j.run == r && j.hold.OID.Less(from) {
			from = j.hold.OID
		}
	}
	h.resume, h.run = scrubMark{pg, from}, nil
}

// finishPG ends the scrub of a PG.
func (h *Healer) finishPG(r *scrubRun) {
	h.run = nil
	h.stats.ScrubbedPGs++
	h.deps.Primary.SetScrubbing(r.pg, false)
	h.log.Info("scrub is finished", "pg", r.pg.String())
	next := h.nextScrub(r.pg)
	h.plans.set(r.pg, next)
	h.deps.Owner.ScrubPlanned(r.pg, next)
	h.wake()
}

// objectDone ends an object of a run, after the pause that follows it.
func (h *Healer) objectDone(r *scrubRun, err wire.Retval) {
	r.inFlight--
	if !err.Failed() {
		h.stats.ScrubbedObjects++
	}
	h.wake()
}
