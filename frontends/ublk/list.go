package ublk

import (
	"strconv"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/ublk/ublkproto"
)

// list is the command.
func (t *Tool) list(c *command) error {
	devices := t.Kernel.Devices()
	found := map[uint32]map[string]any{}
	if len(devices) > 0 {
		control, err := newControl(t.Kernel)
		if err != nil {
			return err
		}
		if found, err = t.mapped(control, devices); err != nil {
			return err
		}
	}
	all := map[string]daemon.Device{}
	for device, m := range found {
		all[blockPath(device)] = m
	}
	return daemon.PrintDevices(t.Out, c.flag("json"), all)
}

// mapped tells about devices: the options of their servers. Devices of other
// programs are not ours to list. If none can be asked, the error says why.
func (t *Tool) mapped(c *control, devices []uint32) (map[uint32]map[string]any, error) {
	found := map[uint32]map[string]any{}
	states := t.states()
	var failed error
	asked := 0
	for _, device := range devices {
		i, err := c.info(device)
		if err != nil {
			failed = err
			continue
		}
		asked++
		if m := t.describe(&i, states[stateName(device)]); m != nil {
			found[device] = m
		}
	}
	if asked == 0 {
		return nil, failed
	}
	return found, nil
}

// describe is an entry of ls; nil = the device is none of ours.
func (t *Tool) describe(i *ublkproto.DevInfo, s *state) map[string]any {
	if s != nil && s.Mark != i.Mark {
		s = nil
	}
	if t.dead(i) {
		// What the device was is not among the options: who looks for an image that
		// is mapped must not find one that nobody serves.
		m := map[string]any{"dead": true}
		if s != nil && s.Options["image"] != "" {
			m["last_image"] = s.Options["image"]
		}
		return m
	}
	options := describe(t.Kernel.CommandLine(int(i.ServerPID)))
	if options == nil {
		return nil
	}
	m := map[string]any{"pid": i.ServerPID}
	for name, value := range options {
		m[name] = value
	}
	if s != nil && s.PID == int(i.ServerPID) { // what --recover has found out itself
		for _, name := range targetOptions {
			if value := s.Options[name]; value != "" && m[name] == nil {
				m[name] = value
			}
		}
	}
	if n, err := strconv.Atoi(options["dev_num"]); err == nil {
		m["dev_num"] = n
	}
	return m
}

// dead tells whether a device has no server.
func (t *Tool) dead(i *ublkproto.DevInfo) bool {
	return i.State != ublkproto.Live || !t.Kernel.Alive(int(i.ServerPID))
}
