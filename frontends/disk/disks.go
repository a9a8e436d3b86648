package disk

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// diskState is what is known about a whole disk before it is prepared.
type diskState struct {
	path   string
	hdd    bool
	bytes  uint64
	table  *table   // nil = none yet
	osds   int      // partitions with a data superblock
	empty  []string // partitions of our type without content
	others uint64   // bytes of partitions that are not ours
	parts  int      // partitions of our type
}

// diskPlan is what will be done with a disk.
type diskPlan struct {
	disk  *diskState
	reuse []string  // partitions
	parts []newPart // partitions to be made
	skip  string    // why nothing is done
}

// count is the number of new OSDs.
func (p *diskPlan) count() int { return len(p.reuse) + len(p.parts) }

// plan decides about one disk (spec cli.md §3.4 automatic mode, step 3).
func (d *diskState) plan(perDisk int, maxOther float64) diskPlan {
	p := diskPlan{disk: d}
	want := perDisk - d.osds
	if want <= 0 {
		p.skip = fmt.Sprintf("already has %d OSDs", d.osds)
		return p
	}
	if float64(d.others) > maxOther*float64(d.bytes) {
		p.skip = fmt.Sprintf("%s of its %s belong to partitions of others: raise --max_other if it shall be used nevertheless",
			humanBytes(d.others), humanBytes(d.bytes))
		return p
	}
	p.reuse = d.empty[:min(want, len(d.empty))]
	if want -= len(p.reuse); want > 0 {
		x := d.table
		if x == nil {
			x = emptyTable(d.bytes)
		}
		p.parts = x.split(want)
	}
	if p.count() == 0 {
		p.skip = "no free space for a partition"
	}
	return p
}

// inspectDisk finds out what is on a whole disk; an error says why it is not
// used.
func (t *Tool) inspectDisk(path string) (*diskState, error) {
	n, err := findNode(path)
	switch {
	case err != nil:
		return nil, err
	case n.File || !strings.HasPrefix(n.Path, "/dev/"):
		return nil, fmt.Errorf("%s: not a disk: use --data_device for files", path)
	case n.Partition != 0:
		return nil, fmt.Errorf("%s: is a partition: use --data_device for partitions", path)
	}
	d := &diskState{path: n.Path, hdd: n.Rotational()}
	dev, err := openDevice(n.Path, access{cached: t.cached})
	if err != nil {
		return nil, err
	}
	found, err := dev.Look()
	d.bytes = dev.Bytes()
	dev.Close()
	if err != nil {
		return nil, err
	}
	if d.table, err = t.readTable(n.Path); err != nil {
		return nil, err
	}
	if d.table == nil {
		return d, t.mustBeEmpty(n, found)
	}
	return d, t.inspectPartitions(d)
}

// mustBeEmpty accepts a disk without partition table only if nothing else is
// on it.
func (t *Tool) mustBeEmpty(n *node, found Content) (err error) {
	if why := n.busy(); why != "" {
		return fmt.Errorf("%s: %s", n.Path, why)
	}
	if strings.HasPrefix(found.What, "unknown data") && t.force {
		t.note("warning: %s: overwriting %s", n.Path, found.What)
		found.What = ""
	}
	if found.What == "" {
		if found.What, err = t.wipefs(n.Path); err != nil {
			return err
		}
	}
	if found.What != "" {
		return fmt.Errorf("%s: has %s: if it is not needed any more, run wipefs -a %s (unknown data: use --force)", n.Path, found.What, n.Path)
	}
	return nil
}

func (t *Tool) inspectPartitions(d *diskState) error {
	for _, p := range d.table.Parts {
		if !p.ours() {
			d.others += p.Size * d.table.SectorBytes
			continue
		}
		d.parts++
		dev, err := openDevice(p.Node, access{cached: t.cached})
		if err != nil {
			return err
		}
		_, role, sbErr := dev.superblock(false)
		found, err := dev.Look()
		dev.Close()
		switch {
		case err != nil:
			return err
		case sbErr == nil && role == "data":
			d.osds++
		case sbErr != nil && (found.What == "" || strings.HasPrefix(found.What, "unknown data")):
			d.empty = append(d.empty, p.Node)
		}
	}
	return nil
}

// prepareDisks is the automatic mode of prepare.
func (t *Tool) prepareDisks(job prepareJob, paths []string, hybrid, dryRun bool) error {
	perDisk, maxOther, err := diskLimits(job.options)
	if err != nil {
		return err
	}
	var fastPaths []string
	if v := job.options.Text("fast_devices"); v != "" {
		fastPaths = strings.Split(v, ",")
	}
	data, fast := t.inspectDisks(paths), t.inspectDisks(fastPaths)
	if len(data) == 0 {
		return fmt.Errorf("none of the devices can be used")
	}
	if hybrid && len(fastPaths) == 0 {
		fast = slices.DeleteFunc(slices.Clone(data), func(d *diskState) bool { return d.hdd })
		data = slices.DeleteFunc(data, func(d *diskState) bool { return !d.hdd })
		if len(fast) == 0 || len(data) == 0 {
			return fmt.Errorf("--hybrid needs at least one hard disk and one SSD: %d and %d of the given disks can be used", len(data), len(fast))
		}
	}
	if len(fastPaths) > 0 && len(fast) == 0 {
		return fmt.Errorf("none of the fast devices can be used")
	}
	run := &diskRun{t: t, job: job, fast: fast, hybrid: len(fast) > 0}
	for _, d := range data {
		p := d.plan(perDisk, maxOther)
		if p.skip != "" {
			t.note("%s: skipped: %s", d.path, p.skip)
			continue
		}
		run.plans = append(run.plans, p)
	}
	if dryRun {
		run.show()
		return nil
	}
	if len(run.plans) == 0 {
		t.note("nothing to do")
	}
	return run.all()
}

func diskLimits(o layout.Options) (perDisk int, maxOther float64, err error) {
	perDisk, maxOther = 1, 0.1
	if v := o.Text("osd_per_disk"); v != "" {
		if perDisk, err = strconv.Atoi(v); err != nil || perDisk < 1 || perDisk > 64 {
			return 0, 0, fmt.Errorf("osd_per_disk is %q, must be 1..64", v)
		}
	}
	if v := o.Text("max_other"); v != "" {
		percent, err := strconv.ParseFloat(strings.TrimSuffix(v, "%"), 64)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return 0, 0, fmt.Errorf("max_other is %q, must be a percentage like 10%%", v)
		}
		maxOther = percent / 100
	}
	if o.Text("osd_num") != "" {
		return 0, 0, fmt.Errorf("osd_num can only be given together with data_device")
	}
	return perDisk, maxOther, nil
}

// inspectDisks leaves out duplicates and what cannot be used.
func (t *Tool) inspectDisks(paths []string) (list []*diskState) {
	for _, path := range paths {
		d, err := t.inspectDisk(path)
		if err != nil {
			t.note("%v: skipped", err)
			continue
		}
		if !slices.ContainsFunc(list, func(e *diskState) bool { return e.path == d.path }) {
			list = append(list, d)
		}
	}
	return list
}

// diskRun makes the OSDs of an automatic run.
type diskRun struct {
	t      *Tool
	job    prepareJob
	plans  []diskPlan
	fast   []*diskState
	hybrid bool

	osds, failed []any
}

func (r *diskRun) show() {
	devices := []any{}
	for _, p := range r.plans {
		if !r.t.json {
			r.t.print("Will initialize %d OSD(s) on %s", p.count(), p.disk.path)
		}
		devices = append(devices, map[string]any{"device_path": p.disk.path, "new_osd_count": p.count()})
	}
	if r.t.json {
		r.t.printJSON(map[string]any{"devices": devices})
	}
}

// all works through the plans; a failure of one OSD does not stop the others.
func (r *diskRun) all() error {
	r.osds, r.failed = []any{}, []any{}
	for _, p := range r.plans {
		names := slices.Clone(p.reuse)
		if len(p.parts) > 0 {
			made, err := r.t.makePartitions(p.disk.path, p.disk.table, p.parts)
			if err != nil {
				r.fail(err, layout.Options{"data_device": p.disk.path})
			}
			names = append(names, made...)
		}
		for _, name := range names {
			r.one(name, p.disk.hdd || r.job.hdd)
		}
	}
	if r.t.json {
		r.t.printJSON(map[string]any{"errors": r.failed, "osds": r.osds})
	}
	if len(r.failed) > 0 {
		return errReported
	}
	return nil
}

func (r *diskRun) fail(err error, o layout.Options) {
	r.t.note("%v", err)
	r.failed = append(r.failed, map[string]any(o))
}

// one makes one OSD on a partition.
func (r *diskRun) one(data string, hdd bool) {
	o := maps.Clone(r.job.options)
	o["data_device"] = data
	if r.hybrid {
		if err := r.addFast(o, hdd); err != nil {
			r.fail(err, o)
			return
		}
	}
	made, err := r.t.prepareOSD(prepareJob{options: o, hdd: hdd, force: true})
	if err != nil {
		r.fail(err, o)
		return
	}
	r.osds = append(r.osds, map[string]any(made))
	if !r.t.json {
		r.t.print("OSD %d is prepared on %s", made.OSDNum(), made.Text("data_device"))
	}
	if err := r.t.startNew(made); err != nil {
		r.fail(err, made)
	}
}

// addFast makes the metadata and buffer partitions of a hybrid OSD on the fast
// disk which has room and the fewest partitions of OSDs.
func (r *diskRun) addFast(o layout.Options, hdd bool) error {
	metaBytes, bufferBytes, err := r.fastSizes(o, hdd)
	if err != nil {
		return err
	}
	var best *diskState
	var parts []newPart
	for _, d := range r.fast {
		x := d.table
		if x == nil {
			x = emptyTable(d.bytes)
		}
		if room := x.place(bufferBytes, metaBytes); room != nil && (best == nil || d.parts < best.parts) {
			best, parts = d, room
		}
	}
	if best == nil {
		return fmt.Errorf("%s: no fast device has %s for its metadata and buffer", o.Text("data_device"), humanBytes(metaBytes+bufferBytes))
	}
	names, err := r.t.makePartitions(best.path, best.table, parts)
	if err != nil {
		return err
	}
	o["journal_device"], o["meta_device"] = names[0], names[1]
	best.parts += 2
	best.table, err = r.t.readTable(best.path)
	return err
}

// fastSizes are the sizes of the two partitions on the fast device (spec
// ondisk.md §1.3).
func (r *diskRun) fastSizes(o layout.Options, hdd bool) (metaBytes, bufferBytes uint64, err error) {
	dev, err := openDevice(o.Text("data_device"), access{cached: r.t.cached})
	if err != nil {
		return 0, 0, err
	}
	dataBytes := dev.Bytes()
	dev.Close()
	journal := "1G"
	if !hdd {
		journal = "128M"
	}
	if v := o.Text("journal_size"); v != "" {
		journal = v
	}
	if bufferBytes, err = sizeArgument("journal_size", journal); err != nil {
		return 0, 0, err
	}
	// The buffer area begins behind the superblock of its partition.
	bufferBytes = (bufferBytes + mib - 1) / mib * mib
	filled := layout.Options{}
	if err = fillOptions(filled, o, noSync{true, true, true}, hdd, hdd); err != nil {
		return 0, 0, err
	}
	g, err := geometryOf(filled)
	if err != nil {
		return 0, 0, err
	}
	delete(o, "journal_size")
	blocks := (dataBytes - min(dataBytes, layout.SuperblockBytes)) / uint64(g.BlockBytes)
	return (layout.HybridMetaBytes(g.MinMetaBytes(blocks)) + mib - 1) / mib * mib, bufferBytes, nil
}

// geometryOf reads the sizes of a store without knowing its devices.
func geometryOf(o layout.Options) (layout.Geometry, error) {
	var g layout.Geometry
	for _, f := range []struct {
		key    string
		absent uint64
		into   *uint32
	}{{"block_size", 128 << 10, &g.BlockBytes}, {"bitmap_granularity", 4096, &g.GranuleBytes}, {"meta_block_size", 4096, &g.MetaBlockBytes}} {
		v, err := o.Size(f.key, f.absent)
		if err != nil {
			return g, err
		}
		*f.into = uint32(min(v, 1<<31))
	}
	if o.Text("data_csum_type") == "crc32c" {
		v, err := o.Size("csum_block_size", uint64(g.GranuleBytes))
		if err != nil {
			return g, err
		}
		g.CsumBytes = uint32(min(v, 1<<31))
	}
	return g.Complete()
}

// osdNumbers are the numbers of a list of OSDs as JSON values.
func osdNumbers(list []meta.OSDNum) []any {
	out := make([]any, len(list))
	for i, n := range list {
		out[i] = uint64(n)
	}
	return out
}
