package schema

import (
	"encoding/json"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// SeenInode is an inode as it was read, and the revision of its key.
type SeenInode struct {
	InodeConfig
	Rev int64
}

func (k Keys) inodeUnchanged(s *SeenInode) env.Compare {
	return unchanged(k.InodeConfig(s.ID), s.Rev)
}

func (k Keys) putInode(c *InodeConfig) env.KVOp { return put(k.InodeConfig(c.ID), c.Encode()) }

func (k Keys) putIndex(name string, i meta.Inode) env.KVOp {
	return put(k.ImageIndex(name), EncodeImageIndex(i))
}

// newInode is what creation of an image and of a snapshot have in common: id and
// name unused, maxid as seen.
func (k Keys) newInode(i meta.Inode, unusedName string, maxIDRev int64) env.Txn {
	index := k.ImageIndex(unusedName)
	return env.Txn{
		If: []env.Compare{
			absent(k.InodeConfig(i)),
			absent(index),
			exactly(k.MaxID(i.Pool()), maxIDRev),
		},
		Else: []env.KVOp{get(index)},
	}
}

// CreateImage stores a new image (etcd.md 2.8). c.ID is NextInode of the maxid
// read at maxIDRev. When it fails, the answer has the index of the name: if it
// exists, the name is taken, otherwise try again with a new id.
func (k Keys) CreateImage(c *InodeConfig, maxIDRev int64) env.Txn {
	t := k.newInode(c.ID, c.Name, maxIDRev)
	t.Then = []env.KVOp{
		k.putInode(c),
		k.putIndex(c.Name, c.ID),
		put(k.MaxID(c.ID.Pool()), EncodeMaxID(c.ID.Number())),
	}
	return t
}

// Snapshot turns image old into the snapshot "<image>@<snapshot>", and top into
// the image: an empty layer above it. top may be in another pool. Like in the
// reference meta and deleted stay with neither of them. indexRev is the
// revision of the image's index. A failure is handled like in CreateImage.
func (k Keys) Snapshot(old *SeenInode, indexRev int64, snapshot string, top meta.Inode, maxIDRev int64) env.Txn {
	return k.SnapshotAbout(old, indexRev, snapshot, nil, top, maxIDRev)
}

// SnapshotAbout is Snapshot with a meta of the snapshot, a JSON object.
func (k Keys) SnapshotAbout(old *SeenInode, indexRev int64, snapshot string, about json.RawMessage, top meta.Inode, maxIDRev int64) env.Txn {
	name := old.Name + "@" + snapshot
	t := k.newInode(top, name, maxIDRev)
	t.If = append(t.If,
		exactly(k.InodeConfig(old.ID), old.Rev),
		exactly(k.ImageIndex(old.Name), indexRev))
	layer := InodeConfig{ID: top, Name: old.Name, Size: old.Size, Parent: old.ID}
	frozen := InodeConfig{ID: old.ID, Name: name, Size: old.Size, Parent: old.Parent, ReadOnly: true, Meta: about}
	t.Then = []env.KVOp{
		k.putInode(&layer),
		k.putIndex(old.Name, top),
		put(k.MaxID(top.Pool()), EncodeMaxID(top.Number())),
		k.putInode(&frozen),
		k.putIndex(name, old.ID),
	}
	return t
}

// ModifyImage rewrites an inode: size, flags, parent or meta. With another name
// it is also renamed. The reference reports a failure as "try again".
func (k Keys) ModifyImage(old *SeenInode, c *InodeConfig) env.Txn {
	t := env.Txn{
		If:   []env.Compare{k.inodeUnchanged(old)},
		Then: []env.KVOp{k.putInode(c)},
	}
	if c.Name != old.Name {
		oldIndex := k.ImageIndex(old.Name)
		t.If = append(t.If, unchanged(oldIndex, old.Rev), absent(k.ImageIndex(c.Name)))
		t.Then = append(t.Then, del(oldIndex), k.putIndex(c.Name, c.ID))
	}
	return t
}

// ChangeParent moves a layer onto another parent; 0 = none.
func (k Keys) ChangeParent(old *SeenInode, parent meta.Inode) env.Txn {
	c := old.InodeConfig
	c.Parent = parent
	return k.ModifyImage(old, &c)
}

// DeleteLayer removes an inode and its name. Its data must be gone already.
func (k Keys) DeleteLayer(old *SeenInode) env.Txn {
	return env.Txn{
		If:   []env.Compare{k.inodeUnchanged(old)},
		Then: []env.KVOp{del(k.InodeConfig(old.ID)), del(k.ImageIndex(old.Name))},
	}
}

// ReplaceParent ends an inverse merge: the data of child is in target, one of its
// ancestors, and target takes the child's place: its name, size and flags,
// above newParent (0 = none). grandchildren are all children of child.
func (k Keys) ReplaceParent(child, target *SeenInode, newParent meta.Inode, grandchildren []SeenInode) env.Txn {
	c := child.InodeConfig
	c.ID, c.Parent, c.Deleted = target.ID, newParent, false
	t := env.Txn{
		If: []env.Compare{k.inodeUnchanged(child), k.inodeUnchanged(target)},
		Then: []env.KVOp{
			del(k.InodeConfig(child.ID)),
			del(k.ImageIndex(target.Name)),
			k.putInode(&c),
			k.putIndex(child.Name, target.ID),
		},
	}
	for i := range grandchildren {
		g := grandchildren[i].InodeConfig
		g.Parent = target.ID
		t.If = append(t.If, k.inodeUnchanged(&grandchildren[i]))
		t.Then = append(t.Then, k.putInode(&g))
	}
	return t
}
