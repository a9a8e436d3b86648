package disk

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"vitastor/osd/store/layout"
)

func (t *Tool) execOSDCommand() *cobra.Command {
	return &cobra.Command{
		Use: "exec-osd OSD|DEV", Short: "Start an OSD in place of this process (for the systemd unit)",
		Example: examples("vitastor-disk exec-osd /dev/vitastor/osd1-data"),
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o, _, err := t.readSuperblock(osdDevice(args[0]), t.force)
			if err != nil {
				return err
			}
			return t.Programs.Exec("vitastor-osd", osdArguments(o)...)
		}}
}

// osdArguments are the parameters of a superblock as options of vitastor-osd.
func osdArguments(o layout.Options) (args []string) {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		args = append(args, "--"+key, o.Text(key))
	}
	return args
}

func (t *Tool) preExecCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pre-exec OSD|DEV", Short: "Check the disks of an OSD before its start (for the systemd unit)",
		Long: `Makes sure that devices on which the OSD does not fsync have no volatile write cache, and that atomic_write_size
is supported if use_atomic_flag is set. skip_cache_check in the superblock skips the first.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o, _, err := t.readSuperblock(osdDevice(args[0]), t.force)
			if err != nil {
				return err
			}
			skip, err := o.Flag("skip_cache_check")
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if !skip {
				if err := t.checkCaches(o); err != nil {
					return err
				}
			}
			return checkAtomic(o)
		}}
}

// serviceCommands are start, stop, restart, enable and disable.
func (t *Tool) serviceCommands() (list []*cobra.Command) {
	for _, c := range []struct{ verb, help string }{
		{"start", "Start OSDs"}, {"stop", "Stop OSDs"}, {"restart", "Restart OSDs"},
		{"enable", "Start OSDs at boot"}, {"disable", "Do not start OSDs at boot"},
	} {
		cmd := &cobra.Command{
			Use: c.verb + " [--now] OSD|DEV...", Short: c.help,
			Long:    c.help + ": runs systemctl " + c.verb + " for the OSDs on the given devices.",
			Example: examples("vitastor-disk " + c.verb + " /dev/vitastor/osd1-data /dev/vitastor/osd2-data"),
			Args:    cobra.MinimumNArgs(1),
		}
		if c.verb == "enable" || c.verb == "disable" {
			cmd.Flags().Bool("now", false, "start or stop them too")
		}
		cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.service(c.verb, flag(cmd, "now"), args) }
		list = append(list, cmd)
	}
	return list
}

// service runs systemctl for the OSDs whose superblock can be read.
func (t *Tool) service(verb string, now bool, devices []string) error {
	args, units := []string{verb}, 0
	if now {
		args = append(args, "--now")
	}
	for _, dev := range devices {
		o, _, err := t.readSuperblock(osdDevice(dev), t.force)
		if err != nil {
			t.note("%v", err)
			continue
		}
		units++
		if unit := unitName(o); !slices.Contains(args, unit) {
			args = append(args, unit)
		}
	}
	if units == 0 {
		return errReported
	}
	if units < len(devices) {
		// Report the failure of the others: systemctl must not replace us.
		if _, err := t.Programs.Output("", "systemctl", args...); err != nil {
			t.note("%v", err)
		}
		return errReported
	}
	return t.Programs.Exec("systemctl", args...)
}

func unitName(o layout.Options) string { return fmt.Sprintf("vitastor-osd@%d", o.OSDNum()) }
