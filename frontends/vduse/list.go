package vduse

import "vitastor/frontends/blockdev/daemon"

// list is the command.
func (t *Tool) list(c *command) error {
	return daemon.PrintDevices(t.Out, c.Given("json"), t.mapped())
}

// mapped finds our devices, by the path of the block device, or of the VDUSE
// device if there is no such. "dead" are those without a server.
func (t *Tool) mapped() map[string]daemon.Device {
	found := map[string]daemon.Device{}
	for name, s := range t.states() {
		m := daemon.Device{"name": name, "interface": kind}
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
