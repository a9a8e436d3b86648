package heal

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

const day = 24 * time.Hour

// newScrubDesk has no other OSDs.
func newScrubDesk(t *testing.T) *desk {
	d := newDesk(t, nil)
	d.curSet = []meta.OSDNum{deskOSD}
	return d
}

func (d *desk) wall() uint64 { return uint64(d.env.Clock.WallNanos() / 1e9) }

func (d *desk) setScrub(change func(o *Options)) {
	o := d.h.config.Options
	change(&o)
	d.do(func() { d.h.Apply(o) })
}

// objects of the own store, which all turn out to be missing.
func (d *desk) lists(pg meta.PG, n int) {
	for i := range n {
		d.listing = append(d.listing, meta.ObjectVersion{ObjectID: objectN(pg.Pool, i), Version: 1 << 16})
	}
}

func TestAutoScrub(t *testing.T) {
	d := newScrubDesk(t)
	d.activate(pg1, 0, 0)
	d.lists(pg1, 5)
	d.do(func() { d.h.PlanScrub(pg1, 0) })
	d.w.RunFor(time.Hour)
	if len(d.planned) != 0 {
		t.Errorf("planned without auto_scrub: %v", d.planned)
	}
	begin := d.wall()
	d.setScrub(func(o *Options) { o.Scrub.AutoScrub = true })
	want := []plan{{pg1, begin + uint64(30*day/time.Second)}}
	if !slices.Equal(d.planned, want) {
		t.Errorf("%v, want %v", d.planned, want)
	}
	d.w.RunFor(30*day - time.Minute)
	if d.h.Stats().ScrubbedPGs != 0 {
		t.Error("too early")
	}
	d.w.RunFor(11*time.Minute + 10*time.Second)
	if s := d.h.Stats(); s.ScrubbedPGs != 1 || s.ScrubbedObjects != 5 || d.scrubbing[pg1] || d.held != 0 {
		t.Errorf("%+v, scrubbing %v", s, d.scrubbing)
	}
	if len(d.planned) != 2 || d.planned[1].at < begin+uint64(60*day/time.Second) || d.planned[1].at > begin+uint64(60*day/time.Second)+600 {
		t.Errorf("%v after %d", d.planned, begin)
	}
	d.pool.ScrubInterval = time.Hour
	d.setScrub(func(o *Options) { o.Scrub.AutoScrub = false })
	d.do(func() { d.h.PlanScrub(pg1, 1) }) // by hand, at once
	d.w.RunFor(time.Second)
	if n := len(d.planned); n != 3 || d.planned[2] != (plan{pg1, 0}) || d.h.Stats().ScrubbedPGs != 2 {
		t.Errorf("%v", d.planned)
	}
	d.setScrub(func(o *Options) { o.Scrub.AutoScrub, o.Scrub.Interval = true, 0 })
	d.pool.ScrubInterval = 0
	d.do(func() { d.h.PlanScrub(pg1, 0) }) // no interval: never
	d.pool.ScrubInterval = time.Hour
	d.setScrub(func(o *Options) { o.Scrub.AutoScrub, o.Scrub.Interval = false, 30*day })
	d.w.RunFor(100 * day)
	if d.h.Stats().ScrubbedPGs != 2 {
		t.Error("scrubbed without a plan")
	}
	d.setScrub(func(o *Options) { o.Scrub.AutoScrub = true })
	if p := d.planned[len(d.planned)-1]; p.at != d.wall()+3600 {
		t.Errorf("the pool's interval is not used: %v, now %d", p, d.wall())
	}
}

func TestScrubOrderAndOptions(t *testing.T) {
	d := newScrubDesk(t)
	d.lists(pg1, 100)
	d.setScrub(func(o *Options) { o.Scrub.NoScrub = true })
	for i, pg := range []meta.PG{pg1, pg2, {Pool: 1, Num: 3}} {
		d.activate(pg, 0, 0)
		d.do(func() { d.h.PlanScrub(pg, []uint64{7, 5, 6}[i]) })
	}
	d.w.RunFor(time.Minute)
	if d.pages != 0 || len(d.scrubbing) != 0 {
		t.Error("scrub in spite of no_scrub")
	}
	d.setScrub(func(o *Options) { o.Scrub.NoScrub = false; o.Scrub.Sleep = 10 * time.Millisecond })
	d.w.RunFor(time.Millisecond)
	if d.h.Scrubbing() != pg2 || !d.scrubbing[pg2] {
		t.Errorf("%v is scrubbed first", d.h.Scrubbing())
	}
	d.w.RunFor(200 * time.Millisecond)
	if n := d.h.Stats().ScrubbedObjects; n < 15 || n > 20 {
		t.Errorf("%d objects in 200 ms with pauses of 10 ms", n)
	}
	d.setScrub(func(o *Options) { o.Scrub.NoScrub = true })
	d.w.RunFor(20 * time.Millisecond)
	before := d.h.Stats().ScrubbedObjects
	if d.scrubbing[pg2] {
		t.Error("the flag stays while scrub is off")
	}
	d.w.RunFor(time.Hour)
	if d.h.Stats().ScrubbedObjects != before {
		t.Error("scrub goes on")
	}
	d.setScrub(func(o *Options) { o.Scrub.NoScrub = false; o.Scrub.Sleep = 0 })
	d.w.RunFor(10 * time.Second)
	if s := d.h.Stats(); s.ScrubbedPGs != 3 || s.ScrubbedObjects != 300 || fmt.Sprint(d.planned) != "[{{1 2} 0} {{1 3} 0} {{1 1} 0}]" {
		t.Errorf("%+v %v", s, d.planned)
	}
}

// Scrub waits while objects are recovered.
func TestScrubYields(t *testing.T) {
	d := newScrubDesk(t)
	d.lists(pg1, 1000)
	d.activate(pg1, 0, 0)
	d.do(func() { d.h.PlanScrub(pg1, 1) })
	d.w.RunFor(50 * time.Millisecond)
	d.latency = 50 * time.Millisecond
	d.curSet = []meta.OSDNum{1, 2}
	d.activate(pg2, 30, 0)
	d.w.RunFor(20 * time.Millisecond)
	before := d.h.Stats().ScrubbedObjects
	d.w.RunFor(100 * time.Millisecond)
	if n := d.h.Stats().ScrubbedObjects; n != before || n == 0 {
		t.Errorf("%d objects are scrubbed during recovery", n-before)
	}
	d.w.RunFor(time.Minute)
	if d.h.Stats().ScrubbedPGs != 1 || d.left(pg2) != 0 {
		t.Errorf("%+v", d.h.Stats())
	}
}

// Pages follow each other without a gap; roles of one object are one object.
func TestScrubPages(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 9, 10, 100} {
		d := newScrubDesk(t)
		d.activate(pg1, 0, 0)
		for i := range 3 {
			for role := range meta.Role(3) {
				d.listing = append(d.listing, meta.ObjectVersion{ObjectID: objectN(1, i).WithRole(role), Version: 1 << 16})
			}
		}
		d.setScrub(func(o *Options) { o.Scrub.ListLimit = limit })
		d.do(func() { d.h.PlanScrub(pg1, 1) })
		d.w.RunFor(time.Second)
		// An object at the end of a page is met again: that does no harm.
		if s := d.h.Stats(); s.ScrubbedPGs != 1 || s.ScrubbedObjects < 3 || limit > 8 && s.ScrubbedObjects != 3 {
			t.Errorf("limit %d: %+v", limit, s)
		}
		if want := 9/limit + 1; d.pages != want {
			t.Errorf("limit %d: %d pages, want %d", limit, d.pages, want)
		}
	}
}

// A PG that stops during its scrub goes on where it was.
func TestScrubResumes(t *testing.T) {
	d := newScrubDesk(t)
	d.lists(pg1, 200)
	d.setScrub(func(o *Options) { o.Scrub.QueueDepth, o.Scrub.Sleep, o.Scrub.ListLimit = 4, 4*time.Millisecond, 50 })
	for round := 0; d.h.Stats().ScrubbedPGs == 0; round++ {
		if round > 20 {
			t.Fatalf("never finished: %+v", d.h.Stats())
		}
		d.activate(pg1, 0, 0)
		d.do(func() { d.h.PlanScrub(pg1, 1) })
		d.w.RunFor(20 * time.Millisecond)
		if d.h.Stats().ScrubbedPGs == 0 {
			d.deactivate(pg1)
			d.w.RunFor(20 * time.Millisecond)
		}
	}
	if n := d.h.Stats().ScrubbedObjects; n < 200 || n > 300 {
		t.Errorf("%d objects for 200", n)
	}
	if d.h.jobs.head != nil || d.held != 0 {
		t.Error("not idle")
	}
}

func TestScrubWithoutList(t *testing.T) {
	d := newScrubDesk(t)
	d.lists(pg1, 5)
	d.activate(pg1, 0, 0)
	d.listFails = 3
	d.do(func() { d.h.PlanScrub(pg1, 1) })
	d.w.RunFor(2500 * time.Millisecond)
	if d.h.Stats().ScrubbedPGs != 0 || d.listFails != 0 {
		t.Errorf("%+v, %d", d.h.Stats(), d.listFails)
	}
	d.w.RunFor(time.Second)
	if d.h.Stats().ScrubbedPGs != 1 {
		t.Errorf("%+v", d.h.Stats())
	}
}

func TestStopDuringScrub(t *testing.T) {
	d := newScrubDesk(t)
	d.lists(pg1, 500)
	d.activate(pg1, 0, 0)
	d.do(func() { d.h.PlanScrub(pg1, 1) })
	d.w.RunFor(50 * time.Millisecond)
	d.do(d.h.Stop)
	d.w.RunFor(5 * time.Millisecond)
	before := d.h.Stats().ScrubbedObjects
	d.w.RunFor(time.Minute)
	if s := d.h.Stats(); s.ScrubbedObjects != before || before == 0 || d.held != 0 || d.h.jobs.head != nil {
		t.Errorf("%+v", s)
	}
}

// Where a SCRUB belongs to, and in which order it is checked (wire.md §6.1).
func TestLocate(t *testing.T) {
	d := newScrubDesk(t)
	d.curSet = []meta.OSDNum{1, 2, 3}
	d.pool.ParityChunks, d.pool.PGSize, d.pool.Scheme = 1, 3, meta.EC // objects of 256 KiB
	d.pool.PGStripeBytes = 256 << 10
	d.activate(pg2, 0, 0)
	for i, c := range []struct {
		offset uint64
		len    uint32
		want   wire.Retval
		stripe uint64
	}{
		{256 << 10, 0, wire.OK, 256 << 10},
		{256<<10 + 8192, 4096, wire.OK, 256 << 10},
		{512<<10 - 4096, 4096, wire.OK, 256 << 10},
		{512<<10 - 4096, 8192, wire.EINVAL, 0},
		{256<<10 + 1, 0, wire.EINVAL, 0},
		{1, 0, wire.EINVAL, 0},
		{256 << 10, 1, wire.EINVAL, 0},
		{256 << 10, 65 << 20, wire.EINVAL, 0},
		{0, 0, wire.EPIPE, 0}, // another PG
		{5*256<<10 + 4096, 0, wire.OK, 5 * 256 << 10},
	} {
		_, id, ret := d.h.locate(&wire.Rw{Inode: meta.MakeInode(1, 5), Offset: c.offset, Len: c.len})
		if ret != c.want || ret == wire.OK && id != (meta.ObjectID{Inode: meta.MakeInode(1, 5), Stripe: c.stripe}) {
			t.Errorf("row %d: %v %v", i, id, ret)
		}
	}
	d.h.Stop()
	if _, _, ret := d.h.locate(&wire.Rw{Inode: meta.MakeInode(1, 5), Offset: 256 << 10}); ret != wire.EPIPE {
		t.Error("served after Stop:", ret)
	}
}
