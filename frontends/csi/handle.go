package csi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// handle is what orchestrators call a volume or a snapshot by (spec
// integrations.md §4): a JSON object in a string, which they store for as long
// as the volume lives.
//
//	{"configPath":"/etc/vitastor/vitastor.conf","name":"pvc-1"}
//	{"configPath":"/etc/vitastor/vitastor.conf","name":"pvc-1","snapshot":"snapshot-1"}
//	{"configPath":"/etc/vitastor/vitastor.conf","name":"pvc-1","pool":"fs","vitastorfs":"fsmeta"}
type handle struct {
	ConfigPath string `json:"configPath"`
	Name       string `json:"name"` // of the image, with the prefix
	Pool       any    `json:"pool,omitempty"`
	Snapshot   string `json:"snapshot,omitempty"`
	VitastorFS string `json:"vitastorfs,omitempty"` // a folder of this file system
}

// errNoHandle is about texts that this driver has never given to anybody.
var errNoHandle = errors.New("no handle of this driver")

// parseHandle reads a handle; fields that we do not know are from older drivers
// and mean nothing any more.
func parseHandle(id, defaultConfig string) (handle, error) {
	var h handle
	if err := json.Unmarshal([]byte(id), &h); err != nil {
		return handle{}, fmt.Errorf("%q is %w: %v", id, errNoHandle, err)
	}
	if h.Name == "" || strings.Contains(h.Name, "@") || strings.Contains(h.Snapshot, "@") {
		return handle{}, fmt.Errorf("%q is %w: it must have the name of an image", id, errNoHandle)
	}
	if h.ConfigPath == "" {
		h.ConfigPath = defaultConfig
	}
	return h, nil
}

// String is the form that orchestrators get.
func (h handle) String() string {
	text, err := json.Marshal(h)
	if err != nil { // Pool came from JSON or is a text
		return h.Name
	}
	return string(text)
}

// image is the name of the image or snapshot.
func (h handle) image() string {
	if h.Snapshot != "" {
		return h.Name + "@" + h.Snapshot
	}
	return h.Name
}

// volume is the handle without the snapshot.
func (h handle) volume() handle {
	h.Snapshot = ""
	return h
}

// of is the handle of an image or snapshot in the same cluster.
func handleOf(configPath, image string) handle {
	name, snapshot, _ := strings.Cut(image, "@")
	return handle{ConfigPath: configPath, Name: name, Snapshot: snapshot}
}

// key is what the volume is locked by, with all its snapshots.
func (h handle) key() string { return h.ConfigPath + ":block:" + h.Name }
