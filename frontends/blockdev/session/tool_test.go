package session

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vitastor/internal/schema/option"
)

func TestTool(t *testing.T) {
	tool := Tool{Usage: &option.Tool{Name: "vitastor-x", Component: option.Client, Arguments: "COMMAND [DEVICE]",
		Flags: []option.Flag{{Name: "foreground", Value: "1"}, {Name: "force"}, {Name: "image", Value: "NAME"}}},
		Commands: "commands: do\n", Switches: []string{"--foreground"}}
	for _, c := range []struct {
		line      string
		code      int
		out, errs string // begin so
	}{
		{"do /dev/x --image a,b,,c --force", 0, "/dev/x [a b c] true false", ""},
		{"do --foreground", 0, " [] false true", ""},
		{"do --image x --image", 1, "", "vitastor-x: "},
		{"fail", 1, "", "vitastor-x: it failed\n"},
		{"do a b", 1, "", `vitastor-x: unexpected argument "b"`},
		{"undo", 0, "commands: do\n", `vitastor-x: there is no command "undo"`},
		{"", 0, "commands: do\n", ""},
		{"do --help", 0, "commands: do\n", ""},
	} {
		var out, errs bytes.Buffer
		code := tool.Main(strings.Fields(c.line), &out, &errs, func(verb string) func(*Line) error {
			switch verb {
			case "do":
				return func(l *Line) error {
					fmt.Fprintln(&out, l.Device, l.Names("image"), l.Given("force"), l.Given("foreground"))
					return nil
				}
			case "fail":
				return func(*Line) error { return errors.New("it failed") }
			}
			return nil
		})
		if code != c.code || !strings.HasPrefix(out.String(), c.out) || !strings.HasPrefix(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 {
			t.Errorf("%q: exit %d, %q, %q", c.line, code, out.String(), errs.String())
		}
	}
}
