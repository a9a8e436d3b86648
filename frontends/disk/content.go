package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"vitastor/osd/store/layout"
)

// Content is what an own look at the first and last bytes of a device found.
type Content struct {
	What string         // "" = empty; otherwise what it is, for messages
	OSD  layout.Options // parameters, if it has a valid superblock
}

// lookBytes are read from each end of a device.
const lookBytes = 288 << 10

// signatures are the marks of things that people keep on disks. wipefs knows
// more; these are looked for even if it does not run.
var signatures = []struct {
	what   string
	offset int // from the start; negative: from the end
	magic  string
}{
	{"a GPT partition table", 512, "EFI PART"},
	{"a GPT partition table", 4096, "EFI PART"},
	{"a backup GPT partition table", -512, "EFI PART"},
	{"a backup GPT partition table", -4096, "EFI PART"},
	{"an LVM physical volume", 512, "LABELONE"},
	{"a LUKS encrypted volume", 0, "LUKS\xba\xbe"},
	{"an XFS file system", 0, "XFSB"},
	{"an ext2/3/4 file system", 0x438, "\x53\xef"},
	{"a btrfs file system", 0x10040, "_BHRfS_M"},
	{"swap space", 4086, "SWAPSPACE2"},
	{"swap space", 4086, "SWAP-SPACE"},
	{"a RAID member", 0, "\xfc\x4e\x2b\xa9"},
	{"a RAID member", 4096, "\xfc\x4e\x2b\xa9"},
	{"a RAID member", -8192, "\xfc\x4e\x2b\xa9"},
	{"a RAID member", -65536, "\xfc\x4e\x2b\xa9"},
	{"an NTFS file system", 3, "NTFS    "},
	{"an exFAT file system", 3, "EXFAT   "},
	{"a FAT file system", 82, "FAT32   "},
	{"a FAT file system", 54, "FAT16   "},
	{"a ReiserFS file system", 0x10034, "ReIsEr"},
	{"a ZFS pool", 0x20000, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"a ZFS pool", 0x21000, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"an f2fs file system", 0x400, "\x10\x20\xf5\xf2"},
	{"a bcache device", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"},
	{"a Ceph BlueStore device", 0, "bluestore block device"},
	{"a QCOW image", 0, "QFI\xfb"},
	{"an ISO 9660 file system", 0x8001, "CD001"},
	{"a boot sector", 510, "\x55\xaa"},
}

// look tells what is on a device of size bytes from its first and last bytes
// (lookBytes of each, or all if it is smaller).
func look(head, tail []byte, size uint64) Content {
	if o, err := layout.DecodeSuperblock(head); err == nil {
		return Content{fmt.Sprintf("OSD %d", o.OSDNum()), o}
	} else if _, sizeErr := layout.SuperblockSize(head); sizeErr == nil {
		return Content{What: "a damaged OSD superblock (" + err.Error() + ")"}
	}
	for _, s := range signatures {
		part, at := head, s.offset
		if at < 0 {
			part, at = tail, len(tail)+s.offset
		}
		if at >= 0 && at+len(s.magic) <= len(part) && string(part[at:at+len(s.magic)]) == s.magic {
			return Content{What: s.what}
		}
	}
	first, last := head[:min(len(head), layout.SuperblockBytes)], tail[max(0, len(tail)-layout.SuperblockBytes):]
	switch {
	case clearedOSD(first):
		return Content{}
	case !layout.IsZero(first):
		return Content{What: "unknown data in its first bytes"}
	case !layout.IsZero(last) && uint64(len(last)) < size:
		return Content{What: "unknown data in its last bytes"}
	}
	return Content{}
}

// clearedOSD recognizes what is left of a superblock after it was deleted: 12
// zero bytes, then its length and text.
func clearedOSD(first []byte) bool {
	if len(first) < 32 || !layout.IsZero(first[:12]) {
		return false
	}
	size := binary.LittleEndian.Uint32(first[12:])
	if size < 18 || int(size) > len(first) {
		return false
	}
	_, err := layout.ParseOptions(first[16:size])
	return err == nil && bytes.Contains(first[16:size], []byte(`"osd_num"`)) && layout.IsZero(first[size:])
}

// Look reads both ends of a device and tells what is there.
func (d *Device) Look() (Content, error) {
	n := min(d.Bytes(), lookBytes)
	head, tail := make([]byte, n), make([]byte, n)
	if n == 0 {
		return Content{}, fmt.Errorf("%s: has no size: give it one with truncate -s SIZE %s", d.Path, d.Path)
	}
	if _, err := d.ReadAt(head, 0); err != nil {
		return Content{}, err
	}
	if _, err := d.ReadAt(tail, int64(d.Bytes()-n)); err != nil {
		return Content{}, err
	}
	return look(head, tail, d.Bytes()), nil
}
