package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Guest is what runs in machines.
type Guest struct {
	Kernel  string   // vmlinuz
	Busybox string   // statically linked
	Modules []string // to load, in this order
}

// kernels are packages of Debian, the preferred one first. They are small,
// because they are for virtual machines.
var kernels = []string{"linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"}

// modules are what a root on virtio and ext4 needs, in order; what the kernel
// contains already is no file.
var modules = []string{"virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
	"crc16", "crc32c_generic", "mbcache", "jbd2", "ext4"}

// ErrNoPackages means that apt cannot give us a kernel.
var ErrNoPackages = errors.New("a kernel for virtual machines cannot be downloaded")

// Packages downloads kernel and busybox with apt-get, without installing them,
// and unpacks them in dir, which is a cache: what is there is used.
func Packages(dir string) (Guest, error) {
	if g, err := unpacked(dir); err == nil {
		return g, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return Guest{}, err
	}
	parts := dir + ".part"
	os.RemoveAll(parts)
	if err := os.MkdirAll(parts, 0o755); err != nil {
		return Guest{}, err
	}
	err := download(parts)
	if err != nil && os.Getuid() == 0 {
		// A fresh machine may not have lists of packages.
		if err = command(parts, "apt-get", "-qq", "update"); err == nil {
			err = download(parts)
		}
	}
	if err != nil {
		return Guest{}, fmt.Errorf("%w: is this Debian, and has apt-get update been run? %w", ErrNoPackages, err)
	}
	files, _ := filepath.Glob(filepath.Join(parts, "*.deb"))
	for _, f := range files {
		if err := errors.Join(command(parts, "dpkg", "-x", f, "."), os.Remove(f)); err != nil {
			return Guest{}, err
		}
	}
	if err := os.Rename(parts, dir); err != nil {
		return Guest{}, err
	}
	return unpacked(dir)
}

func download(dir string) error {
	kernel, err := kernelPackage()
	if err != nil {
		return err
	}
	return command(dir, "apt-get", "-qq", "download", kernel, "busybox-static")
}

// kernelPackage is the package behind the first of kernels that apt knows.
func kernelPackage() (string, error) {
	for _, name := range kernels {
		out, err := exec.Command("apt-cache", "depends", name).Output()
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(out)) {
			if _, real, ok := strings.Cut(strings.TrimSpace(line), "Depends: linux-image"); ok {
				return "linux-image" + real, nil
			}
		}
	}
	return "", fmt.Errorf("apt knows none of %v", kernels)
}

// unpacked finds what Packages has unpacked.
func unpacked(dir string) (g Guest, err error) {
	found, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(found) == 0 {
		return g, fmt.Errorf("there is no kernel in %s", dir)
	}
	g.Kernel = found[0]
	g.Busybox = filepath.Join(dir, "bin", "busybox")
	if _, err := os.Stat(g.Busybox); err != nil {
		g.Busybox = filepath.Join(dir, "usr", "bin", "busybox")
	}
	if _, err := os.Stat(g.Busybox); err != nil {
		return g, err
	}
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[name] = path
		}
		return err
	})
	for _, name := range modules {
		if path := files[name]; path != "" {
			g.Modules = append(g.Modules, path)
		}
	}
	return g, err
}

// command runs a program; the error has what it printed.
func command(dir string, args ...string) error {
	_, err := output(dir, args...)
	return err
}

// output runs a program and returns what it printed.
func output(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}
