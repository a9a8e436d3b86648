package cli

import (
	"fmt"
	"strings"

	"vitastor/internal/clusterview"

	"github.com/spf13/cobra"
)

const helpGlobal = `GLOBAL OPTIONS:
  --config_path FILE  Configuration file, default /etc/vitastor/vitastor.conf
  --etcd_address URL  Addresses of etcd, separated by commas
  --etcd_prefix P     Prefix of all keys in etcd, default /vitastor
  --iodepth N         Parallel operations per OSD, default 32
  --parallel_osds M   OSDs worked with in parallel, default 4
  --progress 1|0      Report progress, default 1
  --cas 1|0           Compare-and-swap writes of flatten, merge-data and rm, default: as needed
  --color 1|0         Colors and progress bars, default 1 if stdout is a terminal
  --json              The result as JSON
  --log_level N       Log more

Options may stand anywhere and have - or _ in their names. Any parameter of clients can be given as an option, see docs/config.
The exit status is an errno, 0 = success.
`

// help prints help about the words, or the list of commands.
func (t *Tool) help(l *line) {
	fmt.Fprint(t.Out, "Vitastor command-line tool\n\n")
	known := false
	for _, w := range l.words {
		if c := findCommand(w); c != nil {
			known = true
			fmt.Fprintln(t.Out, c.help())
		}
	}
	if known {
		return
	}
	fmt.Fprint(t.Out, "COMMANDS:\n\n")
	for i := range commands {
		c := &commands[i]
		if l.flag("all") {
			fmt.Fprintln(t.Out, c.help())
		} else {
			fmt.Fprintf(t.Out, "  %s\n", c.usage())
		}
	}
	fmt.Fprintf(t.Out, "  vitastor-cli completion bash|zsh|fish\n\n"+
		"vitastor-cli --help COMMAND tells more about a command, vitastor-cli --help --all about all.\n\n%s", helpGlobal)
}

func (c *command) usage() string {
	return strings.TrimSpace("vitastor-cli " + strings.Join(c.names, "|") + " " + c.args)
}

func (c *command) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s.\n", c.usage(), c.short)
	if c.long != "" {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(strings.TrimSpace(c.long), "\n", "\n  "))
	}
	for _, o := range c.options {
		if o.doc != "" {
			fmt.Fprintf(&b, "    %-24s %s\n", strings.TrimSpace("--"+o.name+" "+o.value), o.doc)
		}
	}
	for _, e := range c.example {
		fmt.Fprintf(&b, "  Example: %s\n", e)
	}
	return b.String()
}

// complete serves the shell: scripts for it, and their questions. Cobra knows
// the shells; the command lines of users never get here.
func (t *Tool) complete(args []string) (code int, done bool) {
	if len(args) == 0 || args[0] != "completion" && args[0] != cobra.ShellCompRequestCmd && args[0] != cobra.ShellCompNoDescRequestCmd {
		return 0, false
	}
	root := &cobra.Command{Use: "vitastor-cli", SilenceErrors: true, SilenceUsage: true}
	root.SetOut(t.Out)
	root.SetErr(t.Err)
	root.SetArgs(args)
	p := root.PersistentFlags()
	for _, name := range []string{"config_path", "etcd_address", "etcd_prefix", "iodepth", "parallel_osds", "progress", "color"} {
		p.String(name, "", "")
	}
	p.Bool("json", false, "the result as JSON")
	for i := range commands {
		root.AddCommand(commands[i].cobra(t))
	}
	if err := root.Execute(); err != nil {
		t.note("%v", err)
		return 1, true
	}
	return 0, true
}

func (c *command) cobra(t *Tool) *cobra.Command {
	cmd := &cobra.Command{Use: c.names[0], Aliases: c.names[1:], Short: c.short, Run: func(*cobra.Command, []string) {}}
	for _, o := range c.options {
		if o.doc == "" {
			continue
		}
		if o.value == "" {
			cmd.Flags().Bool(o.name, false, o.doc)
		} else {
			cmd.Flags().String(o.name, "", o.doc)
		}
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		list := t.namesFor(c, cmd)
		if c.names[0] == "dd" {
			list = ddWords(list, toComplete)
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
	if cmd.Flags().Lookup("pool") != nil {
		cmd.RegisterFlagCompletionFunc("pool", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return t.namesFor(&command{complete: poolNames}, cmd), cobra.ShellCompDirectiveNoFileComp
		})
	}
	return cmd
}

// namesFor asks the cluster; without one there is nothing to offer.
func (t *Tool) namesFor(c *command, cmd *cobra.Command) (names []string) {
	if c.complete == noNames {
		return nil
	}
	l := &line{options: map[string]string{}}
	for _, name := range []string{"config_path", "etcd_address", "etcd_prefix"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			l.options[name] = f.Value.String()
		}
	}
	quiet := *t
	quiet.Err = discard{}
	r := &run{Tool: &quiet, line: l, command: c}
	defer r.disconnect()
	s, err := r.state()
	if err != nil {
		return nil
	}
	switch c.complete {
	case imageNames:
		for _, id := range s.order {
			names = append(names, s.inodes[id].Name)
		}
	case poolNames:
		for _, id := range s.poolIDs() {
			names = append(names, s.pools[id].Name)
		}
	case osdNames:
		r.conn.view(func(v *clusterview.View) {
			for _, n := range v.OSDs() {
				names = append(names, fmt.Sprint(n))
			}
		})
	}
	return names
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
