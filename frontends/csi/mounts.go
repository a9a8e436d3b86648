package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// mountPoint is a line of /proc/self/mountinfo.
type mountPoint struct {
	device  string // "major:minor" of the file system's device
	root    string // what of the file system is mounted
	target  string
	options []string
	fsType  string
	source  string
}

func (m *mountPoint) readOnly() bool { return slices.Contains(m.options, "ro") }

// parseMounts reads mountinfo(5), in order: later ones lie above earlier ones
// with the same target. Lines that are none are left out.
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMounts(text string) []mountPoint {
	var list []mountPoint
	for line := range strings.Lines(text) {
		head, tail, is := strings.Cut(strings.TrimRight(line, "\n"), " - ")
		h, t := strings.Split(head, " "), strings.Split(tail, " ")
		if !is || len(h) < 6 || len(t) < 2 {
			continue
		}
		list = append(list, mountPoint{device: h[2], root: unescape(h[3]), target: unescape(h[4]), options: strings.Split(h[5], ","), fsType: t[0], source: unescape(t[1])})
	}
	return list
}

// unescape replaces \ooo, which the kernel writes for spaces and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readMounts() ([]mountPoint, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	return parseMounts(string(text)), err
}

// mountAt is what is mounted on a path, nil if there is nothing.
func mountAt(path string) (*mountPoint, error) {
	list, err := readMounts()
	if err != nil {
		return nil, err
	}
	path = resolved(path)
	for i := range slices.Backward(list) {
		if list[i].target == path {
			return &list[i], nil
		}
	}
	return nil, nil
}

// resolved is how the kernel calls a path.
func resolved(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// deviceNumber is "major:minor" of a block device, or of a file that one is
// mounted on; "" if it is none.
func deviceNumber(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		return "", nil
	}
	return numberText(uint64(st.Rdev)), nil
}

// numberText writes a dev_t as the kernel does in sysfs and mountinfo.
func numberText(dev uint64) string {
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&^0xff&0xffffffff
	return fmt.Sprintf("%d:%d", major, minor)
}

// users are the mount points that use a device, as a file system or as a file.
func users(number string) ([]string, error) {
	list, err := readMounts()
	if err != nil {
		return nil, err
	}
	var targets []string
	for i := range list {
		m := &list[i]
		used := m.device == number
		if !used && (m.fsType == "devtmpfs" || m.fsType == "tmpfs") && m.root != "/" {
			other, err := deviceNumber(m.target)
			used = err == nil && other == number
		}
		if used {
			targets = append(targets, m.target)
		}
	}
	return targets, nil
}

// deviceBytes is the size of a block device now.
func deviceBytes(device string) (uint64, error) {
	number, err := deviceNumber(device)
	if err != nil {
		return 0, err
	}
	if number == "" {
		return 0, fmt.Errorf("%s is no block device", device)
	}
	text, err := os.ReadFile("/sys/dev/block/" + number + "/size")
	if err != nil {
		return 0, fmt.Errorf("%s: its size is not known: %w", device, err)
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54)
	return sectors * 512, err
}

// unmount takes away everything that is mounted on a path.
func unmount(ctx context.Context, run Runner, path string) error {
	for {
		m, err := mountAt(path)
		if err != nil || m == nil {
			return err
		}
		if _, err := try(ctx, run, "umount", "--", path); err != nil {
			return err
		}
	}
}

// removePath removes what a mount point was; it must be empty.
func removePath(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
