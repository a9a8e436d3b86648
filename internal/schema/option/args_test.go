package option

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

var osdTool = Tool{
	Name: "vitastor-osd", Component: OSD, Summary: "Serves one disk of a cluster.",
	Flags: []Flag{{"check", "", "Only check the disk."}, {"trace", "FILE", "Write a trace."}},
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args  string // separated by spaces
		want  string // options as JSON
		flags map[string]string
	}{
		{"", `{}`, nil},
		{"--osd_num 1 --log_level=5", `{"osd_num":"1","log_level":"5"}`, nil},
		{"--osd-num 1 --Strange-Name x", `{"osd_num":"1","Strange_Name":"x"}`, nil},
		{"--min_zerocopy_send_size -1", `{"min_zerocopy_send_size":"-1"}`, nil},
		{"--etcd_prefix=--x --etcd_address=a=b", `{"etcd_prefix":"--x","etcd_address":"a=b"}`, nil},
		{"--log_level 1 --log-level 2", `{"log_level":"2"}`, nil},
		{"--hostname=", `{"hostname":""}`, nil},
		{"--check --trace f --osd_num 1", `{"osd_num":"1"}`, map[string]string{"check": "1", "trace": "f"}},
		{"--trace=f", `{}`, map[string]string{"trace": "f"}},
	} {
		got, err := osdTool.Parse(strings.Fields(c.args))
		if err != nil || string(got.Options.Values.Encode()) != c.want || !maps.Equal(got.Flags, c.flags) || got.Help || got.Options.Source != CommandLine {
			t.Errorf("%s: %s %v %v", c.args, got.Options.Values.Encode(), got.Flags, err)
		}
	}
	for _, help := range []string{"-h", "--help", "--osd_num 1 --help", "stray --help"} {
		if got, err := osdTool.Parse(strings.Fields(help)); err != nil || !got.Help {
			t.Errorf("%s: %v", help, err)
		}
	}
	with := osdTool
	with.Arguments = "DEVICE..."
	if got, err := with.Parse(strings.Fields("a --osd_num 1 b -- --c -h")); err != nil || !slices.Equal(got.Rest, []string{"a", "b", "--c", "-h"}) || got.Help {
		t.Errorf("arguments: %v %v", got.Rest, err)
	}
}

func TestWrongCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"x":                       `unexpected argument "x": vitastor-osd only takes options, written --name value`,
		"-x":                      `unexpected argument "-x"`,
		"--osd_num 1 --":          "",
		"--osd_num 1 -- y":        `unexpected argument "y"`,
		"--osd_num":               "option --osd_num needs a value: write --osd_num value, or --osd_num=value",
		"--readonly --osd_num 1":  "option --readonly needs a value: write --readonly value, or --readonly=value if the value begins with -- (to switch it on: --readonly 1)",
		"--trace":                 "option --trace needs a value",
		"--check=1":               "option --check does not take a value",
		"--=5":                    `"--=5" is not an option`,
		"--osd_num 1 2 --check":   `unexpected argument "2"`,
		"--osd_num 1 --trace=a b": `unexpected argument "b"`,
	} {
		_, err := osdTool.Parse(strings.Fields(args))
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// Every option of the table gets from the command line into the configuration,
// and every name is accepted.
func TestEveryOptionOnTheCommandLine(t *testing.T) {
	for _, o := range All() {
		s := merge(t, OSD)
		v := s.Get(o.Name)
		text, ok := o.Arg(v)
		if !ok {
			continue
		}
		c, err := osdTool.Parse([]string{"--" + o.Name, text})
		if err != nil {
			t.Fatal(err)
		}
		again := merge(t, OSD, c.Options)
		if live, restart := Diff(s, again); len(live)+len(restart) > 0 || len(again.Unknown) > 0 {
			t.Errorf("--%s %s changes %v %v", o.Name, text, live, restart)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, tool := range []Tool{osdTool, {Name: "vitastor-nbd", Component: Client, Arguments: "COMMAND"}, {Name: "vitastor-mon", Component: Monitor}} {
		text := tool.Help()
		for line := range strings.Lines(text) {
			if len([]rune(line)) > helpColumns+1 || strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
				t.Errorf("%s: bad line %q", tool.Name, line)
			}
		}
		for _, o := range All() {
			if has := strings.Contains(text, "\n  --"+o.Name+" "); has != (o.Used&tool.Component != 0) {
				t.Errorf("%s: help of %s: %t", tool.Name, o.Name, has)
			}
		}
	}
	text := osdTool.Help()
	for _, want := range []string{"Usage: vitastor-osd --etcd_address LIST --osd_num INT [--option value ...]\n",
		"\nServes one disk of a cluster.\n", "\nOptions of vitastor-osd only:\n  --check\n      Only check the disk.\n  --trace FILE\n",
		"\nDisk layout:\n", "\n  --readonly 1|0\n      Write nothing to the disk. Default: false. (local)\n",
		"\n  --data_csum_type none|crc32c\n      Checksums of data. Default: none. (local)\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text[:min(len(text), 3000)])
		}
	}
}

func TestHelpNotes(t *testing.T) {
	for name, want := range map[string]string{
		"recovery_queue_depth": " Default: 1. Limits: 1 to 2048.", "client_queue_depth": " Default: 128. Limits: at least 128.",
		"rdma_max_msg": " Default: 132096. Limits: at most 134217728. (local)", "osd_num": " (local)",
		"etcd_prefix": " Default: /vitastor. (local)", "osd_network": "",
	} {
		if got := Find(name).helpNotes(); got != want {
			t.Errorf("%s:%s, want%s", name, got, want)
		}
	}
}

// FuzzCommandLine parses any arguments, separated by 0 bytes.
func FuzzCommandLine(f *testing.F) {
	f.Add("--osd_num\x001\x00--log-level=5")
	f.Add("--readonly\x00--check\x00--\x00x")
	f.Add("--\xff=\xfe\x00-h")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := osdTool.Parse(strings.Split(text, "\x00"))
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without text")
			}
			return
		}
		s, _ := Merge(OSD, Facts{}, c.Options)
		s.OSD()
		l, problem := ReadLayer(OSD, CommandLine, "x", c.Options.Values.Encode())
		if problem != nil || l.Values.Len() != c.Options.Values.Len() {
			t.Fatalf("%q: %s: %v", text, c.Options.Values.Encode(), problem)
		}
	})
}
