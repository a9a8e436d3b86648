package vhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/internal/sys"
)

// state is what map leaves on the host about a socket.
type state struct {
	Options map[string]string `json:"options"` // of the command line
	PID     int               `json:"pid"`
}

const stateKind = "vhost"

// defaultSocket is where map listens if it is not told.
func defaultSocket(t session.Target) string {
	return filepath.Join(daemon.StateDir(), "vhost-"+url.PathEscape(strings.TrimPrefix(t.String(), "image "))+".sock")
}

// state describes this process.
func (s *service) state(c *command) state {
	st := state{Options: map[string]string{}, PID: os.Getpid()}
	for name, raw := range c.Options.Values.All() {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			st.Options[name] = text
		}
	}
	maps.Copy(st.Options, c.Flags)
	st.Options["socket"] = s.paths[0]
	return st
}

// forget removes the state of this process.
func (s *service) forget() error {
	for _, path := range s.paths {
		if st := load(nil)[path]; st != nil && st.PID == os.Getpid() {
			if err := daemon.RemoveState(stateKind, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// load reads the states of all sockets.
func load(warn func(error)) map[string]*state {
	if warn == nil {
		warn = func(error) {}
	}
	return daemon.LoadStates[state](stateKind, warn)
}

// alive tells whether the process that a state is about is there.
func (s *state) alive() bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID))
	if err != nil {
		return false
	}
	list := strings.Split(string(args), "\x00")
	return filepath.Base(list[0]) == programName && slices.Contains(list, "map")
}

// listening tells whether somebody listens on a socket.
func listening(path string) bool {
	fd, err := sys.DialUnix(path)
	if err == nil {
		sys.Close(fd)
	}
	return err == nil || errors.Is(err, syscall.EAGAIN)
}

// taken tells whether somebody serves at a socket. One that was killed may still
// be about to close it.
func taken(path string) bool {
	for began := time.Now(); listening(path); time.Sleep(endPause) {
		if s := load(nil)[path]; s == nil || s.alive() || time.Since(began) > deathPatience {
			return true
		}
	}
	return false
}

// list is the command.
func (t *Tool) list(c *command) error {
	all := map[string]daemon.Device{}
	for path, s := range load(func(err error) { t.log.Warn("state file", "err", err) }) {
		m := daemon.Device{"interface": "vhost"}
		if s.alive() {
			m["pid"] = s.PID
			for name, value := range s.Options {
				m[name] = value
			}
		} else {
			// Who looks for an image that is mapped must not find one that nobody
			// serves.
			m["dead"] = true
			if image := s.Options["image"]; image != "" {
				m["last_image"] = image
			}
		}
		all[path] = m
	}
	return daemon.PrintDevices(t.Out, c.Given("json"), all)
}

const (
	endPatience = 60 * time.Second
	endPause    = 20 * time.Millisecond
	// deathPatience is for a killed process to give back what it has.
	deathPatience = 5 * time.Second
)

// unmap is the command: it ends a process of map, which makes everything
// durable first.
func (t *Tool) unmap(c *command) error {
	path, err := t.toUnmap(c)
	if err != nil {
		return err
	}
	s := load(nil)[path]
	if s == nil {
		return fmt.Errorf("%s is not mapped here: `%s ls` lists what is", path, programName)
	}
	if s.alive() {
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("process %d, which serves %s, cannot be ended: %w", s.PID, path, err)
		}
		for began := time.Now(); s.alive(); time.Sleep(endPause) {
			if time.Since(began) > endPatience {
				return fmt.Errorf("process %d still waits for the last writes to %s: look at `vitastor-cli status`; kill -9 %[1]d gives them up",
					s.PID, path)
			}
		}
	} else if !listening(path) {
		os.Remove(path) // what a process that was killed has left
	}
	return daemon.RemoveState(stateKind, path)
}

// toUnmap is the socket that the command line names.
func (t *Tool) toUnmap(c *command) (string, error) {
	for _, path := range []string{c.Device, c.Flags["socket"]} {
		if path != "" {
			return filepath.Abs(path)
		}
	}
	image := c.Flags["image"]
	if image == "" {
		return "", fmt.Errorf("which socket? Use unmap PATH, or unmap --image NAME (`%s ls` lists them)", programName)
	}
	var found []string
	for path, s := range load(nil) {
		if s.Options["image"] == image {
			found = append(found, path)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("image %s is not mapped here: `%s ls` lists what is", image, programName)
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("image %s is mapped %d times: say which socket, such as %s", image, len(found), found[0])
}
