package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// node is what sysfs tells about a path: a file, a disk or a partition.
type node struct {
	Path      string // real path
	File      bool   // regular file
	Sys       string // folder in sysfs; "" for files
	Disk      string // folder in sysfs of the whole disk; the same if it is one
	Partition int    // number, 0 = not a partition
}

// findNode looks a path up.
func findNode(path string) (*node, error) {
	real, err := realPath(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(real)
	if err != nil {
		return nil, openError(path, err)
	}
	n := &node{Path: real, File: st.Mode().IsRegular()}
	switch {
	case n.File:
		return n, nil
	case st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0:
		return nil, fmt.Errorf("%s: neither a block device nor a regular file", path)
	}
	raw, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: cannot find out its device number", path)
	}
	if n.Sys, err = filepath.EvalSymlinks("/sys/dev/block/" + deviceNumber(raw.Rdev)); err != nil {
		return nil, fmt.Errorf("%s: not known to the kernel (%w): is /sys mounted?", path, err)
	}
	n.Disk = n.Sys
	if n.Partition = int(sysNumber(n.Sys + "/partition")); n.Partition != 0 {
		n.Disk = filepath.Dir(n.Sys)
	}
	return n, nil
}

// deviceNumber is major:minor as sysfs writes it.
func deviceNumber(dev uint64) string {
	return fmt.Sprintf("%d:%d", dev>>8&0xfff|dev>>32&^0xfff, dev&0xff|dev>>12&^0xff)
}

// DiskPath is the device of the whole disk.
func (n *node) DiskPath() string { return devPath(n.Disk) }

// devPath is the device node of a folder in sysfs.
func devPath(sysDir string) string {
	return "/dev/" + strings.ReplaceAll(filepath.Base(sysDir), "!", "/")
}

// Rotational tells whether the disk turns.
func (n *node) Rotational() bool { return !n.File && sysNumber(n.Disk+"/queue/rotational") == 1 }

// partitions are the folders in sysfs of the partitions of a disk.
func (n *node) partitions() []string {
	if n.File || n.Partition != 0 {
		return nil
	}
	list, _ := filepath.Glob(n.Sys + "/*/partition")
	for i := range list {
		list[i] = filepath.Dir(list[i])
	}
	return list
}

func sysText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func sysNumber(path string) uint64 {
	v, _ := strconv.ParseUint(sysText(path), 10, 64)
	return v
}

// busy tells what the kernel uses a path for, "" if nothing is known.
func (n *node) busy() string {
	swaps := sysText("/proc/swaps")
	for line := range strings.Lines(swaps) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == n.Path {
			return "used as swap space: run swapoff " + n.Path
		}
	}
	if n.File {
		return fileBusy(n.Path)
	}
	dirs := append([]string{n.Sys}, n.partitions()...)
	for _, dir := range dirs {
		if at := mountedAt(sysText(dir + "/dev")); at != "" {
			return fmt.Sprintf("%s is mounted at %s: unmount it first", devPath(dir), at)
		}
		if holders, _ := filepath.Glob(dir + "/holders/*"); len(holders) > 0 {
			return fmt.Sprintf("%s is part of %s: remove it from there first", devPath(dir), devPath(holders[0]))
		}
	}
	return ""
}

// fileBusy tells which loop device uses a file.
func fileBusy(path string) string {
	list, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	i := slices.IndexFunc(list, func(name string) bool { return sysText(name) == path })
	if i < 0 {
		return ""
	}
	loop := devPath(filepath.Dir(filepath.Dir(list[i])))
	return fmt.Sprintf("used by %s: run losetup -d %s, or name the loop device instead", loop, loop)
}

// mountedAt finds a device number in the mount table.
func mountedAt(number string) string {
	for line := range strings.Lines(sysText("/proc/self/mountinfo")) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == number && number != "" {
			return f[4]
		}
	}
	return ""
}
