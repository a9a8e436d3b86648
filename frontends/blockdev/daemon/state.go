package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// stateEnv names another StateDir, for tests and for users without privileges.
const stateEnv = "VITASTOR_RUN_DIR"

// StateDir is where state files are.
func StateDir() string {
	if dir := os.Getenv(stateEnv); dir != "" {
		return dir
	}
	return "/run/vitastor"
}

// StatePath is the file of a device. A name may have any characters.
func StatePath(kind, name string) string {
	return filepath.Join(StateDir(), kind+"-"+url.PathEscape(name)+".json")
}

// SaveState writes the state of a device, an object that JSON can tell.
func SaveState(kind, name string, state any) error {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(StateDir(), 0o755); err != nil {
		return fmt.Errorf("state files: %w: set %s to a folder that can be written", err, stateEnv)
	}
	f, err := os.CreateTemp(StateDir(), ".new-*")
	if err != nil {
		return fmt.Errorf("state files: %w: set %s to a folder that can be written", err, stateEnv)
	}
	_, err = f.Write(append(text, '\n'))
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), StatePath(kind, name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("state file: %w", err)
	}
	return nil
}

// RemoveState removes a state file, if it is there.
func RemoveState(kind, name string) error {
	if err := os.Remove(StatePath(kind, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// LoadStates reads all state files of a kind, by name. What cannot be read is
// told to warn and left out.
func LoadStates[T any](kind string, warn func(error)) map[string]*T {
	states := map[string]*T{}
	paths, _ := filepath.Glob(filepath.Join(StateDir(), kind+"-*.json"))
	for _, path := range paths {
		escaped := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), kind+"-"), ".json")
		name, err := url.PathUnescape(escaped)
		var text []byte
		if err == nil {
			text, err = os.ReadFile(path)
		}
		state := new(T)
		if err == nil {
			err = json.Unmarshal(text, state)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			warn(fmt.Errorf("state file %s: %w", path, err))
		default:
			states[name] = state
		}
	}
	return states
}
