package layout

import (
	"fmt"

	"vitastor/internal/meta"
)

// The disk superblock is at byte 0 of every device of an OSD:
//
//	0        8        12     16
//	+--------+--------+------+----------------------+
//	| magic  | crc32c | size | JSON, size-16 bytes  |  zero-padded to 4096
//	+--------+--------+------+----------------------+
//
// The crc32c covers bytes 12 .. size-1.
const (
	// SuperblockBytes is reserved for the superblock at the start of a device:
	// read that much first, and write exactly that much.
	SuperblockBytes = 4096

	superblockMagic    = 0x6b73694441544976 // "vITADisk"
	superblockFixed    = 16
	minSuperblockBytes = 18
	maxSuperblockBytes = 128 << 10
	offSuperblockCRC   = 8
	offSuperblockSize  = 12
	clearedBytes       = 12
)

// SuperblockSize is how many bytes a superblock takes, told from its first 16
// bytes: a reader that has only SuperblockBytes must read more if it is more.
func SuperblockSize(head []byte) (int, error) {
	if len(head) < superblockFixed {
		return 0, fmt.Errorf("disk superblock: only %d bytes were read", len(head))
	}
	if le.Uint64(head) != superblockMagic {
		return 0, fmt.Errorf("no disk superblock: magic is %016x, expected %016x", le.Uint64(head), uint64(superblockMagic))
	}
	size := le.Uint32(head[offSuperblockSize:])
	if size < minSuperblockBytes || size > maxSuperblockBytes {
		return 0, fmt.Errorf("disk superblock: size is %d, must be %d..%d", size, minSuperblockBytes, maxSuperblockBytes)
	}
	return int(size), nil
}

// DecodeSuperblock reads a superblock from the start of a device and checks
// all but the devices it names (see Role).
func DecodeSuperblock(b []byte) (Options, error) {
	size, err := SuperblockSize(b)
	if err != nil {
		return nil, err
	}
	if size > len(b) {
		return nil, fmt.Errorf("disk superblock: %d bytes long, but only %d were read", size, len(b))
	}
	if got, want := CRC(b[offSuperblockSize:size]), le.Uint32(b[offSuperblockCRC:]); got != want {
		return nil, fmt.Errorf("disk superblock is corrupt: crc32c is %08x, stored is %08x", got, want)
	}
	o, err := ParseOptions(b[superblockFixed:size])
	if err != nil {
		return nil, fmt.Errorf("disk superblock: %w", err)
	}
	return o, CheckSuperblock(o)
}

// CheckSuperblock checks what every superblock must contain: osd_num,
// data_device, and areas that leave room for it.
func CheckSuperblock(o Options) error {
	if n, err := o.Size("osd_num", 0); err != nil || n == 0 {
		return fmt.Errorf("disk superblock: osd_num is %q, must be a positive number", o.Text("osd_num"))
	}
	if o.Text("data_device") == "" {
		return fmt.Errorf("disk superblock of OSD %s: data_device is empty", o.Text("osd_num"))
	}
	for _, key := range []string{"data_offset", "meta_offset", "journal_offset"} {
		if at, err := o.Size(key, 0); err != nil || at < SuperblockBytes {
			return fmt.Errorf("disk superblock of OSD %s: %s is %q, must be at least %d: the superblock is in front of all areas",
				o.Text("osd_num"), key, o.Text(key), SuperblockBytes)
		}
	}
	return nil
}

// EncodeSuperblock returns the SuperblockBytes to write at the start of every
// device of the OSD. Parameters that do not fit are an error: the areas begin
// right behind.
func EncodeSuperblock(o Options) ([]byte, error) {
	if err := CheckSuperblock(o); err != nil {
		return nil, err
	}
	text := o.JSON()
	size := superblockFixed + len(text)
	if size > SuperblockBytes {
		return nil, fmt.Errorf("disk superblock of OSD %s: %d bytes of parameters, but only %d fit: remove parameters that can be set in etcd",
			o.Text("osd_num"), len(text), SuperblockBytes-superblockFixed)
	}
	b := make([]byte, SuperblockBytes)
	le.PutUint64(b, superblockMagic)
	le.PutUint32(b[offSuperblockSize:], uint32(size))
	copy(b[superblockFixed:], text)
	le.PutUint32(b[offSuperblockCRC:], CRC(b[offSuperblockSize:size]))
	return b, nil
}

// ClearedSuperblock is what to write at byte 0 to delete a superblock.
func ClearedSuperblock() []byte { return make([]byte, clearedBytes) }

// OSDNum is the number of the OSD, 0 if absent or invalid.
func (o Options) OSDNum() meta.OSDNum {
	n, err := o.Size("osd_num", 0)
	if err != nil {
		return 0
	}
	return meta.OSDNum(n)
}

// Devices are the paths of the devices: an empty meta_device means the data
// device, an empty journal_device the metadata device.
func (o Options) Devices() (data, metadata, buffer string) {
	data, metadata, buffer = o.Text("data_device"), o.Text("meta_device"), o.Text("journal_device")
	if metadata == "" {
		metadata = data
	}
	if buffer == "" {
		buffer = metadata
	}
	return data, metadata, buffer
}

// Role tells as what the superblock names the device it was read from: "data",
// "meta" or "journal". resolve follows symbolic links; device is already
// resolved. An error means that the superblock belongs to another device, as
// on a copy of a disk.
func (o Options) Role(device string, resolve func(path string) (string, error)) (string, error) {
	for _, role := range []string{"data", "meta", "journal"} {
		path := o.Text(role + "_device")
		if path == "" {
			continue
		}
		if real, err := resolve(path); err == nil && real == device {
			return role, nil
		}
	}
	return "", fmt.Errorf("disk superblock on %s belongs to another device: it names data_device %q, meta_device %q, journal_device %q",
		device, o.Text("data_device"), o.Text("meta_device"), o.Text("journal_device"))
}
