package schema

import (
	"encoding/json"
	"strconv"
	"strings"

	"vitastor/internal/meta"
)

// InodeConfig is config/inode/<pool>/<inode>: one image, snapshot or layer
// (etcd.md 2.8).
type InodeConfig struct {
	ID     meta.Inode // from the key
	Name   string     // full name: "image" or "image@snapshot"
	Size   uint64     // bytes
	Parent meta.Inode // 0 = none
	// ReadOnly is always set for layers with children.
	ReadOnly bool
	Deleted  bool // removal has begun
	Meta     json.RawMessage
}

// DecodeInodeConfig reads config/inode. After an error the inode must not be
// used: its chain of parents may be wrong.
func DecodeInodeConfig(key string, inode meta.Inode, data []byte) (InodeConfig, error) {
	d := open(key, data)
	c := InodeConfig{ID: inode}
	parent, parentPool := uint64(0), meta.PoolID(0)
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "name":
			c.Name = d.str(v)
		case "size":
			c.Size = d.uint64(v)
		case "parent_id":
			parent = d.uint64(v)
		case "parent_pool":
			parentPool = meta.PoolID(d.uint(v, uint64(meta.MaxPoolID)))
		case "readonly":
			c.ReadOnly = d.bool(v)
		case "deleted":
			c.Deleted = d.bool(v)
		case "meta":
			if c.Meta = nil; v.kind() != kindNull {
				c.Meta = compact(v)
			}
		}
	}
	c.Parent = parentInode(inode.Pool(), parentPool, parent)
	if c.Parent != 0 && c.Parent.Number() == 0 {
		d.path = []step{{name: []byte("parent_id")}}
		d.fail(strconv.AppendUint(nil, parent, 10), "the number of an inode, with or without its pool in the upper 16 bits")
	}
	return c, d.err()
}

// parentInode joins the parts of a parent: the number may already contain the
// pool; without any pool it is in the pool of the child.
func parentInode(own, pool meta.PoolID, number uint64) meta.Inode {
	switch {
	case number == 0 || number > meta.MaxInodeNumber:
		return meta.Inode(number)
	case pool == 0:
		pool = own
	}
	return meta.MakeInode(pool, number)
}

// Encode is the form of clients and CLI: false and absent fields are left out.
func (c *InodeConfig) Encode() []byte {
	var w writer
	w.open('{')
	if c.Deleted {
		w.name("deleted")
		w.bool(true)
	}
	if c.Meta != nil {
		w.name("meta")
		w.raw(c.Meta)
	}
	w.name("name")
	w.str(c.Name)
	if c.Parent.Number() != 0 {
		w.name("parent_id")
		w.uint(c.Parent.Number())
		if c.Parent.Pool() != c.ID.Pool() {
			w.name("parent_pool")
			w.uint(uint64(c.Parent.Pool()))
		}
	}
	if c.ReadOnly {
		w.name("readonly")
		w.bool(true)
	}
	w.name("size")
	w.uint(c.Size)
	w.close('}')
	return w.buf
}

// SplitImageName cuts "image@snapshot"; snapshot is "" for an image.
func SplitImageName(name string) (image, snapshot string) {
	image, snapshot, _ = strings.Cut(name, "@")
	return image, snapshot
}

// DecodeImageIndex reads index/image/<name>; 0 = the key does not exist. After
// an error, look through config/inode instead.
func DecodeImageIndex(key string, data []byte) (meta.Inode, error) {
	d := open(key, data)
	number, pool := uint64(0), uint64(0)
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "id":
			number = d.uint(v, meta.MaxInodeNumber)
		case "pool_id":
			pool = d.uint(v, uint64(meta.MaxPoolID))
		}
	}
	if d.root.kind() != kindNull && len(d.errs) == 0 && (number == 0 || pool == 0) {
		d.fail(d.root, `an object with a positive "id" and "pool_id"`)
	}
	if err := d.err(); err != nil {
		return 0, err
	}
	return meta.MakeInode(meta.PoolID(pool), number), nil
}

// EncodeImageIndex writes index/image/<name>.
func EncodeImageIndex(i meta.Inode) []byte {
	var w writer
	w.open('{')
	w.name("id")
	w.uint(i.Number())
	w.name("pool_id")
	w.uint(uint64(i.Pool()))
	w.close('}')
	return w.buf
}

// DecodeMaxID reads index/maxid/<pool>: the highest inode number ever given; 0
// = the key does not exist.
func DecodeMaxID(key string, data []byte) (uint64, error) {
	d := open(key, data)
	return d.uint(d.root, meta.MaxInodeNumber), d.err()
}

// EncodeMaxID writes index/maxid/<pool>.
func EncodeMaxID(n uint64) []byte {
	var w writer
	w.uint(n)
	return w.buf
}

// NextInode is the number of a new inode: above maxid and above all known ones.
// ok is false when the pool has no number left.
func NextInode(maxID, highestKnown uint64) (n uint64, ok bool) {
	n = max(maxID, highestKnown)
	return n + 1, n < meta.MaxInodeNumber
}
