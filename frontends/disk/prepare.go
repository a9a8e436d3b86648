package disk

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

func (t *Tool) prepareCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "prepare [OPTIONS] DISK... | --data_device DEV [--meta_device DEV] [--journal_device DEV]", Short: "Make new OSDs",
		Long: `With disks as arguments: partitions them and makes osd_per_disk OSDs on each. Empty disks and disks that mostly belong
to OSDs are used; nothing that exists is removed.
With --data_device: makes one OSD on a partition or file which is empty. --force also takes a whole disk, or overwrites
what is there. A device in use is never touched.
The OSD number comes from vitastor-cli alloc-osd, and the OSD is started with systemd, unless it is on a file.`,
		Example: examples("vitastor-disk prepare /dev/nvme0n1 /dev/nvme1n1", "vitastor-disk prepare --osd_per_disk 2 --data_csum_type crc32c /dev/nvme0n1",
			"vitastor-disk prepare --hybrid /dev/sda /dev/sdb /dev/nvme0n1", "vitastor-disk prepare --dry_run --json /dev/sd?",
			"vitastor-disk prepare --data_device /dev/sdb1 --journal_device /dev/nvme0n1p2 --hdd",
			"truncate -s 10G osd1.img && vitastor-disk prepare --data_device osd1.img --osd_num 1"),
	}
	f := cmd.Flags()
	f.Bool("hdd", false, "the data device is a hard disk: defaults for that")
	f.Bool("hybrid", false, "data on the hard disks, metadata and buffer on the SSDs of the list")
	f.Bool("dry_run", false, "only show what would be done")
	textOptions(cmd, []textOption{
		{"osd_per_disk", "OSDs per disk, default 1"}, {"fast_devices", "comma-separated SSDs for metadata and buffer"},
		{"max_other", "largest part of a disk that may belong to others, default 10%"},
		{"osd_num", "OSD number instead of a new one from vitastor-cli alloc-osd"},
		{"weight", "weight of the OSD, default 1"}, {"tags", "tags of the OSD"},
		{"data_device", "partition or file for data"}, {"meta_device", "for metadata, default: data_device"},
		{"journal_device", "for the buffer of small writes, default: meta_device"},
		{"data_size", "length of the data area, default: all"},
		{"disable_data_fsync", "1, 0 or auto: do not fsync, the device has no volatile cache"},
		{"disable_meta_fsync", "the same for the metadata device"}, {"disable_journal_fsync", "the same for the buffer device"},
		{"meta_reserve", "size of the metadata area: factor and minimum, default 2x,1G"},
		{"journal_size", "size of the buffer area"}, {"block_size", "default 128k, 1M on HDD"},
		{"bitmap_granularity", "default 4k"}, {"disk_alignment", "default 4k"},
		{"meta_block_size", "default 4k"}, {"journal_block_size", "default 4k"}, {"meta_format", "must be 3"},
		{"skip_cache_check", "1: do not check the write cache before starts"},
		{"disable_device_lock", "1: do not lock the devices"},
	})
	textOptions(cmd, passthrough)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := given(cmd)
		job := prepareJob{options: o, hdd: flag(cmd, "hdd"), force: t.force}
		if len(args) == 0 {
			return t.prepareOne(job)
		}
		if o.Text("data_device") != "" {
			return fmt.Errorf("give either disks, or --data_device")
		}
		return t.prepareDisks(job, args, flag(cmd, "hybrid"), flag(cmd, "dry_run"))
	}
	return cmd
}

// prepareJob is one OSD to be made.
type prepareJob struct {
	options layout.Options // from the command line, with the devices
	hdd     bool
	force   bool
}

func (t *Tool) prepareOne(job prepareJob) error {
	if job.options.Text("data_device") == "" {
		return fmt.Errorf("give disks, or a partition or file with --data_device; see vitastor-disk prepare --help")
	}
	o, err := t.prepareOSD(job)
	if err != nil {
		return err
	}
	if t.json {
		t.print("%s", o.JSON())
	} else {
		t.print("OSD %d is prepared on %s", o.OSDNum(), o.Text("data_device"))
	}
	return t.startNew(o)
}

// prepareOSD makes an OSD and returns what is in its superblock.
func (t *Tool) prepareOSD(job prepareJob) (layout.Options, error) {
	set, err := t.takeTargets(job)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	o, err := t.chooseOptions(job, set)
	if err != nil {
		return nil, err
	}
	sizes := layout.DeviceBytes{Data: set.data.Bytes(), Meta: set.meta.Bytes(), Buffer: set.buffer.Bytes()}
	plan, err := layout.Prepare(o, sizes, job.hdd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", set.data.Path, err)
	}
	o = plan.Into(o)
	if set.buffer != set.data && set.buffer != set.meta {
		delete(o, "journal_size") // its device is used to the end
	}
	delete(o, "meta_reserve")
	params, err := layout.NewParams(withoutSize(o), sizes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", set.data.Path, err)
	}
	delete(o, "journal_size") // follows from the offsets
	if err := t.number(o, job.options); err != nil {
		return nil, err
	}
	if err := t.writeOSD(set, params, o); err != nil {
		return nil, fmt.Errorf("%w; OSD number %d stays allocated, free it with vitastor-cli rm-osd %d", err, o.OSDNum(), o.OSDNum())
	}
	return o, nil
}

// withoutSize is o as it will be stored.
func withoutSize(o layout.Options) layout.Options {
	o = maps.Clone(o)
	delete(o, "journal_size")
	return o
}

// targets are the devices of a new OSD; equal pointers for shared ones.
type targets struct {
	data, meta, buffer *target
	all                []*target
}

// Close releases the devices.
func (s *targets) Close() {
	for _, x := range s.all {
		x.Close()
	}
}

func (t *Tool) takeTargets(job prepareJob) (*targets, error) {
	data, metadata, buffer := job.options.Devices()
	set := &targets{}
	byPath := map[string]*target{}
	for _, f := range []struct {
		path string
		into **target
	}{{data, &set.data}, {metadata, &set.meta}, {buffer, &set.buffer}} {
		real, err := realPath(f.path)
		if err == nil && byPath[real] == nil {
			byPath[real], err = t.takeTarget(f.path, job.force)
			if err == nil {
				set.all = append(set.all, byPath[real])
			}
		}
		if err != nil {
			set.Close()
			return nil, err
		}
		*f.into = byPath[real]
	}
	return set, nil
}

// chooseOptions makes the parameters of a new OSD, without offsets and number.
func (t *Tool) chooseOptions(job prepareJob, set *targets) (layout.Options, error) {
	in := maps.Clone(job.options)
	if v := in.Text("meta_format"); v != "" && v != "3" {
		return nil, fmt.Errorf("meta_format is %q, only 3 can be prepared", v)
	}
	if err := t.understand(stored(in)); err != nil {
		return nil, fmt.Errorf("%s: %w", set.data.Path, err)
	}
	off, err := t.fsyncFlags(in, set)
	if err != nil {
		return nil, err
	}
	if n := set.data.node.atomicBytes(); set.data.node.isNVMe() && n > 4096 && in.Text("atomic_write_size") == "" {
		in["atomic_write_size"] = strconv.FormatUint(n, 10)
	}
	o := layout.Options{"data_device": set.data.stable, "meta_device": "", "journal_device": ""}
	if set.meta != set.data {
		o["meta_device"] = set.meta.stable
	}
	if set.buffer != set.meta {
		o["journal_device"] = set.buffer.stable
	}
	if in.Text("meta_reserve") == "" && set.meta == set.data {
		in["meta_reserve"] = smallReserve(set.data.Bytes())
	}
	return o, fillOptions(o, in, off, job.hdd, job.hdd && set.buffer != set.data)
}

// stored are the options that are stored as they are given.
func stored(in layout.Options) layout.Options {
	o := layout.Options{}
	for _, p := range passthrough {
		if v := in.Text(p.name); v != "" {
			o[p.name] = v
		}
	}
	return o
}

// smallReserve limits the smallest metadata area on devices where the usual
// 1 GiB would take too much. "" = the usual.
func smallReserve(bytes uint64) string {
	if bytes/16 >= 1<<30 {
		return ""
	}
	return fmt.Sprintf("2x,%dM", max(bytes/16>>20, 1))
}

// noSync tells for which areas fsync is disabled.
type noSync struct{ data, meta, buffer bool }

// fsyncFlags resolves the fsync options. What is auto is disabled only if no
// device needs it: a mixture helps nobody, and release 3.0.8 does not work
// with it (spec ondisk.md D12).
func (t *Tool) fsyncFlags(in layout.Options, set *targets) (off noSync, err error) {
	devices := []struct {
		key  string
		x    *target
		into *bool
	}{{"disable_data_fsync", set.data, &off.data}, {"disable_meta_fsync", set.meta, &off.meta}, {"disable_journal_fsync", set.buffer, &off.buffer}}
	auto := func(key string) bool { v := in.Text(key); return v == "" || v == "auto" }
	allOff := true
	for _, f := range devices {
		if auto(f.key) {
			*f.into = t.noFsync(f.x.node)
		} else if *f.into, err = in.Flag(f.key); err != nil {
			return off, err
		}
		if f.key == "disable_data_fsync" && set.meta == set.data && set.buffer == set.data {
			return noSync{off.data, off.data, off.data}, nil
		}
		allOff = allOff && *f.into
	}
	for _, f := range devices {
		if auto(f.key) && !allOff {
			*f.into = false
		}
	}
	if set.meta == set.data {
		off.meta = off.data
	}
	if set.buffer == set.meta {
		off.buffer = off.meta
	}
	return off, nil
}

// fillOptions adds everything but devices, offsets and number (spec cli.md
// §3.4 single mode, steps 4 and 6).
func fillOptions(o, in layout.Options, off noSync, hdd, hybrid bool) error {
	defaults := layout.Options{}
	block := "131072"
	switch {
	case hdd:
		block = "1048576"
		if hybrid {
			defaults["atomic_write_size"], defaults["throttle_small_writes"] = "0", "1"
		} else if in.Text("data_csum_type") == "crc32c" {
			defaults["csum_block_size"] = "32k"
		}
	case !off.data:
		defaults["min_flusher_count"], defaults["max_flusher_count"], defaults["autosync_writes"] = "32", "256", "512"
	}
	for _, p := range passthrough {
		if v := in.Text(p.name); v != "" {
			o[p.name] = v
		} else if v, ok := defaults[p.name]; ok {
			o[p.name] = v
		}
	}
	for key, absent := range map[string]string{"block_size": block, "bitmap_granularity": "4096", "meta_block_size": "4096",
		"journal_block_size": "4096", "disk_alignment": "4096", "data_size": "0", "journal_size": "", "journal_sector_buffer_count": "1024"} {
		text := in.Text(key)
		if text == "" {
			text = absent
		}
		if text == "" {
			continue
		}
		v, err := sizeArgument(key, text)
		if err != nil {
			return err
		}
		o[key] = json.Number(strconv.FormatUint(v, 10))
	}
	for _, key := range []string{"disable_device_lock", "skip_cache_check"} {
		v, err := in.Flag(key)
		if err != nil {
			return err
		}
		o[key] = v
	}
	o["meta_format"] = "3"
	if v := in.Text("meta_reserve"); v != "" {
		o["meta_reserve"] = v
	}
	if _, given := o["journal_no_same_sector_overwrites"]; !given {
		o["journal_no_same_sector_overwrites"] = !hdd || hybrid
	}
	o["disable_data_fsync"], o["disable_meta_fsync"], o["disable_journal_fsync"] = off.data, off.meta, off.buffer
	o["immediate_commit"] = "none"
	if off.data && off.buffer {
		o["immediate_commit"] = "all"
	}
	return nil
}

// number gives the OSD its number and its place in the cluster.
func (t *Tool) number(o, in layout.Options) error {
	text := in.Text("osd_num")
	if text == "" {
		out, err := t.cli("alloc-osd")
		if err != nil {
			return fmt.Errorf("cannot get an OSD number: %w: check etcd_address in /etc/vitastor/vitastor.conf, or give --osd_num", err)
		}
		text = strings.TrimSpace(out)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("OSD number is %q, must be a positive number", text)
	}
	o["osd_num"] = json.Number(text)
	args := []string{"modify-osd", text}
	if v := in.Text("weight"); v != "" {
		args = append(args, "--reweight", v)
	}
	if v := in.Text("tags"); v != "" {
		args = append(args, "--tags", v)
	}
	if len(args) == 2 {
		return nil
	}
	if _, err = t.cli(args...); err != nil {
		return fmt.Errorf("OSD %s: cannot set weight or tags: %w", text, err)
	}
	return nil
}

// writeOSD overwrites the devices. Whatever the moment of a crash, no
// superblock leads to a store that is half made: old ones are removed first,
// new ones written last, that of the data device at the very end.
func (t *Tool) writeOSD(set *targets, p *layout.Params, o layout.Options) error {
	if _, err := layout.EncodeSuperblock(o); err != nil {
		return err // before anything is overwritten
	}
	for _, x := range set.all {
		if err := t.setType(x); err != nil {
			return err
		}
		if err := x.clearSuperblock(); err != nil {
			return err
		}
	}
	if err := wipeMeta(set.meta.Device, p, t.progress("clearing metadata", p.Meta.Bytes)); err != nil {
		return err
	}
	if err := set.buffer.Zero(p.Buffer.Offset, layout.SuperblockBytes); err != nil {
		return err
	}
	for _, x := range set.all {
		if err := x.Sync(); err != nil {
			return err
		}
	}
	for i := len(set.all) - 1; i >= 0; i-- {
		if err := set.all[i].writeSuperblock(o); err != nil {
			return err
		}
	}
	for _, x := range set.all {
		t.announce(x.Device)
	}
	return nil
}

// startNew enables and starts a new OSD.
func (t *Tool) startNew(o layout.Options) error {
	if n, err := findNode(o.Text("data_device")); err == nil && n.File {
		t.note("It is on a file, which systemd does not start: run vitastor-disk exec-osd %s", o.Text("data_device"))
		return nil
	}
	if _, err := t.Programs.Output("", "systemctl", "enable", "--now", unitName(o)); err != nil {
		return fmt.Errorf("OSD %d is prepared, but could not be started: %w", o.OSDNum(), err)
	}
	return nil
}
