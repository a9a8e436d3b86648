package vm

import (
	"bytes"
	"fmt"
	"io/fs"
)

// archive is a cpio archive in the format "newc", which the kernel unpacks:
//
//	"070701", 13 numbers of 8 hexadecimal digits: inode, mode, uid, gid, links,
//	mtime, size, device (2), device of the node (2), length of the name with its
//	final zero, checksum (0); the name; zeroes up to 4; the data; zeroes up to 4
type archive struct {
	out    bytes.Buffer
	number int
}

// Types in the mode of an entry.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

func (a *archive) dir(name string)                { a.entry(name, modeDir|0o755, nil, 0, 0) }
func (a *archive) device(name string, maj, m int) { a.entry(name, modeChar|0o600, nil, maj, m) }
func (a *archive) file(name string, perm fs.FileMode, data []byte) {
	a.entry(name, modeFile|int(perm.Perm()), data, 0, 0)
}

func (a *archive) entry(name string, mode int, data []byte, major, minor int) {
	a.number++
	fmt.Fprintf(&a.out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.number, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
	a.out.Write(data)
	a.pad()
}

func (a *archive) pad() { a.out.Write(make([]byte, -a.out.Len()&3)) }

// end is the whole archive.
func (a *archive) end() []byte {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.out.Bytes()
}
