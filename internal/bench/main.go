// Command bench prints the project's table of figures: what is promised, and
// what this machine measures now. Ratios are medians over paired runs that
// alternate both sides in one sitting; absolute numbers on shared machines mean
// little.
//
//	go run ./internal/bench [-only regexp] [-rows regexp] [-rounds n] [-json]
//
// Guarantee: every figure is measured by the run that prints it. It has no
// concurrency rule: one section runs after the other.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"text/tabwriter"

	"vitastor/internal/bench/clusterio"
)

// Row is one figure.
type Row struct {
	Section string
	Figure  string
	Value   string
	Target  string // what is promised; "" = for information
	OK      bool   // Target is met
}

// section measures some figures; rounds is the number of paired runs.
type section struct {
	name string
	run  func(rounds int, report func(Row)) error
}

var sections = []section{
	{"wire", benchWire},
	{"ec", benchEC},
	{"idle", benchIdle},
	{"msgr", benchMessages},
	{"store", benchStore},
	{"placement", benchPlacement},
	{"cluster", benchCluster},
	{"recovery", benchRecovery},
	{"library", benchLibrary},
	{"fio", benchFio},
	{"qemu", benchQEMU},
	{"nbd", benchNBD},
	{"vhost", benchVhost},
}

// slow sections take minutes: their rows are printed as they come.
var slow = []string{"cluster", "recovery", "library", "fio", "qemu", "nbd", "vhost"}

func main() {
	if len(os.Args) > 1 && os.Args[1] == idleArgument {
		runIdle()
		return
	}
	if len(os.Args) > 2 && os.Args[1] == clusterArgument {
		os.Exit(clusterio.Main(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == nbdArgument {
		os.Exit(runNBD(os.Args[2]))
	}
	if len(os.Args) > 3 && os.Args[1] == vhostArgument {
		os.Exit(runVhostServer(os.Args[2], os.Args[3]))
	}
	only := flag.String("only", ".", "regular expression on section names")
	rounds := flag.Int("rounds", 7, "paired runs of each comparison")
	rowsText := flag.String("rows", ".", "regular expression on rows on clusters, such as 'tmpfs: 4K write'")
	asJSON := flag.Bool("json", false, "print one JSON object per figure")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -only:", err)
		os.Exit(2)
	}
	if rowsWanted, err = regexp.Compile(*rowsText); err != nil {
		fmt.Fprintln(os.Stderr, "bench: -rows:", err)
		os.Exit(2)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	missed := 0
	for _, s := range sections {
		if !wanted.MatchString(s.name) {
			continue
		}
		err := s.run(*rounds, func(r Row) {
			r.Section = s.name
			if r.Target != "" && !r.OK {
				missed++
			}
			print(out, r, *asJSON)
			if slices.Contains(slow, s.name) {
				out.Flush()
			}
		})
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", s.name, err)
			os.Exit(1)
		}
		out.Flush()
	}
	if missed > 0 && !*asJSON {
		fmt.Printf("%d figures missed their target\n", missed)
	}
}

func print(out *tabwriter.Writer, r Row, asJSON bool) {
	if asJSON {
		json.NewEncoder(os.Stdout).Encode(r)
		return
	}
	verdict := ""
	switch {
	case r.Target != "" && r.OK:
		verdict = "ok"
	case r.Target != "":
		verdict = "MISSED"
	}
	fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", r.Section, r.Figure, r.Value, r.Target, verdict)
}
