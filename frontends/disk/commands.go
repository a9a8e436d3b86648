package disk

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// errReported is a failure about which everything was said already.
var errReported = errors.New("failed")

// Main runs a command line and returns the exit status: 0 or 1.
func (t *Tool) Main(args []string) int {
	root := t.root()
	args = commandFirst(args, func(name string) bool {
		for _, c := range root.Commands() {
			if c.Name() == name || c.HasAlias(name) {
				return true
			}
		}
		return false
	})
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		if !errors.Is(err, errReported) {
			t.note("%v", err)
		}
		return 1
	}
	return 0
}

func (t *Tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vitastor-disk",
		Short: "Prepare, inspect, check and start disks of Vitastor OSDs",
		Long: `Prepare, inspect, check and start disks of Vitastor OSDs.

DEV is a partition, a disk or a file. Where OSD|DEV is written, a number N means
/dev/vitastor/osdN-data. Options may stand anywhere, with - or _ in their names;
sizes may have a suffix k, m, g or t. The exit status is 0 on success, else 1.`,
		SilenceErrors: true, SilenceUsage: true,
		Args:               cobra.ArbitraryArgs,
		CompletionOptions:  cobra.CompletionOptions{DisableDefaultCmd: true},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				t.note("unknown command: %s", args[0])
			}
			return cmd.Help() // Compat: exit status 0
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return t.global(cmd) },
	}
	root.SetOut(t.Out)
	root.SetErr(t.Err)
	root.SetGlobalNormalizationFunc(bothSpellings)
	p := root.PersistentFlags()
	p.BoolVar(&t.json, "json", false, "print the result as JSON")
	p.BoolVar(&t.force, "force", false, "skip checks that protect data; never those for devices in use")
	p.String("io", "direct", "direct, or cached to read and write through the page cache")
	p.String("config_path", "", "passed to vitastor-cli")
	p.String("etcd_address", "", "passed to vitastor-cli")
	p.String("etcd_prefix", "", "passed to vitastor-cli")
	root.AddCommand(t.prepareCommand(), t.readSbCommand(), t.writeSbCommand(), t.updateSbCommand(), t.udevCommand(),
		t.execOSDCommand(), t.preExecCommand(), t.purgeCommand(), t.trimCommand(), t.checkCommand(),
		t.dumpMetaCommand(), t.writeMetaCommand(), t.resizeCommand(), t.simpleOffsetsCommand())
	root.AddCommand(t.serviceCommands()...)
	root.AddCommand(t.unsupportedCommands()...)
	root.SetHelpCommand(t.helpCommand(root))
	return root
}

func (t *Tool) helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND]", Short: "Help about a command", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if cmd, _, err := root.Find(args); err == nil {
				cmd.InitDefaultHelpFlag()
				return cmd.Help()
			}
			return root.Help()
		}}
}

// global takes over the options of all commands.
func (t *Tool) global(cmd *cobra.Command) error {
	text := func(name string) string {
		if f := cmd.Flags().Lookup(name); f != nil {
			return f.Value.String()
		}
		return ""
	}
	switch io := text("io"); io {
	case "", "direct", "directsync":
	case "cached":
		t.cached = true
	default:
		return fmt.Errorf("--io is %q, must be direct or cached", io)
	}
	t.cliOptions = map[string]string{}
	for _, key := range cliKeys {
		t.cliOptions[key] = text(key)
	}
	return nil
}

// unsupportedCommands are commands of the reference that this version does
// not have: they say what to do instead.
func (t *Tool) unsupportedCommands() []*cobra.Command {
	var list []*cobra.Command
	for _, c := range []struct{ name, why string }{
		{"dump-journal", "meta_format 3 has no journal: its entries are part of the metadata, use dump-meta.\n" +
			"Stores of formats 1 and 2 can be dumped by the release that wrote them."},
		{"write-journal", "meta_format 3 has no journal: its entries are part of the metadata, use write-meta."},
		{"raw-resize", "shifting areas of a store without superblock cannot be made crash-safe in place.\n" +
			"Use resize for an OSD with superblock; otherwise prepare a new OSD and let recovery fill it, then purge this one."},
		{"upgrade-simple", "the areas of a deployment without superblock begin at byte 0, and making room for a superblock in place\n" +
			"cannot be made crash-safe. Keep starting vitastor-osd with its present options, or prepare a new OSD,\n" +
			"let recovery fill it, and remove the old one with vitastor-cli rm-osd."},
	} {
		list = append(list, &cobra.Command{
			Use: c.name, Short: "Not supported by this version", Long: c.name + " is not supported by this version: " + c.why,
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				for _, a := range args {
					if a == "-h" || a == "--help" {
						return cmd.Help()
					}
				}
				return fmt.Errorf("%s is not supported by this version: %s", c.name, c.why)
			}})
	}
	return list
}

// examples formats the examples of a command for its help.
func examples(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }
