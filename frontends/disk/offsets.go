package disk

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

func (t *Tool) simpleOffsetsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "simple-offsets [OPTIONS] DEV", Short: "Calculate offsets for an OSD without superblock",
		Long: "Calculates the areas of an OSD that is started with options instead of a superblock. Nothing is written.",
		Example: examples("vitastor-disk simple-offsets /dev/sdb1", "vitastor-disk simple-offsets --format options --journal_size 64M disk.img",
			"vitastor-disk simple-offsets --format json --device_size 1T --data_csum_type crc32c /dev/sdb1"),
		Args: cobra.MaximumNArgs(1),
	}
	textOptions(cmd, []textOption{
		{"object_size", "size of a data block, default 128k"}, {"bitmap_granularity", "default 4k"},
		{"journal_size", "size of the buffer area, default 32M"}, {"data_csum_type", "none (default) or crc32c"},
		{"csum_block_size", "default: bitmap_granularity"}, {"device_block_size", "default 4096"},
		{"journal_offset", "default 0"}, {"device_size", "default: that of DEV"},
		{"meta_format", "must be 3"}, {"meta_reserve", "metadata area relative to what is needed, default 1.5"},
		{"format", "text (default), options, env or json"},
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := ""
		if len(args) > 0 {
			path = args[0]
		}
		return t.simpleOffsets(given(cmd), path)
	}
	return cmd
}

func (t *Tool) simpleOffsets(o layout.Options, path string) error {
	if v := o.Text("meta_format"); v != "" && v != "3" {
		return fmt.Errorf("meta_format is %q, only 3 is supported", v)
	}
	bytes, err := o.Size("device_size", 0)
	if err != nil {
		return err
	}
	if bytes == 0 {
		if path == "" {
			return fmt.Errorf("give a device or --device_size")
		}
		d, err := openDevice(path, access{cached: t.cached})
		if err != nil {
			return err
		}
		bytes = d.Bytes()
		d.Close()
	}
	plan, err := layout.SimpleOffsets(o, bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return t.printOffsets(o, plan, path)
}

func (t *Tool) printOffsets(o layout.Options, plan *layout.Plan, path string) error {
	unit, err := o.Size("device_block_size", 4096)
	if err != nil {
		return err
	}
	number := func(v uint64) string { return strconv.FormatUint(v, 10) }
	all := []struct {
		key, value string
		always     bool // also where it is the default
	}{
		{"meta_format", "3", true}, {"meta_block_size", number(unit), unit != 4096}, {"journal_block_size", number(unit), unit != 4096},
		{"data_size", number(plan.DataBytes), o.Text("device_size") != ""}, {"data_device", path, true},
		{"journal_offset", number(plan.BufferOffset), true}, {"meta_offset", number(plan.MetaOffset), true}, {"data_offset", number(plan.DataOffset), true},
	}
	format := o.Text("format")
	if t.json {
		format = "json"
	}
	result := map[string]any{}
	for _, f := range all {
		switch format {
		case "", "text", "options":
			if f.always {
				t.print("--%s %s", f.key, f.value)
			}
		case "env":
			t.print("%s=%s", f.key, f.value)
		case "json":
			result[f.key] = f.value
			if n, err := strconv.ParseUint(f.value, 10, 64); err == nil && f.key != "data_device" {
				result[f.key] = n
			}
		default:
			return fmt.Errorf("--format is %q, must be text, options, env or json", format)
		}
	}
	switch format {
	case "json":
		t.printJSON(result)
	case "", "text":
		t.note("These are options for vitastor-osd without a superblock. Prefer vitastor-disk prepare: its OSDs are started by systemd and udev.")
	}
	return nil
}
