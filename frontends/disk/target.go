package disk

import (
	"fmt"
	"strings"
	"time"

	"vitastor/osd/store/layout"
)

// PartitionType is the GPT type of all partitions of OSDs.
const PartitionType = "e7009fac-a5a1-4d72-af72-53de13059903"

// byPartUUID is the folder with the stable names of partitions.
const byPartUUID = "/dev/disk/by-partuuid/"

// waitForUdev is how long new devices and links may take.
const waitForUdev = 30 * time.Second

// target is a device that is going to be overwritten. It is open, locked and
// nobody else uses it.
type target struct {
	*Device
	node    *node
	stable  string // name for the superblock
	found   Content
	oldType string // GPT type of a partition, lower case
}

// takeTarget opens a device to be overwritten. force accepts content and whole
// disks, but never a device in use.
func (t *Tool) takeTarget(path string, force bool) (*target, error) {
	n, err := findNode(path)
	if err != nil {
		return nil, err
	}
	if why := n.busy(); why != "" {
		return nil, fmt.Errorf("%s: %s", path, why)
	}
	if !n.File && n.Partition == 0 && !force {
		return nil, fmt.Errorf("%s: is a whole disk: run vitastor-disk prepare %s to partition it, or use --force to take it as it is", path, path)
	}
	d, err := openDevice(path, access{write: true, lock: true, exclusive: true, cached: t.cached})
	if err != nil {
		return nil, err
	}
	x := &target{Device: d, node: n, stable: n.Path}
	if err := t.inspect(x, force); err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

func (t *Tool) inspect(x *target, force bool) (err error) {
	if x.found, err = x.Look(); err != nil {
		return err
	}
	if x.found.What == "" {
		if x.found.What, err = t.wipefs(x.Path); err != nil && !force {
			return err
		}
	}
	if x.found.What != "" {
		if !force {
			return fmt.Errorf("%s: has %s: if it is not needed any more, %s", x.Path, x.found.What, remedyFor(x))
		}
		t.note("warning: %s: overwriting %s", x.Path, x.found.What)
	}
	if x.node.Partition != 0 {
		return t.identify(x)
	}
	return nil
}

// remedyFor says how to get rid of what is on a device.
func remedyFor(x *target) string {
	if x.found.OSD != nil {
		return fmt.Sprintf("remove the OSD with vitastor-disk purge %s, or use --force", x.Path)
	}
	return fmt.Sprintf("use --force, or run wipefs -a %s first", x.Path)
}

// wipefs lists the signatures which that program knows, "" if none.
func (t *Tool) wipefs(path string) (string, error) {
	out, err := t.Programs.Output("", "wipefs", "--noheadings", "--output", "TYPE", path)
	if err != nil {
		return "", fmt.Errorf("%s: cannot find out what is on it: %w", path, err)
	}
	types := strings.Fields(out)
	if len(types) == 0 {
		return "", nil
	}
	return "signatures of " + strings.Join(types, ", "), nil
}

// identify finds the stable name and the type of a partition.
func (t *Tool) identify(x *target) error {
	facts, err := t.blkid(x.Real)
	if err != nil {
		return err
	}
	if scheme := facts["PART_ENTRY_SCHEME"]; scheme != "gpt" {
		return fmt.Errorf("%s: its partition table is %q, OSDs need GPT: partition %s anew with label gpt", x.Path, scheme, x.node.DiskPath())
	}
	x.oldType = strings.ToLower(facts["PART_ENTRY_TYPE"])
	x.stable, err = t.partUUIDLink(facts["PART_ENTRY_UUID"], x.Real)
	return err
}

// blkid asks what is known about a block device. Finding nothing is no error.
func (t *Tool) blkid(path string) (map[string]string, error) {
	out, err := t.Programs.Output("", "blkid", "-p", "-o", "export", path)
	facts := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			facts[key] = value
		}
	}
	if err != nil && !strings.Contains(err.Error(), "exit status 2") {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return facts, nil
}

// partUUIDLink waits for the link of a partition in by-partuuid.
func (t *Tool) partUUIDLink(uuid, device string) (string, error) {
	if uuid == "" {
		return "", fmt.Errorf("%s: blkid does not tell its partition UUID: is it a GPT partition?", device)
	}
	link := byPartUUID + strings.ToLower(uuid)
	settled := false
	there := t.waitFor(func() bool {
		real, err := realPath(link)
		if err == nil && real == device {
			return true
		}
		if !settled {
			settled = true
			_, _ = t.Programs.Output("", "udevadm", "settle", "--timeout=10")
		}
		return false
	})
	if !there {
		return "", fmt.Errorf("%s: %s does not lead to it: udev makes this link, is it running? Look at udevadm test %s", device, link, device)
	}
	return link, nil
}

// waitFor repeats a test until it is true or the patience with udev ends.
func (t *Tool) waitFor(test func() bool) bool {
	patience := t.Patience
	if patience == 0 {
		patience = waitForUdev
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if test() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// setType makes a partition one of ours.
func (t *Tool) setType(x *target) error {
	if x.node.Partition == 0 || x.oldType == PartitionType {
		return nil
	}
	_, err := t.Programs.Output("", "sfdisk", "--no-reread", "--no-tell-kernel", "--force", "--part-type",
		x.node.DiskPath(), fmt.Sprint(x.node.Partition), PartitionType)
	if err != nil {
		return fmt.Errorf("%s: cannot change the type of the partition: %w", x.Path, err)
	}
	return nil
}

// wipeMeta makes sure that nothing in a metadata area looks like entries of an
// older store: a store refuses to initialize over them (spec ondisk.md §2.3).
func wipeMeta(d *Device, p *layout.Params, show *progress) error {
	m := uint64(p.Geometry.MetaBlockBytes)
	if err := d.Zero(p.Meta.Offset, m); err != nil {
		return err
	}
	from, until := uint64(0), uint64(0) // range to be zeroed
	flush := func() error {
		if until == from {
			return nil
		}
		return d.Zero(p.MetaBlockOffset(uint32(from)), (until-from)*m)
	}
	err := readBlocks(d, p.Meta, m, show, func(number uint32, b []byte) error {
		if !p.Geometry.BlockLooksUsed(b) {
			return nil
		}
		if n := uint64(number); n != until || until-from >= bounceBytes/m {
			if err := flush(); err != nil {
				return err
			}
			from = n
		}
		until = uint64(number) + 1
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}
