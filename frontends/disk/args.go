package disk

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"vitastor/internal/schema/option"
	"vitastor/osd/store/layout"
)

// flags are the options without a value (spec cli.md §3); all others take the
// next argument.
var flags = []string{"all", "json", "hybrid", "hdd", "now", "force", "dry_run", "allow_data_loss", "help", "no_data"}

// commandFirst moves the command word to the front: options may stand
// anywhere. Arguments are otherwise left in order.
func commandFirst(args []string, isCommand func(string) bool) []string {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if name, ok := strings.CutPrefix(a, "--"); ok {
			if !strings.Contains(name, "=") && !slices.Contains(flags, underscores(name)) {
				i++ // its value
			}
			continue
		}
		if strings.HasPrefix(a, "-") {
			continue
		}
		if isCommand(a) {
			return append([]string{a}, slices.Delete(slices.Clone(args), i, i+1)...)
		}
		break
	}
	return args
}

func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }

// bothSpellings makes --some-option and --some_option the same.
func bothSpellings(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(underscores(name))
}

// textOption is an option of a command that takes a value.
type textOption struct{ name, help string }

// textOptions registers options whose values go into a layout.Options.
func textOptions(cmd *cobra.Command, list []textOption) {
	for _, o := range list {
		if cmd.Flags().Lookup(o.name) == nil {
			cmd.Flags().String(o.name, "", o.help)
		}
	}
}

// given are the options with values that were on the command line, without
// the global ones.
func given(cmd *cobra.Command) layout.Options {
	o := layout.Options{}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "string" && cmd.InheritedFlags().Lookup(f.Name) == nil {
			o[f.Name] = f.Value.String()
		}
	})
	return o
}

// understand checks values that go into a superblock against the table of all
// parameters: what an OSD would not take is an error, what it would read
// otherwise than meant, or not at all, is said.
func (t *Tool) understand(set layout.Options) error {
	set = maps.Clone(set)
	maps.DeleteFunc(set, func(_ string, v any) bool { return v == "" }) // to be removed
	layer, problem := option.ReadLayer(option.OSD, option.Superblock, "the superblock", set.JSON())
	if problem != nil {
		return problem
	}
	all, err := option.Merge(option.OSD, option.Facts{}, layer)
	for _, w := range all.Warnings {
		t.note("warning: %v", w)
	}
	return err
}

func flag(cmd *cobra.Command, name string) bool {
	v, err := cmd.Flags().GetBool(name)
	return err == nil && v
}

// layoutOptions describe a store without superblock (spec cli.md §3.5).
var layoutOptions = []textOption{
	{"data_device", "device or file with the data area"},
	{"data_offset", "where the data area begins"},
	{"data_size", "length of the data area (default: up to the end)"},
	{"meta_device", "device with the metadata (default: data_device)"},
	{"meta_offset", "where the metadata area begins"},
	{"meta_format", "must be 3"},
	{"journal_device", "device with the buffer area (default: meta_device)"},
	{"journal_offset", "where the buffer area begins"},
	{"journal_size", "length of the buffer area"},
	{"block_size", "size of a data block, default 128k"},
	{"bitmap_granularity", "default 4k"},
	{"disk_alignment", "default 4k"},
	{"meta_block_size", "default 4k"},
	{"journal_block_size", "default 4k"},
	{"data_csum_type", "none (default) or crc32c"},
	{"csum_block_size", "default: bitmap_granularity"},
}

// passthrough are the options of prepare that are stored as they are.
var passthrough = []textOption{
	{"data_csum_type", "none (default) or crc32c: checksums of data"},
	{"csum_block_size", "data per checksum, default bitmap_granularity (32k on HDD)"},
	{"autosync_writes", "fsync after so many writes"},
	{"data_io", "direct, cached or directsync"},
	{"meta_io", "direct, cached or directsync"},
	{"journal_io", "direct, cached or directsync"},
	{"max_write_iodepth", "parallel writes"},
	{"min_flusher_count", "fewest parallel compactions"},
	{"max_flusher_count", "most parallel compactions"},
	{"inmemory_metadata", "false: keep less metadata in memory"},
	{"inmemory_journal", "false: do not keep buffered data in memory"},
	{"journal_sector_buffer_count", "only used by older formats"},
	{"journal_no_same_sector_overwrites", "only used by older formats"},
	{"throttle_small_writes", "slow down small writes to the speed of the disk"},
	{"throttle_target_iops", "see throttle_small_writes"},
	{"throttle_target_mbs", "see throttle_small_writes"},
	{"throttle_target_parallelism", "see throttle_small_writes"},
	{"throttle_threshold_us", "see throttle_small_writes"},
	{"discard_on_start", "discard free space at every start"},
	{"min_discard_size", "smallest discard, default 1M"},
	{"discard_granularity", "default: that of the device"},
	{"atomic_write_size", "largest in-place write, default 4k or what NVMe tells"},
	{"use_atomic_flag", "use RWF_ATOMIC for in-place writes"},
}
