package option

import "bytes"

// Change is an option whose value in use differs.
type Change struct {
	Option   *Option
	Old, New any // nil = none
}

// Diff compares the values in use of the component's options, in the order of
// the table: those it applies while running, and those that need a restart.
func Diff(old, new *Set) (live, restart []Change) {
	for _, o := range all {
		if o.Used&new.component == 0 {
			continue
		}
		before, after := old.Get(o.Name), new.Get(o.Name)
		if bytes.Equal(o.JSON(before), o.JSON(after)) {
			continue
		}
		c := Change{o, before, after}
		if o.Live&new.component != 0 {
			live = append(live, c)
		} else {
			restart = append(restart, c)
		}
	}
	return live, restart
}

// String is "name: old -> new".
func (c Change) String() string {
	return c.Option.Name + ": " + shorten(string(c.Option.JSON(c.Old))) + " -> " + shorten(string(c.Option.JSON(c.New)))
}
