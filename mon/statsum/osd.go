package statsum

import (
	"maps"
	"math"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// osd is one OSD and what of its reports is in the sums.
type osd struct {
	num   meta.OSDNum
	up    bool // osd/state exists: whatever it says, like for reference monitors
	host  string
	stats *schema.OSDStats // the last report; never modified

	// The last report that rates were derived at.
	base  *schema.OSDStats
	rates osdRates

	// In the sums of inodes: space, and while counted also io.
	space   []schema.InodeBytes
	io      []inodeIO
	counted bool

	// News that are not in the sums yet.
	touched  bool
	newSpace []schema.InodeBytes
	newIO    []schema.InodeIO
	hasSpace bool
	hasIO    bool
}

// osdRates are counters of an OSD together with derived rates.
type osdRates struct {
	ops, subops, recovery map[string]schema.Counters
}

// inodeIO is one inode's operations at one OSD.
type inodeIO struct {
	inode meta.Inode
	ops   [3]opSum // read, write, delete
}

// opSum is counters with rates, which add up over OSDs.
type opSum struct {
	count, usec, bytes uint64
	bps, iops          uint64
	weighted           uint64 // latency times iops: the mean is weighted by iops
}

func (a *opSum) add(b *opSum) {
	a.count += b.count
	a.usec += b.usec
	a.bytes += b.bytes
	a.bps += b.bps
	a.iops += b.iops
	a.weighted += b.weighted
}

func (a *opSum) sub(b *opSum) {
	a.count -= b.count
	a.usec -= b.usec
	a.bytes -= b.bytes
	a.bps -= b.bps
	a.iops -= b.iops
	a.weighted -= b.weighted
}

func (a *opSum) counters() schema.Counters {
	c := schema.Counters{Count: a.count, Usec: a.usec, Bytes: a.bytes, BPS: a.bps, IOPS: a.iops}
	if a.iops > 0 {
		c.LatUsec = a.weighted / a.iops
	}
	return c
}

func sumOf(c *schema.Counters) opSum {
	return opSum{c.Count, c.Usec, c.Bytes, c.BPS, c.IOPS, product(c.LatUsec, c.IOPS)}
}

// product saturates far below overflow, so that sums over OSDs do not wrap
// because of one absurd report.
func product(a, b uint64) uint64 {
	const most = math.MaxUint64 >> 20
	if b != 0 && a > most/b {
		return most
	}
	return a * b
}

func (s *Sums) osd(n meta.OSDNum) *osd {
	o := s.osds[n]
	if o == nil {
		o = &osd{num: n}
		s.osds[n] = o
	}
	return o
}

func (s *Sums) sortedOSDs() []*osd {
	list := make([]*osd, 0, len(s.osds))
	for _, n := range slices.Sorted(maps.Keys(s.osds)) {
		list = append(list, s.osds[n])
	}
	return list
}

func (s *Sums) applyOSD(kv *env.KeyValue, k schema.Key) (err error) {
	o := s.osd(k.OSD)
	if !o.touched {
		o.touched = true
		s.touched = append(s.touched, o)
	}
	switch k.Kind {
	case schema.KindOSDState:
		var state schema.OSDState
		state, err = schema.DecodeOSDState(kv.Key, kv.Value)
		o.up = kv.Value != nil
		if state.Host != "" {
			o.host = state.Host
		}
	case schema.KindOSDStats:
		o.stats = nil
		if kv.Value != nil {
			var stats schema.OSDStats
			stats, err = schema.DecodeOSDStats(kv.Key, kv.Value)
			o.stats = &stats
		}
	case schema.KindOSDSpace:
		o.newSpace, err = schema.DecodeOSDSpace(kv.Key, kv.Value)
		o.hasSpace = true
	case schema.KindInodeIO:
		o.newIO, err = schema.DecodeInodeIO(kv.Key, kv.Value)
		o.hasIO = true
	}
	return err
}

// refresh brings the sums up to date with all reports.
func (s *Sums) refresh() {
	for _, o := range s.touched {
		o.touched = false
		s.refreshOSD(o)
		if o.stats == nil && !o.up && len(o.space) == 0 && len(o.io) == 0 && !o.hasIO {
			delete(s.osds, o.num)
		}
	}
	if len(s.touched) > 0 {
		s.changed = true
	}
	clear(s.touched)
	s.touched = s.touched[:0]
}

func (s *Sums) refreshOSD(o *osd) {
	if o.hasSpace {
		s.replaceSpace(o, o.newSpace)
		o.newSpace, o.hasSpace = nil, false
	}
	if o.stats == nil { // removed from the cluster
		o.base, o.rates = nil, osdRates{}
		io := o.io
		if o.hasIO {
			io = rated(o.newIO, nil, 0)
			o.newIO, o.hasIO = nil, false
		}
		s.replaceIO(o, io, false)
		return
	}
	var millis uint64 // between the reports, 0 = no rates
	fresh := o.base == nil || o.stats.TimeMillis == 0 || o.stats.TimeMillis != o.base.TimeMillis
	if o.base != nil && o.stats.TimeMillis > o.base.TimeMillis && o.base.TimeMillis != 0 {
		millis = o.stats.TimeMillis - o.base.TimeMillis
	}
	io := o.io
	if fresh {
		o.derive(millis)
		if o.hasIO {
			io = rated(o.newIO, o.io, millis)
			o.newIO, o.hasIO = nil, false
		}
	}
	s.replaceIO(o, io, o.up)
}

// derive takes the last report as the new base.
func (o *osd) derive(millis uint64) {
	base := o.base
	if base == nil {
		base = &schema.OSDStats{}
	}
	o.rates = osdRates{
		ops:      deriveAll(base.Ops, o.stats.Ops, millis),
		subops:   deriveAll(base.Subops, o.stats.Subops, millis),
		recovery: deriveAll(base.Recovery, o.stats.Recovery, millis),
	}
	o.base = o.stats
}

func deriveAll(before, now map[string]schema.Counters, millis uint64) map[string]schema.Counters {
	all := make(map[string]schema.Counters, len(now))
	for name, c := range now {
		c.BPS, c.IOPS, c.LatUsec = rates(before[name], c, millis)
		all[name] = c
	}
	return all
}

// rates are those of monitor.md 7.1; all 0 when nothing was done or the OSD has
// started anew.
func rates(before, now schema.Counters, millis uint64) (bps, iops, lat uint64) {
	if millis == 0 || now.Count <= before.Count {
		return 0, 0, 0
	}
	perSecond := func(n uint64) uint64 {
		if n > math.MaxUint64/1000 {
			return n / millis * 1000
		}
		return n * 1000 / millis
	}
	n := now.Count - before.Count
	if now.Bytes > before.Bytes {
		bps = perSecond(now.Bytes - before.Bytes)
	}
	if now.Usec > before.Usec {
		lat = (now.Usec - before.Usec) / n
	}
	return bps, perSecond(n), lat
}

// rated derives the rates of inodes; both lists ascend. An inode that is new in
// a report has started from 0, as OSDs forget counters with the inode.
func rated(now []schema.InodeIO, before []inodeIO, millis uint64) []inodeIO {
	out := make([]inodeIO, len(now))
	for i := range now {
		n := &now[i]
		for len(before) > 0 && before[0].inode < n.Inode {
			before = before[1:]
		}
		var old [3]opSum
		if len(before) > 0 && before[0].inode == n.Inode {
			old = before[0].ops
		}
		out[i].inode = n.Inode
		for j, c := range []schema.Counters{n.Read, n.Write, n.Delete} {
			c.BPS, c.IOPS, c.LatUsec = rates(old[j].counters(), c, millis)
			out[i].ops[j] = sumOf(&c)
		}
	}
	return out
}
