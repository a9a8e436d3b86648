package vduse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/blockdev/genetlink"
	"vitastor/frontends/vduse/uapi"
	"vitastor/internal/sys"
)

// modules are what a block device through VDUSE needs, by the folders of
// /sys/module that show that they are there.
var modules = []string{"vduse", "virtio_vdpa", "virtio_blk"}

// Host is the kernel of this host. Root is put before the paths of sysfs and
// devices.
type Host struct{ Root string }

func (h Host) path(parts ...string) string {
	return filepath.Join(append([]string{"/", h.Root}, parts...)...)
}

// Load implements Kernel. modprobe knows everything about modules that
// administrators may have configured.
func (h Host) Load() error {
	for _, module := range modules {
		if _, err := os.Stat(h.path("sys/module", module)); err == nil {
			continue
		}
		out, err := exec.Command("modprobe", module).CombinedOutput()
		if err == nil {
			continue
		}
		if module == "virtio_blk" && h.builtIn(module) {
			continue
		}
		why := strings.TrimSpace(err.Error() + " " + string(out))
		return fmt.Errorf("the kernel module %s cannot be loaded (%s): run as root, on a kernel >= 5.15 with VDPA_USER and VIRTIO_VDPA "+
			"(Debian: linux-image-amd64 from bookworm-backports or later); `vitastor-ublk map` and `vitastor-nbd map` need other modules, "+
			"`vitastor-cli attach` finds what works", module, why)
	}
	return nil
}

// builtIn: modules without parameters that are part of the kernel have no folder
// in /sys/module.
func (h Host) builtIn(module string) bool {
	_, err := os.Stat(h.path("sys/bus/virtio/drivers", module))
	return err == nil
}

// control makes requests to /dev/vduse/control.
func (h Host) control(do func(fd int) syscall.Errno) error {
	path := h.path("dev/vduse/control")
	fd, err := sys.OpenDevice(path)
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	version := make([]byte, 8) // 0 is the only one that there is
	if _, e := sys.IoctlBytes(fd, uapi.SetAPIVersion, version); e != 0 {
		return fmt.Errorf("%s: API version 0: %w", path, e)
	}
	if e := do(fd); e != 0 {
		return e
	}
	return nil
}

// Create implements Kernel.
func (h Host) Create(c uapi.DeviceConfig) error {
	err := h.control(func(fd int) syscall.Errno {
		_, e := sys.IoctlBytes(fd, uapi.CreateDevice, c.Encode())
		return e
	})
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("there is a VDUSE device %s already: choose another one with --name", c.Name)
	case err != nil:
		return explain("creating VDUSE device "+c.Name, err)
	}
	return nil
}

// Destroy implements Kernel.
func (h Host) Destroy(name string) error {
	err := h.control(func(fd int) syscall.Errno {
		_, e := sys.IoctlBytes(fd, uapi.DestroyDevice, uapi.EncodeName(name))
		return e
	})
	switch {
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("VDUSE device %s: %w: it is attached to the vDPA bus, or a process has it open: `vitastor-vduse unmap %s`", name, err, name)
	case err != nil:
		return explain("removing VDUSE device "+name, err)
	}
	return nil
}

// Exists implements Kernel.
func (h Host) Exists(name string) bool {
	_, err := os.Stat(h.path("dev/vduse", name))
	return err == nil
}

// Open implements Kernel.
func (h Host) Open(name string) (Device, error) {
	path := h.path("dev/vduse", name)
	fd, err := sys.OpenDevice(path)
	if err != nil {
		return nil, explain("VDUSE device "+name, err)
	}
	return &device{fd: fd, path: path}, nil
}

// The vDPA bus (linux/vdpa.h).
const (
	vdpaFamily     = "vdpa"
	vdpaVersion    = 1
	vdpaNew        = 3
	vdpaDelete     = 4
	vdpaManagement = 2 // string
	vdpaName       = 4 // string
	management     = "vduse"
)

// Limits of waiting.
const (
	blockLimit   = 10 * time.Second
	blockRetry   = 20 * time.Millisecond
	inUseLimit   = 2 * time.Second // udev looks at new devices
	attachNoTime = 0               // a driver reads the partition table meanwhile: as long as it takes
)

// Attach implements Kernel.
func (h Host) Attach(name string) error {
	m := genetlink.New(vdpaNew, vdpaVersion)
	m.String(vdpaManagement, management)
	m.String(vdpaName, name)
	_, err := genetlink.Call(vdpaFamily, m, attachNoTime)
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("the vDPA bus has a device %s already (%w): choose another one with --name", name, err)
	case err != nil:
		return explain("attaching "+name+" to the vDPA bus", err)
	}
	for end := time.Now().Add(blockLimit); ; time.Sleep(blockRetry) {
		block := h.BlockDevice(name)
		if _, err := os.Stat(h.path(block)); block != "" && err == nil {
			return nil
		}
		if time.Now().After(end) {
			return h.noBlock(name)
		}
	}
}

// noBlock says why there is no block device.
func (h Host) noBlock(name string) error {
	driver, err := os.Readlink(h.path("sys/bus/vdpa/devices", name, "driver"))
	if err != nil {
		return fmt.Errorf("no driver takes the vDPA device %s: is the module virtio_vdpa loaded, and /sys/bus/vdpa/drivers_autoprobe 1? See dmesg", name)
	}
	if driver = filepath.Base(driver); driver != "virtio_vdpa" {
		return fmt.Errorf("the driver %s has taken the vDPA device %s, not virtio_vdpa: unload it (modprobe -r %s), or do not let it "+
			"take all devices (/sys/bus/vdpa/drivers_autoprobe)", driver, name, driver)
	}
	return fmt.Errorf("the driver of virtio-blk has not made a block device of %s: see dmesg", name)
}

// Detach implements Kernel.
func (h Host) Detach(name string) error {
	m := genetlink.New(vdpaDelete, vdpaVersion)
	m.String(vdpaName, name)
	if _, err := genetlink.Call(vdpaFamily, m, attachNoTime); err != nil {
		return explain("detaching "+name+" from the vDPA bus", err)
	}
	return nil
}

// Attached implements Kernel.
func (h Host) Attached(name string) bool {
	_, err := os.Stat(h.path("sys/bus/vdpa/devices", name))
	return err == nil
}

// BlockDevice implements Kernel.
func (h Host) BlockDevice(name string) string {
	found, _ := filepath.Glob(h.path("sys/bus/vdpa/devices", name, "virtio*/block/*"))
	if len(found) == 0 {
		return ""
	}
	return "/dev/" + filepath.Base(found[0])
}

// InUse implements Kernel. The owners of mounts and of other devices are found by
// O_EXCL, everybody else by what processes have open.
func (h Host) InUse(block string) (string, error) {
	for end := time.Now().Add(inUseLimit); ; time.Sleep(blockRetry) {
		who := ""
		owned, err := sys.BlockInUse(h.path(block))
		if err != nil {
			return "", err
		}
		if owned {
			who = "it is mounted, or a part of another device (see lsblk " + block + ")"
		} else {
			who = h.opened(block)
		}
		if who == "" || time.Now().After(end) {
			return who, nil
		}
	}
}

// opened finds a process that has a block device or one of its partitions open.
func (h Host) opened(block string) string {
	links, _ := filepath.Glob(h.path("proc/[0-9]*/fd/*"))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, block) {
			continue
		}
		part := strings.TrimPrefix(target[len(block):], "p")
		if _, err := strconv.ParseUint(part, 10, 32); part != "" && err != nil {
			continue
		}
		pid := strings.Split(strings.TrimPrefix(link, h.path("proc")+"/"), "/")[0]
		comm, _ := os.ReadFile(h.path("proc", pid, "comm"))
		return fmt.Sprintf("process %s (%s) has it open", pid, strings.TrimSpace(string(comm)))
	}
	return ""
}

// explain says what can be done about an error of the kernel.
func explain(what string, err error) error {
	switch {
	case errors.Is(err, genetlink.ErrNoFamily):
		return fmt.Errorf("%s: the kernel has no vDPA bus: the module vdpa is not loaded or not there (modprobe vduse virtio_vdpa)", what)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %w: run as root", what, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%s: %w: another process serves it; see `vitastor-vduse ls`", what, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%s: %w: there is no such device, or the kernel module vduse is not loaded (modprobe vduse)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
