package csi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// states remember what is attached, in files, so that devices whose processes
// have died with the driver's container get new ones. The folder is in memory
// (/run): a reboot forgets them together with the devices.
//
//	vitastor-vduse-<id>.json  vitastor-ublk-<N>.json  vitastor-nbd-<N>.json   (N as in /dev/ublkbN)
//
// The first two are also what the reference's driver writes and reads (spec
// integrations.md §4).
type states struct {
	dir string
	log *slog.Logger
}

// stateFile is the content of a file.
type stateFile struct {
	ConfigPath string `json:"configPath"`
	VDPAID     string `json:"vdpaId,omitempty"`
	Image      string `json:"image"`
	BlockDev   string `json:"blockdev"`
	ReadOnly   bool   `json:"readonly"`
	PIDFile    string `json:"pidFile,omitempty"`
}

const statePrefix = "vitastor-"

// foreignMethod is that of files which are about servers of file systems, of the
// reference's driver. They are left alone.
const foreignMethod = "nfs"

// load reads all files. Those that cannot be read are left out: they tell
// nothing that could be used.
func (s states) load() []Attachment {
	paths, _ := filepath.Glob(filepath.Join(s.dir, statePrefix+"*.json"))
	var list []Attachment
	for _, path := range paths {
		method, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), statePrefix), "-")
		if method == foreignMethod {
			continue
		}
		text, err := os.ReadFile(path)
		var f stateFile
		if err == nil {
			f, err = parseState(text)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			s.log.Warn("state file", "path", path, "err", err)
			continue
		}
		list = append(list, Attachment{Method: method, Device: f.BlockDev, ConfigPath: f.ConfigPath, Image: f.Image, ReadOnly: f.ReadOnly,
			ID: f.VDPAID, PIDFile: f.PIDFile})
	}
	return list
}

func parseState(text []byte) (stateFile, error) {
	var f stateFile
	if err := json.Unmarshal(text, &f); err != nil {
		return f, err
	}
	if f.Image == "" || !strings.HasPrefix(f.BlockDev, "/dev/") {
		return f, fmt.Errorf("it names no image and device")
	}
	return f, nil
}

// path is the file of an attachment.
func (s states) path(a *Attachment) string {
	id := a.ID
	if id == "" {
		id = strings.TrimLeft(filepath.Base(a.Device), "abcdefghijklmnopqrstuvwxyz")
	}
	if id == "" {
		id = filepath.Base(a.Device)
	}
	return filepath.Join(s.dir, statePrefix+a.Method+"-"+strings.TrimPrefix(id, statePrefix+a.Method+"-")+".json")
}

// save writes a file, whole or not at all.
func (s states) save(a *Attachment) error {
	text, err := json.Marshal(stateFile{ConfigPath: a.ConfigPath, VDPAID: a.ID, Image: a.Image, BlockDev: a.Device, ReadOnly: a.ReadOnly, PIDFile: a.PIDFile})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	path := s.path(a)
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// forget removes the files of an attachment, which may have other names than
// ours.
func (s states) forget(a *Attachment) error {
	paths, _ := filepath.Glob(filepath.Join(s.dir, statePrefix+a.Method+"-*.json"))
	var errs []error
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if f, err := parseState(text); err == nil && f.BlockDev == a.Device && f.Image == a.Image {
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
