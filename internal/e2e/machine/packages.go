package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNoPackages means that apt cannot give us a package.
var ErrNoPackages = errors.New("a package for virtual machines cannot be downloaded")

// CacheEnv names the folder of downloads instead of the user's cache.
const CacheEnv = "VITASTOR_CACHE"

// CacheDir is where packages are kept: nothing but they is there, it may be
// removed at any time.
func CacheDir() string {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "vitastor-tests")
}

// Fetch downloads a package with apt-get, without installing it, and returns the
// folder in the cache where it is unpacked and prepared.
func Fetch(cache, name string, prepare func(dir string) error) (string, error) {
	dir := filepath.Join(cache, name)
	if isDir(dir) {
		return dir, nil
	}
	unlock, err := lock(cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(dir) { // meanwhile
		return dir, nil
	}
	parts := dir + ".part"
	if err := errors.Join(os.RemoveAll(parts), os.MkdirAll(parts, 0o755)); err != nil {
		return "", err
	}
	if err := download(parts, name); err != nil {
		return "", err
	}
	if err := prepare(parts); err != nil {
		return "", err
	}
	return dir, os.Rename(parts, dir)
}

// lock keeps other processes out of the cache.
func lock(cache string) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

func download(dir, name string) error {
	err := apt(func() error { return command(dir, "apt-get", "-qq", "download", name) })
	if err != nil {
		return err
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	for _, f := range files {
		if err := errors.Join(command(dir, "dpkg", "-x", f, "."), os.Remove(f)); err != nil {
			return err
		}
	}
	return nil
}

// apt does something with packages; a fresh machine may not have lists of them.
func apt(do func() error) error {
	err := do()
	if err != nil && os.Getuid() == 0 {
		if e := command("", "apt-get", "-qq", "update"); e == nil {
			err = do()
		}
	}
	if err != nil {
		return fmt.Errorf("%w: is this Debian, and has apt-get update been run? %w", ErrNoPackages, err)
	}
	return nil
}

// realPackage is what a package that only depends on another stands for.
func realPackage(name, prefix string) (found string, err error) {
	err = apt(func() error {
		out, err := exec.Command("apt-cache", "depends", name).Output()
		if err != nil {
			return fmt.Errorf("apt-cache depends %s: %w", name, err)
		}
		for line := range strings.Lines(string(out)) {
			_, found, _ = strings.Cut(strings.TrimSpace(line), "Depends: ")
			if strings.HasPrefix(found, prefix) {
				return nil
			}
		}
		return fmt.Errorf("%s does not depend on any %s", name, prefix)
	})
	return found, err
}

func isDir(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.IsDir()
}

// command runs a program; the error has what it printed.
func command(dir string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return err
}

// Sbin finds programs that are not in every PATH.
func Sbin(name string) string {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() {
			return path
		}
	}
	return name
}
