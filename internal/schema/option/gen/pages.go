package main

import (
	_ "embed"
	"fmt"
	"strings"

	"vitastor/internal/schema/option"
)

const notice = "<!-- Written by go generate in internal/schema/option from the table there. Do not edit. -->\n\n"

//go:embed intro.md
var intro string

// pages returns the text of each file of docs/config.
func pages() map[string]string {
	all := map[string]string{"README.md": notice + intro + index()}
	for i, name := range option.Sections {
		all[name+".md"] = page(option.Section(i))
	}
	return all
}

// index lists all names with links.
func index() string {
	var b strings.Builder
	b.WriteString("\n## All parameters\n")
	for i, name := range option.Sections {
		fmt.Fprintf(&b, "\n**[%s](%s.md)**:", option.Section(i).Title(), name)
		separator := " "
		for _, o := range option.All() {
			if o.Section == option.Section(i) {
				fmt.Fprintf(&b, "%s[%s](%s.md#%s)", separator, o.Name, name, o.Name)
				separator = ", "
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func page(s option.Section) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s# %s parameters\n\nHow values are written, where they come from and when a change counts: [README.md](README.md).\n",
		notice, s.Title())
	for _, o := range option.All() {
		if o.Section == s {
			entry(&b, o)
		}
	}
	return b.String()
}

func entry(b *strings.Builder, o *option.Option) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", o.Name, o.Doc)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "* %s: %s\n", name, value)
		}
	}
	row("Type", kind(o))
	row("Default", o.DefaultShown())
	row("Limits", limits(o))
	row("From", from(o))
	row("Used by", o.Used.String())
	row("Changes while running", o.Live.String())
	row("Other names", aliases(o))
	if o.WriteAs != "" {
		row("Store it as", "`"+o.WriteAs+"`, the only name that reference programs know")
	}
	if o.Undocumented {
		row("Note", "not in the manual of the reference")
	}
}

func kind(o *option.Option) string {
	if o.Kind == option.Enum {
		return "one of `" + strings.Join(o.Choices, "`, `") + "`"
	}
	return o.Kind.String()
}

func limits(o *option.Option) string {
	text := o.LimitsShown()
	if text == "" {
		return ""
	}
	if o.OutsideDefault {
		return text + "; other values count as the default"
	}
	return text + "; other values count as the nearest of these"
}

func from(o *option.Option) string {
	text := o.From.String()
	switch {
	case o.CommandLineOnly:
		text += "; describes one OSD"
	case o.LocalOnly():
		text += "; ignored in etcd"
	}
	return text
}

func aliases(o *option.Option) string {
	var names []string
	for _, a := range o.Aliases {
		text := "`" + a.Name + "`"
		if a.From != 0 {
			text += " (drivers)"
		}
		if a.Used != 0 {
			text += " (" + a.Used.String() + ")"
		}
		if a.Convert != nil {
			text += " (a switch)"
		}
		names = append(names, text)
	}
	return strings.Join(names, ", ")
}
