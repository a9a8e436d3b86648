package option

import (
	"fmt"
	"strconv"
	"strings"
)

const helpColumns = 79

// Help is the text of --help.
func (t *Tool) Help() string {
	var b strings.Builder
	usage := "Usage: " + t.Name
	for _, o := range all {
		if o.Required&t.Component != 0 {
			usage += fmt.Sprintf(" --%s %s", o.Name, o.placeholder())
		}
	}
	usage += " [--option value ...]"
	if t.Arguments != "" {
		usage += " " + t.Arguments
	}
	wrap(&b, usage, 0, 4)
	wrap(&b, t.Summary, 0, 0)
	wrap(&b, "Options can also be written --option=value, and with - instead of _. Switches take 1 or 0. "+
		"They are also read from the configuration file, and (except those marked local) from config/global in etcd; "+
		"the command line counts most, the file least.", 0, 0)
	if len(t.Flags) > 0 {
		fmt.Fprintf(&b, "\nOptions of %s only:\n", t.Name)
		for _, f := range t.Flags {
			wrap(&b, strings.TrimSpace("--"+f.Name+" "+f.Value), 2, 4)
			wrap(&b, f.Doc, 6, 6)
		}
	}
	for section, title := range sectionTitles {
		head := fmt.Sprintf("\n%s:\n", title)
		for _, o := range all {
			if o.Section != Section(section) || o.Used&t.Component == 0 {
				continue
			}
			b.WriteString(head)
			head = ""
			wrap(&b, fmt.Sprintf("--%s %s", o.Name, o.placeholder()), 2, 4)
			wrap(&b, o.Doc+o.helpNotes(), 6, 6)
		}
	}
	return b.String()
}

var sectionTitles = [...]string{"Common", "Network", "Client", "Disk layout", "OSD", "Monitor"}

// Title is the section's name for readers.
func (s Section) Title() string { return sectionTitles[s] }

func (o *Option) placeholder() string {
	switch {
	case o.Kind.IsBool():
		return "1|0"
	case o.Kind == Enum:
		return strings.Join(o.Choices, "|")
	}
	return strings.ToUpper(o.Kind.String())
}

func (o *Option) helpNotes() string {
	text := ""
	if d := o.DefaultShown(); d != "" {
		text += " Default: " + d + "."
	}
	if l := o.LimitsShown(); l != "" {
		text += " Limits: " + l + "."
	}
	if o.LocalOnly() {
		text += " (local)"
	}
	return text
}

// DefaultShown is the default for readers; "" if there is none.
func (o *Option) DefaultShown() string {
	if o.DefaultText != "" {
		return o.DefaultText
	}
	if text, ok := stringOf([]byte(o.Default)); ok {
		return text
	}
	return o.Default
}

// LimitsShown are Min and Max for readers; "" if there are none.
func (o *Option) LimitsShown() string {
	low := strconv.FormatFloat(o.Min, 'f', -1, 64)
	high := strconv.FormatFloat(o.Max, 'f', -1, 64)
	switch {
	case o.Min > 0 && o.Max != 0 && o.Max < 1<<62:
		return low + " to " + high
	case o.Min > 0:
		return "at least " + low
	case o.Max != 0 && o.Max < 1<<62:
		return "at most " + high
	}
	return ""
}

// wrap writes text in lines of at most helpColumns letters, unless a word is
// longer.
func wrap(b *strings.Builder, text string, first, rest int) {
	column, indent := 0, first
	for word := range strings.FieldsSeq(text) {
		length := len([]rune(word))
		switch {
		case column == 0:
		case column+1+length > helpColumns:
			b.WriteByte('\n')
			column, indent = 0, rest
		default:
			b.WriteByte(' ')
			column++
		}
		if column == 0 {
			b.WriteString(strings.Repeat(" ", indent))
			column = indent
		}
		b.WriteString(word)
		column += length
	}
	b.WriteByte('\n')
}
