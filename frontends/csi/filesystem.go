package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// filesystem is one on a device: made, mounted, enlarged.
type filesystem struct {
	run    Runner
	device string
	fsType string
}

// makers make file systems. Blocks are not discarded first: a new image reads as
// zeroes, and has no space.
var makers = map[string][]string{
	"ext4": {"mkfs.ext4", "-F", "-q", "-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"},
	"xfs":  {"mkfs.xfs", "-f", "-q", "-K"},
}

// exit codes of blkid --probe
const (
	blkidFound   = 0
	blkidNothing = 2
)

// content is what is on the device: the type of a file system, or "" if there is
// nothing.
func (f *filesystem) content(ctx context.Context) (string, error) {
	// A device that cannot be read looks empty to blkid.
	if err := readable(f.device); err != nil {
		return "", err
	}
	r, err := f.run.Run(ctx, Command{"blkid", []string{"-p", "-o", "export", f.device}})
	if err != nil {
		return "", err
	}
	if r.Code != blkidFound && r.Code != blkidNothing {
		return "", fmt.Errorf("what is on %s is not clear: blkid: exit code %d: %s", f.device, r.Code, strings.TrimSpace(r.Err))
	}
	tags := map[string]string{}
	for line := range strings.Lines(r.Out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		tags[name] = value
	}
	switch {
	case tags["TYPE"] != "":
		return tags["TYPE"], nil
	case tags["PTTYPE"] != "":
		return "", precondition("%s has partitions (%s): a volume with a file system must not", f.device, tags["PTTYPE"])
	case r.Code == blkidFound:
		return "", precondition("%s is not empty, and has no file system: %s", f.device, strings.TrimSpace(r.Out))
	}
	return "", nil
}

// probedBytes is where superblocks of file systems are.
const probedBytes = 1 << 20

func readable(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(f, make([]byte, probedBytes))
	if errors.Is(err, io.ErrUnexpectedEOF) { // a small device
		err = nil
	}
	return err
}

// prepare makes the file system, unless there is one.
func (f *filesystem) prepare(ctx context.Context, readOnly bool) error {
	found, err := f.content(ctx)
	if err != nil {
		return err
	}
	if found == "xfs" && f.fsType == "xfs" && xfsUnfinished(f.device) {
		found = "" // mkfs was killed
	}
	switch {
	case found == f.fsType:
		return nil
	case found != "":
		return precondition("%s has the file system %s, not %s as wanted: it is not overwritten", f.device, found, f.fsType)
	case readOnly:
		return precondition("%s has no file system, and cannot get one because it is to be read only", f.device)
	}
	m := makers[f.fsType]
	_, err = try(ctx, f.run, m[0], append(m[1:len(m):len(m)], f.device)...)
	return err
}

// xfsUnfinished tells whether mkfs.xfs was killed: the superblock says so.
//
//	byte 0: "XFSB"   byte 126: sb_inprogress
func xfsUnfinished(device string) bool {
	f, err := os.Open(device)
	if err != nil {
		return false
	}
	defer f.Close()
	sb := make([]byte, 512)
	_, err = io.ReadFull(f, sb)
	return err == nil && string(sb[:4]) == "XFSB" && sb[126] == 1
}

// mount mounts it. One that was not unmounted cleanly cannot be repaired on a
// device that must not be written: then it is read as it is.
func (f *filesystem) mount(ctx context.Context, target string, options []string, readOnly bool) error {
	options = append([]string{"_netdev"}, options...)
	if f.fsType == "xfs" {
		options = append(options, "nouuid") // clones have the same one
	}
	if !readOnly {
		return f.mountWith(ctx, target, options)
	}
	options = append(options, "ro")
	err := f.mountWith(ctx, target, options)
	if err == nil || ctx.Err() != nil {
		return err
	}
	asIs := map[string]string{"ext4": "noload", "xfs": "norecovery"}[f.fsType]
	if f.mountWith(ctx, target, append(options, asIs)) == nil {
		return nil
	}
	return err
}

func (f *filesystem) mountWith(ctx context.Context, target string, options []string) error {
	_, err := try(ctx, f.run, "mount", "-t", f.fsType, "-o", strings.Join(options, ","), "--", f.device, target)
	return err
}

// grow enlarges the mounted file system to the size of its device.
func (f *filesystem) grow(ctx context.Context, target string) error {
	var err error
	switch f.fsType {
	case "xfs":
		_, err = try(ctx, f.run, "xfs_growfs", target)
	default:
		_, err = try(ctx, f.run, "resize2fs", f.device)
	}
	return err
}
