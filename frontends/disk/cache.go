package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vitastor/osd/store/layout"
)

const writeThrough = "write through"

// cacheMode is what the volatile cache of a disk does.
type cacheMode int

const (
	cacheUnknown cacheMode = iota
	cacheWriteBack
	cacheWriteThrough
)

// ensureWriteThrough finds out whether completed writes to a disk are durable,
// given its folder in sysfs (spec cli.md §3.3). A SCSI disk is switched to
// write-through mode.
func ensureWriteThrough(sysDisk string) (cacheMode, error) {
	types, _ := filepath.Glob(sysDisk + "/device/scsi_disk/*/cache_type")
	if len(types) > 0 {
		for _, name := range types {
			if sysText(name) == writeThrough {
				continue
			}
			if err := os.WriteFile(name, []byte(writeThrough), 0); err != nil {
				return cacheWriteBack, fmt.Errorf("%s: its write cache is on and cannot be switched off (%w): switch it off with hdparm -W 0 or sdparm --clear WCE", devPath(sysDisk), plain(err))
			}
			if got := sysText(name); got != writeThrough {
				return cacheWriteBack, fmt.Errorf("%s: its write cache stays %q: switch it off with hdparm -W 0 or sdparm --clear WCE", devPath(sysDisk), got)
			}
		}
		return cacheWriteThrough, nil
	}
	switch mode := sysText(sysDisk + "/queue/write_cache"); {
	case mode == writeThrough:
		return cacheWriteThrough, nil
	case mode == "":
		return cacheUnknown, nil
	default:
		return cacheWriteBack, fmt.Errorf("%s: its write cache is in mode %q", devPath(sysDisk), mode)
	}
}

// noFsync tells whether an OSD may do without fsync on a device: the value of
// an fsync option that is auto.
func (t *Tool) noFsync(n *node) bool {
	if n.File {
		return false // the file system below has a cache of its own
	}
	mode, err := ensureWriteThrough(n.Disk)
	if err != nil {
		t.note("note: fsync stays on: %v", err)
	}
	return mode == cacheWriteThrough
}

// checkCaches is the test before the start of an OSD: devices on which it does
// not fsync must not have a volatile cache.
func (t *Tool) checkCaches(o layout.Options) error {
	data, metadata, buffer := o.Devices()
	seen := map[string]bool{}
	for _, f := range []struct{ path, key string }{{data, "disable_data_fsync"}, {metadata, "disable_meta_fsync"}, {buffer, "disable_journal_fsync"}} {
		off, err := o.Flag(f.key)
		if err != nil {
			return err
		}
		if !off || seen[f.path] {
			continue
		}
		seen[f.path] = true
		n, err := findNode(f.path)
		if err != nil {
			return err
		}
		if n.File {
			t.note("warning: %s: is a file, cannot tell whether its writes are durable without fsync (%s)", f.path, f.key)
			continue
		}
		mode, err := ensureWriteThrough(n.Disk)
		if err != nil {
			return fmt.Errorf("%s: %s is set, but %w: set disable_data_fsync, disable_meta_fsync and disable_journal_fsync to false and immediate_commit to none with update-sb, or skip_cache_check to true if the cache is protected against power loss",
				f.path, f.key, err)
		}
		if mode == cacheUnknown {
			t.note("warning: %s: cannot find out the mode of its write cache", f.path)
		}
	}
	return nil
}

// checkAtomic compares atomic_write_size with what the device guarantees.
func checkAtomic(o layout.Options) error {
	use, err := o.Flag("use_atomic_flag")
	if err != nil || !use {
		return err
	}
	want, err := o.Size("atomic_write_size", 4096)
	if err != nil {
		return err
	}
	n, err := findNode(o.Text("data_device"))
	if err != nil {
		return err
	}
	if have := n.atomicBytes(); have < want {
		return fmt.Errorf("%s: atomic_write_size is %d, but the device writes at most %d bytes atomically: lower it with update-sb, or set use_atomic_flag to false",
			o.Text("data_device"), want, have)
	}
	return nil
}

// atomicBytes is the largest atomic write of a disk, 0 if it does not tell.
func (n *node) atomicBytes() uint64 {
	if n.File {
		return 0
	}
	return sysNumber(n.Disk + "/queue/atomic_write_max_bytes")
}

// isNVMe tells whether a disk is one.
func (n *node) isNVMe() bool { return strings.HasPrefix(filepath.Base(n.Disk), "nvme") }
