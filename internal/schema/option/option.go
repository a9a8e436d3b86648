package option

import (
	"encoding/json"
	"strings"
	"time"
)

// Kind says how a value is written, and which Go type it becomes.
type Kind uint8

// Kinds of config.md §3. The kinds of bool only differ in what reference
// programs understand; we accept every spelling everywhere.
const (
	Int      Kind = iota // int64
	Bytes                // int64; the reference takes no suffix here
	Size                 // int64; also with a suffix, hexadecimal or octal
	Seconds              // time.Duration
	Millis               // time.Duration
	Micros               // time.Duration
	Float                // float64
	Interval             // time.Duration from a text like 30d
	BoolA                // bool: true, "true", "yes", "1"
	BoolB                // bool: everything is true but false, 0, "false", "no", "0"
	BoolC                // bool: true, or a number other than 0, also as a string
	BoolD                // bool: like BoolA, and 1
	BoolE                // bool: only true
	BoolJ                // bool: what JavaScript takes for true
	String               // string
	Path                 // string
	Enum                 // string, one of Choices
	List                 // []string
	Networks             // []netip.Prefix
	Object               // schema.Object
)

var kindNames = [...]string{"int", "bytes", "size", "seconds", "ms", "us", "float", "time",
	"bool", "bool", "bool", "bool", "bool", "bool", "string", "path", "enum", "list", "networks", "object"}

func (k Kind) String() string { return kindNames[k] }

// IsBool tells whether k is one of the kinds of bool.
func (k Kind) IsBool() bool { return k >= BoolA && k <= BoolJ }

// unit is how long 1 is, of kinds that are numbers of time units.
func (k Kind) unit() time.Duration {
	switch k {
	case Seconds:
		return time.Second
	case Millis:
		return time.Millisecond
	case Micros:
		return time.Microsecond
	}
	return 0
}

// Component is a set of programs.
type Component uint16

const (
	OSD Component = 1 << iota
	Client
	Monitor
	Disk // the disk tool
	CLI
	NBD
	UBLK
	QEMU
)

var componentNames = []string{"osd", "client", "mon", "disk", "cli", "nbd", "ublk", "qemu"}

// String lists the programs, separated by spaces.
func (c Component) String() string {
	var names []string
	for i, name := range componentNames {
		if c>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// Source is where a value comes from; From is a set of them.
type Source uint8

const (
	File        Source = 1 << iota // F: the configuration file
	Global                         // G: config/global in etcd
	Superblock                     // S: the disk superblock; the OSD gets it as a command line
	CommandLine                    // C
	Driver                         // U: options of a driver, or of the C library
)

var sourceLetters = []string{"F", "G", "S", "C", "U"}

// String lists the sources by their letters in config.md §1.
func (s Source) String() string {
	var letters []string
	for i, letter := range sourceLetters {
		if s>>i&1 != 0 {
			letters = append(letters, letter)
		}
	}
	return strings.Join(letters, " ")
}

// rank orders sources: what has the higher one counts.
func (s Source) rank() int {
	switch s {
	case File:
		return 0
	case Global:
		return 1
	}
	return 2
}

// own tells that only our own program is told the value.
func (s Source) own() bool { return s.rank() == 2 }

// Section is a chapter of the documentation.
type Section uint8

const (
	CommonSection  Section = iota // config.md §4
	NetworkSection                // §5
	ClientSection                 // §6
	LayoutSection                 // §7
	OSDSection                    // §8
	MonitorSection                // §9, monitor.md §1
)

// Sections are the names of the chapters.
var Sections = [...]string{"common", "network", "client", "layout", "osd", "monitor"}

func (s Section) String() string { return Sections[s] }

// Option is one row of the table.
type Option struct {
	Name    string // the documented name
	Aliases []Alias
	Kind    Kind
	// Default as JSON; "" = none. DefaultText describes one that is computed.
	Default     string
	DefaultText string
	Choices     []string // of an Enum
	// Min and Max limit numbers, in the unit of the kind. Max 0 = as much as
	// fits. What is outside is moved to the limit, or, with OutsideDefault,
	// replaced by the default.
	Min, Max       float64
	OutsideDefault bool
	Zero           ZeroRule
	Check          Check // nil = no further rule
	// Auto: an absent bool is neither true nor false, see Tristate.
	Auto bool
	// From is where the value may come from. Superblock, CommandLine and
	// Driver are allowed everywhere; see Option.takenFrom.
	From Source
	// CommandLineOnly parameters describe one OSD. Compat: reference OSDs
	// also take them from the file, and so do we, with a warning.
	CommandLineOnly bool
	// Live are the components that apply a change in etcd while running.
	Live Component
	// Used are the components that read the value, Required those that cannot
	// run without one.
	Used, Required Component
	// WriteAs is the name that reference programs read; "" = Name.
	WriteAs      string
	Undocumented bool // not in the manual of the reference
	Section      Section
	Doc          string
	// derive computes the value in use. explicit is nil if none was given.
	derive func(r *resolver, explicit any) any
}

// ZeroRule says what the number 0 means.
type ZeroRule uint8

const (
	ZeroDefault ZeroRule = iota // it stands for the default, if there is one (config.md §3)
	ZeroKept                    // a value of its own, also below Min
	ZeroClamped                 // a number like others
)

// Check returns what is allowed, or "" if the value is.
type Check func(v any) string

// Alias is another name of an option.
type Alias struct {
	Name    string
	From    Source                                    // 0 = everywhere
	Used    Component                                 // 0 = everywhere
	Convert func(raw json.RawMessage) json.RawMessage // nil = same values
}

// takenFrom tells whether c takes the value from src.
func (o *Option) takenFrom(src Source) bool {
	return src.own() || o.From&src != 0 || src == File && o.CommandLineOnly
}

// LocalOnly options describe one host or one OSD: they are ignored in etcd.
func (o *Option) LocalOnly() bool { return o.From&Global == 0 }

// WriteName is the name to store the option under, so that reference programs
// find it.
func (o *Option) WriteName() string {
	if o.WriteAs != "" {
		return o.WriteAs
	}
	return o.Name
}

// All returns the table. It must not be changed.
func All() []*Option { return all }

// Find returns the option with a name, or an old or other name of it; nil if
// there is none.
func Find(name string) *Option { return byName[name].option }

type named struct {
	option *Option
	alias  *Alias // nil = the name itself
}

var all, byName = index(commonTable, networkTable, clientTable, layoutTable, osdTable, monitorTable)

func index(tables ...[]Option) ([]*Option, map[string]named) {
	var list []*Option
	names := map[string]named{}
	for section, table := range tables {
		for i := range table {
			o := &table[i]
			o.Section = Section(section)
			list = append(list, o)
			names[o.Name] = named{option: o}
			for j := range o.Aliases {
				names[o.Aliases[j].Name] = named{o, &o.Aliases[j]}
			}
		}
	}
	return list, names
}
