package ublk

import (
	"encoding/json"
	"path/filepath"
	"strconv"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/internal/schema/option"
)

// state is what a server leaves on the host about its device.
type state struct {
	Options map[string]string `json:"options"` // of the command line
	Mark    uint64            `json:"mark"`    // that of the device: otherwise this is about a former one
	PID     int               `json:"pid"`
	Cluster string            `json:"cluster,omitempty"` // see session.Cluster
}

const stateKind = "ublk"

func stateName(device uint32) string { return "ublkb" + strconv.FormatUint(uint64(device), 10) }

// states are those of all devices.
func (t *Tool) states() map[string]*state {
	return daemon.LoadStates[state](stateKind, func(err error) { t.log.Warn("state file", "err", err) })
}

// optionsOf are the options of a command line, as ls prints them.
func optionsOf(c option.Command) map[string]string {
	m := map[string]string{}
	for name, raw := range c.Options.Values.All() {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			m[name] = text
		}
	}
	for name, value := range c.Flags {
		m[name] = value
	}
	return m
}

// describe reads the command line of a server; nil = it is none of ours.
func describe(args []string) map[string]string {
	if len(args) < 2 || filepath.Base(args[0]) != programName {
		return nil
	}
	c, err := commandLine.Parse(args[1:])
	if err != nil || len(c.Rest) == 0 || c.Rest[0] != "map" {
		return nil
	}
	m := optionsOf(c)
	if len(c.Rest) > 1 {
		if n, err := deviceNumber(c.Rest[1]); err == nil {
			m["dev_num"] = strconv.FormatUint(uint64(n), 10)
		}
	}
	return m
}

// targetOptions choose what is served: the rest may differ between servers of
// one device.
var targetOptions = []string{"image", "pool", "inode", "size", "readonly"}
