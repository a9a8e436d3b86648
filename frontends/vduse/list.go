package vduse

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// mapped is one device of ls.
type mapped map[string]any

// list is the command.
func (t *Tool) list(c *command) error {
	found := t.mapped()
	if c.flag("json") {
		text, err := json.Marshal(found)
		if err == nil {
			fmt.Fprintf(t.Out, "%s\n", text)
		}
		return err
	}
	for _, device := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintln(t.Out, device)
		m := found[device]
		for _, key := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(t.Out, "%s: %v\n", key, m[key])
		}
		fmt.Fprintln(t.Out)
	}
	return nil
}

// mapped finds our devices, by the path of the block device, or of the VDUSE
// device if there is no such. "dead" are those without a server.
func (t *Tool) mapped() map[string]mapped {
	found := map[string]mapped{}
	for name, s := range t.states() {
		m := mapped{"name": name, "interface": kind}
		// Who looks for an image wants one that is served.
		if served(name) {
			m["pid"], m["image"] = s.PID, s.Image
		} else {
			m["dead"], m["last_image"] = true, s.Image
		}
		if s.Image == "" {
			delete(m, "image")
			delete(m, "last_image")
			m["pool"], m["inode"], m["size"] = s.Pool, s.Inode, s.SizeBytes
		}
		if s.ReadOnly {
			m["readonly"] = true
		}
		device := t.Kernel.BlockDevice(name)
		if device == "" {
			device = "/dev/vduse/" + name
		}
		found[device] = m
	}
	return found
}
