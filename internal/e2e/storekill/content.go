package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"vitastor/internal/meta"
)

const (
	objects    = 256
	blockBytes = 128 << 10
	granule    = 4096
	granules   = blockBytes / granule
	inode      = 7
)

// place is one granule of one object.
type place struct{ object, granule int }

func (p place) oid() meta.ObjectID {
	return meta.ObjectID{Inode: meta.MakeInode(1, inode), Stripe: uint64(p.object) * blockBytes}
}

// fill writes the content of version v at p: each 16 bytes say what they are, so
// that a torn or misplaced block shows itself.
func (p place) fill(b []byte, v meta.Version) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], uint64(v))
		binary.LittleEndian.PutUint64(b[i+8:], uint64(p.object)<<32|uint64(p.granule)<<16|uint64(i/16))
	}
}

// check tells which version b is; an error if it is not one whole version.
func (p place) check(b []byte) (meta.Version, error) {
	v := meta.Version(binary.LittleEndian.Uint64(b))
	want := make([]byte, len(b))
	p.fill(want, v)
	if string(want) != string(b) {
		return v, fmt.Errorf("object %d, granule %d is torn or not what was written there", p.object, p.granule)
	}
	return v, nil
}

// acks are the newest acknowledged versions by place. On the pipe each is
// {object u32, granule u32, version u64}.
type acks struct{ newest map[place]meta.Version }

func newAcks() *acks { return &acks{newest: map[place]meta.Version{}} }

const ackBytes = 16

func putAck(b []byte, p place, v meta.Version) {
	binary.LittleEndian.PutUint32(b, uint32(p.object))
	binary.LittleEndian.PutUint32(b[4:], uint32(p.granule))
	binary.LittleEndian.PutUint64(b[8:], uint64(v))
}

// read takes acknowledgements until the end; a partial last one never was
// told completely and does not count.
func (a *acks) read(r *bufio.Reader) (n int, err error) {
	var b [ackBytes]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err == io.ErrUnexpectedEOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		p := place{int(binary.LittleEndian.Uint32(b[:])), int(binary.LittleEndian.Uint32(b[4:]))}
		v := meta.Version(binary.LittleEndian.Uint64(b[8:]))
		if p.object >= objects || p.granule >= granules || v <= a.newest[p] {
			return n, fmt.Errorf("the writer acknowledged nonsense: %+v version %d after %d", p, v, a.newest[p])
		}
		a.newest[p] = v
		n++
	}
}
