package nbd

import (
	"encoding/json"
	"path/filepath"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/nbd/netlink"
)

// programName is what command lines of our processes begin with.
const programName = "vitastor-nbd"

// list is the command.
func (t *Tool) list(c *command) error {
	all := map[string]daemon.Device{}
	for index, m := range t.mapped() {
		all[netlink.Path(index)] = m
	}
	return daemon.PrintDevices(t.Out, c.Given("json"), all)
}

// mapped finds our devices by the command lines of their processes.
func (t *Tool) mapped() map[int]daemon.Device {
	found := map[int]daemon.Device{}
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
func (t *Tool) revived(index int) daemon.Device {
	for _, pid := range t.Kernel.Processes() {
		args := t.Kernel.CommandLine(pid)
		if m := describe(args, pid); m != nil && m["command"] == "netlink-revive" && m["dev_num"] == index {
			return m
		}
	}
	return nil
}

// describe reads a command line; nil = it is none of ours that maps a device.
func describe(args []string, pid int) daemon.Device {
	if len(args) < 2 || filepath.Base(args[0]) != programName {
		return nil
	}
	parsed, err := commandLine.Parse(args[1:])
	if err != nil || len(parsed.Rest) == 0 {
		return nil
	}
	m := daemon.Device{"pid": pid, "interface": "nbd"}
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
