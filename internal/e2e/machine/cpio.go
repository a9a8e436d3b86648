package machine

import (
	"bytes"
	"fmt"
	"io/fs"
)

// Archive is a cpio archive in the format "newc", which the kernel unpacks:
//
//	"070701", 13 numbers of 8 hexadecimal digits: inode, mode, uid, gid, links,
//	mtime, size, device (2), device of the node (2), length of the name with its
//	final zero, checksum (0); the name; zeroes up to 4; the data; zeroes up to 4
type Archive struct {
	out    bytes.Buffer
	number int
}

// Types in the mode of an entry.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// Dir adds a folder; the one that it is in must be there.
func (a *Archive) Dir(name string) { a.entry(name, modeDir|0o755, nil, 0, 0) }

// Device adds a character device.
func (a *Archive) Device(name string, major, minor int) {
	a.entry(name, modeChar|0o600, nil, major, minor)
}

// File adds a file.
func (a *Archive) File(name string, perm fs.FileMode, data []byte) {
	a.entry(name, modeFile|int(perm.Perm()), data, 0, 0)
}

func (a *Archive) entry(name string, mode int, data []byte, major, minor int) {
	a.number++
	fmt.Fprintf(&a.out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
	a.out.Write(data)
	a.pad()
}

func (a *Archive) pad() { a.out.Write(make([]byte, -a.out.Len()&3)) }

// End is the whole archive.
func (a *Archive) End() []byte {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.out.Bytes()
}
