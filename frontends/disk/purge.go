package disk

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

func (t *Tool) purgeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "purge [--json] [--force] [--allow-data-loss] OSD|DEV...", Short: "Remove OSDs from the cluster and from their disks",
		Long: `Asks vitastor-cli whether the OSDs can be removed without losing data, stops and disables them, removes them from the
cluster, deletes their superblocks and their partitions. --force and --allow-data-loss are passed to vitastor-cli rm-osd.`,
		Example: examples("vitastor-disk purge /dev/vitastor/osd3-data", "vitastor-disk purge 3 4"),
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().Bool("allow_data_loss", false, "remove them although data will be lost")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.purge(args, flag(cmd, "allow_data_loss")) }
	return cmd
}

func (t *Tool) purge(paths []string, loss bool) error {
	osds := map[meta.OSDNum]layout.Options{}
	for _, path := range paths {
		o, _, err := t.readSuperblock(osdDevice(path), false)
		if err != nil {
			return err
		}
		osds[o.OSDNum()] = o
	}
	numbers := slices.Sorted(maps.Keys(osds))
	rm := []string{"rm-osd", "--allow-up"}
	units := []string{"disable", "--now"}
	for _, n := range numbers {
		rm = append(rm, fmt.Sprint(uint64(n)))
		units = append(units, unitName(osds[n]))
	}
	if loss {
		rm = append(rm, "--allow-data-loss")
	} else if t.force {
		rm = append(rm, "--force")
	}
	if _, err := t.cli(append(slices.Clone(rm), "--dry-run")...); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if _, err := t.Programs.Output("", "systemctl", units...); err != nil {
		return fmt.Errorf("cannot stop the OSDs, nothing was removed: %w", err)
	}
	// A process that systemd does not know may still run on the disks.
	if err := t.mustBeStopped(osds); err != nil {
		return err
	}
	if _, err := t.cli(rm...); err != nil {
		return fmt.Errorf("the OSDs are stopped, but were not removed: %w", err)
	}
	removed := []any{}
	failed := false
	for _, n := range numbers {
		devices, err := t.wipeOSD(osds[n])
		removed = append(removed, devices...)
		if err != nil {
			failed = true
			t.note("%v", err)
		}
	}
	if t.json {
		t.printJSON(map[string]any{"removed_osds": osdNumbers(numbers), "removed_devices": removed})
	} else {
		t.print("OSD %s removed", strings.Trim(fmt.Sprint(numbers), "[]"))
	}
	if failed {
		return errReported
	}
	return nil
}

// mustBeStopped takes and releases the locks of all devices.
func (t *Tool) mustBeStopped(osds map[meta.OSDNum]layout.Options) error {
	for _, n := range slices.Sorted(maps.Keys(osds)) {
		for _, path := range deviceList(osds[n]) {
			d, err := openDevice(path, access{lock: true, cached: t.cached})
			if err != nil {
				return err
			}
			d.Close()
		}
	}
	return nil
}

// deviceList are the devices of an OSD, each once.
func deviceList(o layout.Options) []string {
	data, metadata, buffer := o.Devices()
	list := []string{data}
	for _, path := range []string{metadata, buffer} {
		if !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	return list
}

// wipeOSD deletes the superblocks of an OSD and its partitions.
func (t *Tool) wipeOSD(o layout.Options) (removed []any, err error) {
	for _, path := range deviceList(o) {
		d, err := openDevice(path, access{write: true, lock: true, exclusive: true, cached: t.cached})
		if err != nil {
			return removed, err
		}
		err = d.clearOf(o)
		d.Close()
		if err != nil {
			return removed, err
		}
		removed = append(removed, path)
		if !strings.HasPrefix(path, byPartUUID) {
			continue
		}
		n, err := findNode(path)
		if err != nil {
			return removed, err
		}
		if err := t.deletePartition(n); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// clearOf deletes the superblock of an OSD, but not that of another one.
func (d *Device) clearOf(o layout.Options) error {
	found, _, err := d.superblock(true)
	if err != nil {
		return fmt.Errorf("%w: left as it is", err)
	}
	if found.OSDNum() != o.OSDNum() {
		return fmt.Errorf("%s: belongs to OSD %d, not to OSD %d: left as it is", d.Path, found.OSDNum(), o.OSDNum())
	}
	return d.clearSuperblock()
}
