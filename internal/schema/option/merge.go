package option

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vitastor/internal/invariant"
	"vitastor/internal/schema"
)

// Layer is what one source says.
type Layer struct {
	Source Source
	Where  string // for messages: a path, an etcd key, "the command line"
	Values schema.Object
}

// Facts are what defaults need to know of the host.
type Facts struct {
	Hostname string
}

// Problem is something to tell the administrator. Fatal ones are joined into
// the error of Merge.
type Problem struct {
	Option string // as written in the source
	Where  string
	Value  string // as written, shortened; "" = does not matter
	Text   string // what is wrong, what is used or allowed instead
	Fatal  bool
}

func (p Problem) Error() string {
	if p.Option == "" {
		return fmt.Sprintf("%s: %s", p.Where, p.Text)
	}
	value := ""
	if p.Value != "" {
		value = " is " + p.Value
	}
	return fmt.Sprintf("parameter %s%s in %s: %s", p.Option, value, p.Where, p.Text)
}

// Unknown is a parameter that is not in the table.
type Unknown struct {
	Name   string
	Source Source
	Value  json.RawMessage
}

// Set is the configuration of one component: every option of the table has its
// value in use, also those of other components, with the defaults as c sees
// them.
type Set struct {
	component Component
	facts     Facts
	explicit  map[string]any // canonical name -> value given and allowed
	values    map[string]any // canonical name -> value in use; nil = none
	Unknown   []Unknown
	Warnings  []Problem
}

// Merge takes each parameter from the source that counts most: file, then
// etcd, then superblock, command line and driver options, of which the last
// layer counts. The Set can be used even with an error: what is wrong has its
// default.
func Merge(c Component, facts Facts, layers ...Layer) (*Set, error) {
	m := merger{
		set:    &Set{component: c, facts: facts, explicit: map[string]any{}, values: map[string]any{}},
		chosen: map[string]found{},
	}
	layers = slices.Clone(layers)
	slices.SortStableFunc(layers, func(a, b Layer) int { return cmp.Compare(a.Source.rank(), b.Source.rank()) })
	for i := range layers {
		m.layer(&layers[i])
	}
	for _, o := range all {
		if f, ok := m.chosen[o.Name]; ok {
			m.parse(o, f)
		}
	}
	r := resolver{m.set, byName, map[string]bool{}}
	for _, o := range all {
		r.value(o.Name)
	}
	return m.set, errors.Join(m.fatal...)
}

// found is a value as written.
type found struct {
	layer *Layer
	name  string
	raw   json.RawMessage
	alias *Alias
}

type merger struct {
	set    *Set
	chosen map[string]found
	fatal  []error
}

func (m *merger) layer(l *Layer) {
	for name, raw := range l.Values.All() {
		n, ok := m.lookup(name, l.Source)
		if !ok {
			m.unknown(l, name, raw)
			continue
		}
		f, o := found{l, name, raw, n.alias}, n.option
		if !o.takenFrom(l.Source) {
			m.warn(o, f, fmt.Sprintf("ignored here, it is only taken from: %s", describe(o.From|CommandLine)))
			continue
		}
		if l.Source == File && o.From&File == 0 {
			m.warn(o, f, "it describes one OSD: put it into the OSD's superblock or onto its command line")
		}
		// In one layer the name itself counts more than an old one.
		if old, ok := m.chosen[o.Name]; !ok || old.layer != l || old.alias != nil {
			m.chosen[o.Name] = f
		}
	}
}

// lookup finds the option that is called name in a source.
func (m *merger) lookup(name string, src Source) (named, bool) {
	n, ok := byName[name]
	if ok && n.alias != nil {
		ok = (n.alias.From == 0 || n.alias.From&src != 0 || src == CommandLine) &&
			(n.alias.Used == 0 || n.alias.Used&m.set.component != 0)
	}
	return n, ok
}

func (m *merger) unknown(l *Layer, name string, raw json.RawMessage) {
	m.set.Unknown = append(m.set.Unknown, Unknown{name, l.Source, raw})
	if strings.HasPrefix(name, "antietcd_") {
		return
	}
	text := "it is not known, and has no effect"
	if guess := Suggest(name); guess != "" {
		text += "; did you mean " + guess + "?"
	}
	m.set.Warnings = append(m.set.Warnings, Problem{Option: name, Where: l.Where, Text: text})
}

// warn adds a warning, unless the option is none of our component.
func (m *merger) warn(o *Option, f found, text string) {
	if o.Used&m.set.component == 0 {
		return
	}
	m.set.Warnings = append(m.set.Warnings, f.problem(text))
}

func (f *found) problem(text string) Problem {
	return Problem{Option: f.name, Where: f.layer.Where, Value: shorten(string(f.raw)), Text: text}
}

const maxShown = 60 // bytes of a value in a message

func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "..."
}

func (m *merger) parse(o *Option, f found) {
	raw := f.raw
	if f.alias != nil && f.alias.Convert != nil {
		raw = f.alias.Convert(raw)
	}
	v, note, err := o.Parse(raw)
	shared := !f.layer.Source.own()
	switch {
	case err != nil && !shared && o.Used&m.set.component != 0:
		p := f.problem("must be " + err.Error())
		p.Fatal = true
		m.fatal = append(m.fatal, p)
	case err != nil:
		text := fmt.Sprintf("must be %s; the default is used", err)
		if other := o.otherReading(raw, nil); shared && other != "" {
			text += " (" + other + ")"
		}
		m.warn(o, f, text)
	default:
		m.set.explicit[o.Name] = v
		if note != "" {
			m.warn(o, f, note)
		}
		if other := o.otherReading(raw, v); shared && other != "" && string(raw) != "null" {
			m.warn(o, f, other)
		}
	}
}

// Get returns the value in use; nil = there is none. Its type is that of the
// option's kind. The name must be in the table, also for all others below.
func (s *Set) Get(name string) any {
	v, ok := s.values[name]
	if !ok {
		invariant.Fail("option %s is not in the table", name)
	}
	return v
}

// Given tells whether some source gave a valid value, as against a default.
func (s *Set) Given(name string) bool { return s.explicit[name] != nil }

// Suggest returns the name in the table that is most like name, or "".
func Suggest(name string) string {
	plain := strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	best, limit := "", 1+len(plain)/6
	if len(plain) > maxShown {
		return "" // nobody mistypes that
	}
	for _, o := range all {
		if d := distance(plain, o.Name, limit); d <= limit && (d < limit || best == "") {
			best, limit = o.Name, d
		}
		for _, a := range o.Aliases {
			if a.Name == plain {
				return o.Name
			}
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour; some number above limit if it is more.
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) > limit {
		return limit + 1
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(last[j]+cost, last[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}

func abs(n int) int { return max(n, -n) }

var sourceNames = []string{"the configuration file", "config/global", "the superblock", "the command line", "driver options"}

// describe lists sources in words.
func describe(s Source) string {
	var names []string
	for i, name := range sourceNames {
		if s>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
