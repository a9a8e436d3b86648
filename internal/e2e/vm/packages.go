package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"vitastor/internal/e2e/machine"
)

// Guest is what runs in machines.
type Guest struct {
	Kernel  string           // vmlinuz
	Busybox string           // statically linked
	Modules []machine.Module // to load, in this order
}

// modules are what a root on virtio and ext4 needs.
var modules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}

// Packages takes kernel and busybox from a cache, and downloads what is not
// there.
func Packages(cache string) (g Guest, err error) {
	k, err := machine.FetchKernel(cache)
	if err != nil {
		return g, err
	}
	g.Kernel = k.Image()
	if g.Modules, err = k.Modules(modules...); err != nil {
		return g, err
	}
	dir, err := machine.Fetch(cache, "busybox-static", func(string) error { return nil })
	if err != nil {
		return g, err
	}
	g.Busybox = filepath.Join(dir, "bin", "busybox")
	if !isFile(g.Busybox) {
		g.Busybox = filepath.Join(dir, "usr", "bin", "busybox")
	}
	_, err = os.Stat(g.Busybox)
	return g, err
}

func isFile(path string) bool {
	s, err := os.Stat(path)
	return err == nil && s.Mode().IsRegular()
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
