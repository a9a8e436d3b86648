package disk

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

func (t *Tool) resizeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resize [OPTIONS] OSD|DEV", Short: "Move or resize the areas of a stopped OSD",
		Long: `Changes the data size of a stopped OSD, or moves its buffer ("journal") or metadata to another device.
TARGET is an empty partition or file, a disk on which a partition is made, or "" for the end of the data device.
It may be interrupted at any moment: the OSD starts with the old or the new layout, and the command can be repeated.
The data area always begins where it is: space in front of it that becomes free is not used.`,
		Example: examples("vitastor-disk resize --data_size max 1", "vitastor-disk resize --data_size 900G 1",
			"vitastor-disk resize --move_journal /dev/nvme0n1p3 1", `vitastor-disk resize --move_journal "" --journal_size 256M 1`,
			"vitastor-disk resize --dry_run --move_meta /dev/nvme0n1p4 1"),
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().Bool("dry_run", false, "only show the new parameters")
	textOptions(cmd, []textOption{{"move_journal", "TARGET for the buffer area"}, {"move_meta", "TARGET for the metadata area"},
		{"journal_size", "size of the buffer area at its new place"}, {"data_size", "length of the data area, or max"}})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := given(cmd)
		if len(o) == 0 {
			return fmt.Errorf("nothing to do: give move_journal, move_meta, journal_size or data_size")
		}
		return t.resize(osdDevice(args[0]), o, flag(cmd, "dry_run"))
	}
	return cmd
}

// resizing is one run. Everything is arranged around one switch: the write of
// the superblock of the data device. Until then only free space and new
// devices are written (blocks that leave the data area are copied first, then
// their entries are changed one metadata block at a time), so the old layout
// stays complete; after it, the new one is.
type resizing struct {
	t        *Tool
	old      *OSD
	to       *OSD                                 // with the new parameters; devices are shared
	meta     *layout.Area                         // new place of the metadata, nil = stays
	buffer   *layout.Area                         // new place of the buffer area, nil = stays
	taken    []*target                            // new devices
	relocate map[*byte]layout.BlockNum            // live BIG entries that leave the data area
	flag     map[*byte]bool                       // overwritten entries that would not fit
	entries  map[uint32][]layout.Located          // to be changed, by metadata block
	moves    []struct{ from, to layout.BlockNum } // copies of blocks
}

func (t *Tool) resize(path string, want layout.Options, dryRun bool) error {
	s, err := t.openOSD(path, access{write: true, lock: true, exclusive: true})
	if err != nil {
		return err
	}
	defer s.Close()
	r := &resizing{t: t, old: s}
	defer func() {
		for _, x := range r.taken {
			x.Close()
		}
	}()
	if err := r.decide(want, dryRun); err != nil {
		return err
	}
	if err := r.inspect(); err != nil {
		return err
	}
	if !dryRun {
		if err := r.run(); err != nil {
			return err
		}
	}
	if t.json {
		t.printJSON(map[string]any{"new_sb_params": map[string]any(r.to.Options)})
		return nil
	}
	verb := "has"
	if dryRun {
		verb = "would have"
	}
	p := r.to.Params
	t.print("OSD %d %s %s of data at %d, %s of metadata at %d of %s, %s of buffer at %d of %s", p.OSDNum, verb,
		humanBytes(p.Data.Bytes), p.Data.Offset, humanBytes(p.Meta.Bytes), p.Meta.Offset, p.MetaDevice, humanBytes(p.Buffer.Bytes), p.Buffer.Offset, p.BufferDevice)
	return nil
}

// decide makes the new parameters.
func (r *resizing) decide(want layout.Options, dryRun bool) error {
	s := r.old
	r.to = &OSD{Options: maps.Clone(s.Options), Data: s.Data, Meta: s.Meta, Buffer: s.Buffer}
	o := r.to.Options
	if v := want.Text("data_size"); v != "" {
		n := uint64(0)
		if v != "max" {
			var err error
			if n, err = sizeArgument("data_size", v); err != nil {
				return err
			}
		}
		o["data_size"] = json.Number(strconv.FormatUint(n, 10))
	}
	bufferBytes, err := want.Size("journal_size", s.Params.Buffer.Bytes)
	if err != nil {
		return err
	}
	tail := r.freeTail()
	_, moveJournal := want["move_journal"]
	if _, sized := want["journal_size"]; moveJournal || sized {
		if err := r.place("journal", want.Text("move_journal"), moveJournal, bufferBytes, &tail, dryRun); err != nil {
			return err
		}
	}
	if _, move := want["move_meta"]; move {
		if err := r.place("meta", want.Text("move_meta"), true, s.Params.Meta.Bytes, &tail, dryRun); err != nil {
			return err
		}
	}
	r.nameDevices()
	return r.derive()
}

// freeTail is where areas at the end of the data device may end: in front of
// those that are there already.
func (r *resizing) freeTail() uint64 {
	s := r.old
	tail := s.Data.Bytes()
	for _, a := range []struct {
		d    *Device
		area layout.Area
	}{{s.Meta, s.Params.Meta}, {s.Buffer, s.Params.Buffer}} {
		if a.d == s.Data && a.area.Offset > s.Params.Data.Offset {
			tail = min(tail, a.area.Offset)
		}
	}
	return tail / defaultUnit * defaultUnit
}

// defaultUnit is the alignment of areas.
const defaultUnit = 4096

// place chooses where the metadata or buffer area goes.
func (r *resizing) place(area, targetPath string, moved bool, bytes uint64, tail *uint64, dryRun bool) error {
	o, s := r.to.Options, r.old
	dev, current := &r.to.Buffer, s.Buffer
	if area == "meta" {
		dev, current = &r.to.Meta, s.Meta
	}
	at := layout.Area{Offset: layout.SuperblockBytes}
	if targetPath == "" {
		if !moved && current != s.Data {
			return fmt.Errorf("%s: the buffer area has its own device and uses all of it: change the partition, or use move_journal", current.Path)
		}
		bytes = bytes / defaultUnit * defaultUnit
		if bytes >= *tail {
			return fmt.Errorf("%s: has no room for %s", s.Data.Path, humanBytes(bytes))
		}
		*tail -= bytes
		at.Offset, *dev = *tail, s.Data
	} else {
		x, err := r.take(targetPath, area, bytes, dryRun)
		if err != nil {
			return err
		}
		*dev = x
	}
	o[area+"_offset"] = json.Number(strconv.FormatUint(at.Offset, 10))
	if area == "meta" {
		r.meta = &at
		return nil
	}
	delete(o, "journal_size")
	if targetPath == "" {
		o["journal_size"] = json.Number(strconv.FormatUint(bytes, 10))
	}
	r.buffer = &at
	return nil
}

// take opens a new device for an area.
func (r *resizing) take(path, area string, bytes uint64, dryRun bool) (*Device, error) {
	t := r.t
	n, err := findNode(path)
	if err != nil {
		return nil, err
	}
	if data, err := findNode(r.old.Data.Path); err == nil && !n.File && n.Disk == data.Disk && !t.force {
		return nil, fmt.Errorf("%s: is on the same disk as the data: use --force if that is wanted", path)
	}
	for _, d := range append(r.old.devices, r.newDevices()...) {
		if d.Real == n.Path {
			return nil, fmt.Errorf("%s: is already a device of this OSD: give another one, or \"\" for the data device", path)
		}
	}
	if !n.File && n.Partition == 0 {
		if path, err = r.carve(path, area, bytes, dryRun); err != nil {
			return nil, err
		}
	}
	x, err := t.takeTarget(path, t.force)
	if err != nil {
		return nil, err
	}
	r.taken = append(r.taken, x)
	x.Path = x.stable
	if off, _ := r.old.Options.Flag("disable_" + area + "_fsync"); off && !x.node.File && !t.noFsync(x.node) && !t.force {
		return nil, fmt.Errorf("%s: has a volatile write cache, but the OSD runs without fsync: switch the cache off, or use --force if it is protected against power loss", path)
	}
	return x.Device, nil
}

func (r *resizing) newDevices() (list []*Device) {
	for _, x := range r.taken {
		list = append(list, x.Device)
	}
	return list
}

// carve makes a partition on a whole disk.
func (r *resizing) carve(path, area string, bytes uint64, dryRun bool) (string, error) {
	if dryRun {
		return "", fmt.Errorf("%s: a partition of %s would be made there; a dry run cannot show more", path, humanBytes(bytes))
	}
	d, err := r.t.inspectDisk(path)
	if err != nil {
		return "", err
	}
	x := d.table
	if x == nil {
		x = emptyTable(d.bytes)
	}
	size := (bytes + layout.SuperblockBytes + mib - 1) / mib * mib
	parts := x.place(size)
	if parts == nil {
		return "", fmt.Errorf("%s: has no room for a partition of %s for %s", path, humanBytes(size), area)
	}
	names, err := r.t.makePartitions(d.path, d.table, parts)
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// nameDevices writes the names of the devices as superblocks have them.
func (r *resizing) nameDevices() {
	o, s := r.to.Options, r.old
	name := func(d *Device) string {
		data, metadata, buffer := s.Options.Devices()
		switch d {
		case s.Data:
			return data
		case s.Meta:
			return metadata
		case s.Buffer:
			return buffer
		}
		return d.Path
	}
	o["meta_device"], o["journal_device"] = "", ""
	if r.to.Meta != r.to.Data {
		o["meta_device"] = name(r.to.Meta)
	}
	if r.to.Buffer != r.to.Meta {
		o["journal_device"] = name(r.to.Buffer)
	}
}

// derive computes the new areas and checks them against the old ones.
func (r *resizing) derive() (err error) {
	s, o := r.old, r.to.Options
	if r.buffer == nil && o.Text("journal_size") == "" {
		// A neighbour that moves away must not make the area grow.
		o["journal_size"] = json.Number(strconv.FormatUint(s.Params.Buffer.Bytes, 10))
		defer func() {
			if err == nil && sameWithout(o, r.to, s.Params) {
				delete(o, "journal_size")
			}
		}()
	}
	p, err := layout.NewParams(o, deviceBytes(r.to))
	if err != nil {
		return fmt.Errorf("%s: %w", s.Data.Path, err)
	}
	r.to.Params = p
	if r.meta == nil && p.Meta != s.Params.Meta {
		return fmt.Errorf("%s: the metadata area would change from %d to %d bytes without being moved: move it too (move_meta)", s.Data.Path, s.Params.Meta.Bytes, p.Meta.Bytes)
	}
	if r.buffer == nil && p.Buffer != s.Params.Buffer {
		return fmt.Errorf("%s: the buffer area would change from %d to %d bytes without being moved: move it too (move_journal)", s.Data.Path, s.Params.Buffer.Bytes, p.Buffer.Bytes)
	}
	if r.meta != nil {
		r.meta = &p.Meta
	}
	if r.buffer != nil {
		r.buffer = &p.Buffer
	}
	for _, a := range []*layout.Area{r.meta, r.buffer} {
		if a != nil && r.overlapsOld(a, a == r.meta) {
			return fmt.Errorf("%s: the new place at %d overlaps the metadata or buffer area in use: move it to another device first, and then back", s.Data.Path, a.Offset)
		}
	}
	return nil
}

func deviceBytes(s *OSD) layout.DeviceBytes {
	return layout.DeviceBytes{Data: s.Data.Bytes(), Meta: s.Meta.Bytes(), Buffer: s.Buffer.Bytes()}
}

// sameWithout tells whether the buffer area is the same without journal_size.
func sameWithout(o layout.Options, to *OSD, old *layout.Params) bool {
	p, err := layout.NewParams(withoutSize(o), deviceBytes(to))
	return err == nil && p.Buffer == old.Buffer
}

// overlapsOld tells whether a new area lies over the present metadata or
// buffer area.
func (r *resizing) overlapsOld(a *layout.Area, isMeta bool) bool {
	dev := r.to.Buffer
	if isMeta {
		dev = r.to.Meta
	}
	over := func(d *Device, b layout.Area) bool {
		return d == dev && a.Offset < b.Offset+b.Bytes && b.Offset < a.Offset+a.Bytes
	}
	return over(r.old.Meta, r.old.Params.Meta) || over(r.old.Buffer, r.old.Params.Buffer)
}
