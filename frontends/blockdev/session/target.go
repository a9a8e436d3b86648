package session

import (
	"errors"
	"fmt"
	"strconv"

	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
)

// Flags are those that choose what is served.
var Flags = []option.Flag{
	{Name: "image", Value: "NAME", Doc: "image, or snapshot (image@snapshot)"},
	{Name: "pool", Value: "ID", Doc: "with --inode and --size: serve a bare inode of this pool"},
	{Name: "inode", Value: "NUMBER", Doc: "see --pool"},
	{Name: "size", Value: "BYTES", Doc: "see --pool"},
	{Name: "readonly", Doc: "refuse writes"},
}

// Target is an image, or a bare inode, of which etcd need not know.
type Target struct {
	Image     string
	Inode     meta.Inode // 0 = Image
	SizeBytes uint64     // of the inode
}

// String is what messages call it.
func (t Target) String() string {
	if t.Inode != 0 {
		return fmt.Sprintf("inode %d of pool %d", t.Inode.Number(), t.Inode.Pool())
	}
	return "image " + t.Image
}

// TargetOf reads the flags of a command line.
func TargetOf(c option.Command) (Target, error) {
	image := c.Flags["image"]
	bare := c.Flags["pool"] != "" || c.Flags["inode"] != "" || c.Flags["size"] != ""
	switch {
	case bare && image != "":
		return Target{}, errors.New("use either --image, or --pool, --inode and --size")
	case bare:
		return bareInode(c)
	case image == "":
		return Target{}, errors.New("which image? Use --image NAME (`vitastor-cli ls` lists them), or --pool, --inode and --size")
	}
	return Target{Image: image}, nil
}

func bareInode(c option.Command) (t Target, err error) {
	if c.Flags["pool"] == "" || c.Flags["inode"] == "" || c.Flags["size"] == "" {
		return t, errors.New("a bare inode needs all of --pool, --inode and --size")
	}
	pool, err := Number(c, "pool", 0)
	if err != nil {
		return t, err
	}
	number, err := Number(c, "inode", 0)
	if err != nil {
		return t, err
	}
	if t.SizeBytes, err = Number(c, "size", 0); err != nil {
		return t, err
	}
	if pool == 0 || pool > uint64(meta.MaxPoolID) || number == 0 || number > meta.MaxInodeNumber || t.SizeBytes == 0 {
		return t, fmt.Errorf("--pool %d --inode %d --size %d: pools are numbered from 1 to %d, inodes from 1 to %d, and the size is not 0",
			pool, number, t.SizeBytes, uint64(meta.MaxPoolID), uint64(meta.MaxInodeNumber))
	}
	t.Inode = meta.MakeInode(meta.PoolID(pool), number)
	return t, nil
}

// Number reads a flag; missing = what it is if it was not given.
func Number(c option.Command, flag string, missing uint64) (uint64, error) {
	text, given := c.Flags[flag]
	if !given {
		return missing, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("--%s %s: a number is expected, without a unit", flag, text)
	}
	return n, nil
}
