package vduse

import (
	"encoding/json"
	"fmt"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
)

// state is what vduse-NAME.json says of a device.
type state struct {
	Image     string `json:"image,omitempty"`
	Pool      uint64 `json:"pool_id,omitempty"`  // of a bare inode
	Inode     uint64 `json:"inode_id,omitempty"` // its number in the pool
	SizeBytes uint64 `json:"size,omitempty"`
	ReadOnly  bool   `json:"readonly,omitempty"`
	PID       int    `json:"pid"`
	Cluster   string `json:"cluster,omitempty"` // see session.Cluster
	// Options are those of the command line, for a server that takes over.
	Options map[string]json.RawMessage `json:"options,omitempty"`
}

// newState describes what a command line wants.
func newState(t session.Target, readOnly bool, options option.Layer, pid int) *state {
	s := &state{Image: t.Image, ReadOnly: readOnly, PID: pid, Options: map[string]json.RawMessage{}}
	if t.Inode != 0 {
		s.Pool, s.Inode, s.SizeBytes = uint64(t.Inode.Pool()), t.Inode.Number(), t.SizeBytes
	}
	for name, raw := range options.Values.All() {
		s.Options[name] = raw
	}
	return s
}

// target is what is served.
func (s *state) target() session.Target {
	if s.Image != "" {
		return session.Target{Image: s.Image}
	}
	return session.Target{Inode: meta.MakeInode(meta.PoolID(s.Pool), s.Inode), SizeBytes: s.SizeBytes}
}

// layer has the options of the dead server, as if they were given now; those
// that are given now are stronger.
func (s *state) layer(given option.Layer) option.Layer {
	l := option.Layer{Source: given.Source, Where: given.Where, Values: given.Values.Clone()}
	for name, raw := range s.Options {
		if l.Values.Get(name) == nil {
			l.Values.Set(name, raw)
		}
	}
	return l
}

// states are those of all devices, by name.
func (t *Tool) states() map[string]*state {
	return daemon.LoadStates[state](kind, func(err error) { t.log.Warn(err.Error()) })
}

// describe is for messages.
func (s *state) describe() string {
	if s == nil {
		return "an unknown image"
	}
	return fmt.Sprint(s.target())
}
