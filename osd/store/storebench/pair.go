package storebench

import (
	"fmt"
	"slices"
	"time"

	"vitastor/osd/store"
)

// runJob opens the store as the job wants it and measures its rounds: the
// store and the bare disk by turns, the first one changing.
func (r *rig) runJob(j Job) (Result, error) {
	res := Result{Job: j}
	if err := r.openStore(j.IntentDepth); err != nil {
		return res, err
	}
	ours := newDriver(&target{r: r, store: true, bytes: r.o.DataSetBytes}, j)
	raw := newDriver(&target{r: r, from: r.rawFrom, bytes: r.o.DataSetBytes}, j)
	ours.time, raw.time = r.o.RoundTime, r.o.RoundTime
	var rounds rounds
	for i := range r.o.Rounds + 1 {
		order := []*driver{ours, raw}
		if i%2 == 1 {
			order = []*driver{raw, ours}
		}
		for _, d := range order {
			if o := r.o.Only; o == StoreSide && d == raw || o == RawSide && d == ours {
				continue
			}
			if err := r.segment(d, &res, i > 0); err != nil {
				return res, err
			}
		}
		if i > 0 {
			rounds.add(ours.figures(), raw.figures())
		}
	}
	rounds.into(&res)
	res.average()
	return res, r.closeStore()
}

// segment runs one side for a while, and counts it if it is the store's and
// not of the round that warms up.
func (r *rig) segment(d *driver, res *Result, counts bool) error {
	disk, s := r.counted.n, store.Counters{}
	if d.t.store {
		s = r.s.Counters()
	}
	if err := call(r.l, d.start); err != nil {
		return err
	}
	if d.ops == 0 {
		return fmt.Errorf("no operation finished within %v", d.time)
	}
	if !d.t.store {
		return nil
	}
	now := r.s.Counters()
	disk = r.counted.n.minus(disk)
	if err := agree(disk, s, now); err != nil {
		return err
	}
	if !counts {
		return nil
	}
	res.Ops += d.ops
	res.UserBytes += int64(d.ops) * int64(d.job.Bytes)
	if d.job.Write {
		res.DiskBytes += disk.writeBytes
	} else {
		res.DiskBytes += disk.readBytes
	}
	res.MetaPerOp += float64(now.MetaWrites - s.MetaWrites)
	res.CompactPerOp += float64(now.Compactions - s.Compactions)
	res.AllocsPerOp += float64(d.spent.mallocs)
	res.Buffered += float64(now.SmallWrites - s.SmallWrites)
	res.Intent += float64(now.IntentWrites - s.IntentWrites)
	res.Big += float64(now.BigWrites - s.BigWrites)
	return nil
}

// agree compares what the disk was given with what the store says it gave.
func agree(disk diskCount, from, to store.Counters) error {
	bytes := func(c store.Counters) int64 {
		return int64(c.DataWriteBytes + c.BufferWriteBytes + c.MetaWriteBytes + c.CompactWriteBytes +
			c.SuperblockWrites*metaBlockBytes)
	}
	writes := func(c store.Counters) int64 {
		return int64(c.DataWrites + c.BufferWrites + c.MetaWrites + c.CompactWrites + c.SuperblockWrites)
	}
	if n := bytes(to) - bytes(from); n != disk.writeBytes {
		return fmt.Errorf("the store counts %d bytes written, the disk was given %d", n, disk.writeBytes)
	}
	if n := writes(to) - writes(from); n != disk.writes {
		return fmt.Errorf("the store counts %d writes, the disk was given %d", n, disk.writes)
	}
	if n := int64(to.DiskSyncs - from.DiskSyncs); n != disk.syncs {
		return fmt.Errorf("the store counts %d syncs, the disk was given %d", n, disk.syncs)
	}
	return nil
}

// average turns the sums of all segments into figures per operation and byte.
func (res *Result) average() {
	res.Amplification = float64(res.DiskBytes) / float64(res.UserBytes)
	for _, v := range []*float64{&res.MetaPerOp, &res.CompactPerOp, &res.AllocsPerOp, &res.Buffered, &res.Intent, &res.Big} {
		*v /= float64(res.Ops)
	}
}

// figures are those of the segment that is over.
func (d *driver) figures() Figures {
	slices.Sort(d.latency)
	return Figures{
		IOPS: float64(d.ops) / max(d.spent.elapsed.Seconds(), 1e-9),
		P50:  percentile(d.latency, 50), P99: percentile(d.latency, 99),
		CPU: d.spent.cpu / time.Duration(max(d.ops, 1)),
	}
}

func percentile(sorted []uint32, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return time.Duration(sorted[len(sorted)*p/100])
}

// rounds collects the figures of pairs.
type rounds struct {
	ours, raw           []Figures
	p50, p99, cpu, iops []float64
}

func (x *rounds) add(ours, raw Figures) {
	x.ours, x.raw = append(x.ours, ours), append(x.raw, raw)
	x.p50 = append(x.p50, ratio(ours.P50, raw.P50))
	x.p99 = append(x.p99, ratio(ours.P99, raw.P99))
	x.cpu = append(x.cpu, ratio(ours.CPU, raw.CPU))
	x.iops = append(x.iops, ours.IOPS/raw.IOPS)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

func (x *rounds) into(res *Result) {
	res.Store, res.Raw = medians(x.ours), medians(x.raw)
	res.P50Ratio, res.P99Ratio = median(x.p50), median(x.p99)
	res.CPURatio, res.IOPSRatio = median(x.cpu), median(x.iops)
}

func medians(all []Figures) (f Figures) {
	var iops, p50, p99, cpu []float64
	for _, x := range all {
		iops, cpu = append(iops, x.IOPS), append(cpu, float64(x.CPU))
		p50, p99 = append(p50, float64(x.P50)), append(p99, float64(x.P99))
	}
	return Figures{median(iops), time.Duration(median(p50)), time.Duration(median(p99)), time.Duration(median(cpu))}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
