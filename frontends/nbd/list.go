package nbd

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"vitastor/frontends/nbd/netlink"
)

// mapped is one device of ls: its options as text, pid and dev_num as numbers.
type mapped map[string]any

// programName is what command lines of our processes begin with.
const programName = "vitastor-nbd"

// list is the command.
func (t *Tool) list(c *command) error {
	found := t.mapped()
	if c.flag("json") {
		all := map[string]mapped{}
		for index, m := range found {
			all[netlink.Path(index)] = m
		}
		text, err := json.Marshal(all)
		if err == nil {
			fmt.Fprintf(t.Out, "%s\n", text)
		}
		return err
	}
	for _, index := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintln(t.Out, netlink.Path(index))
		m := found[index]
		for _, key := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(t.Out, "%s: %v\n", key, m[key])
		}
		fmt.Fprintln(t.Out)
	}
	return nil
}

// mapped finds our devices by the command lines of their processes.
func (t *Tool) mapped() map[int]mapped {
	found := map[int]mapped{}
	for index := 0; t.Kernel.Exists(index); index++ {
		pid := t.Kernel.PID(index)
		if pid == 0 {
			continue
		}
		m := describe(t.Kernel.CommandLine(pid), pid)
		if m == nil {
			m = t.revived(index)
		}
		if m != nil {
			delete(m, "command")
			found[index] = m
		}
	}
	return found
}

// revived finds the process that serves a device in place of the dead one which
// the kernel remembers.
func (t *Tool) revived(index int) mapped {
	for _, pid := range t.Kernel.Processes() {
		args := t.Kernel.CommandLine(pid)
		if m := describe(args, pid); m != nil && m["command"] == "netlink-revive" && m["dev_num"] == index {
			return m
		}
	}
	return nil
}

// describe reads a command line; nil = it is none of ours that maps a device.
func describe(args []string, pid int) mapped {
	if len(args) < 2 || filepath.Base(args[0]) != programName {
		return nil
	}
	parsed, err := parse(args[1:])
	if err != nil || len(parsed.Rest) == 0 {
		return nil
	}
	m := mapped{"pid": pid, "interface": "nbd"}
	switch parsed.Rest[0] {
	case "map":
	case "netlink-map":
		m["interface"] = "netlink"
	case "netlink-revive":
		m["interface"], m["command"] = "netlink", "netlink-revive"
	default:
		return nil
	}
	for name, raw := range parsed.Options.Values.All() {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			m[name] = text
		}
	}
	for name, value := range parsed.Flags {
		m[name] = value
	}
	if len(parsed.Rest) > 1 {
		if index, err := netlink.Index(parsed.Rest[1]); err == nil {
			m["dev_num"] = index
		}
	}
	return m
}
