package cli

import (
	"strings"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

const imageAlign = 4096 // sizes of images, unless forced

func (r *run) create() (result, error) {
	if snapshot := r.text("snapshot"); snapshot != "" {
		if r.given("size") {
			return result{}, fail(syscall.EINVAL, "Size can't be specified for snapshots")
		}
		return r.makeSnapshot(r.arg(0), snapshot)
	}
	size := uint64(0)
	if r.given("size") {
		var ok bool
		if size, ok = parseSize(r.text("size")); !ok {
			return result{}, fail(syscall.EINVAL, "Invalid syntax for size: %s", r.text("size"))
		}
		if size%imageAlign != 0 && !r.flag("force_size") {
			return result{}, fail(syscall.EINVAL, "Size should be a multiple of %d", imageAlign)
		}
	}
	name := r.arg(0)
	if err := checkImageName(name); err != nil {
		return result{}, err
	}
	image, err := r.createImage(name, size)
	if err != nil {
		return result{}, err
	}
	return result{text: "Image " + name + " created",
		data: object{"name": name, "parent": r.text("parent"), "pool": r.text("pool"), "size": image.Size}}, nil
}

func checkImageName(name string) error {
	switch {
	case name == "":
		return fail(syscall.EINVAL, "Image name is missing")
	case strings.Contains(name, "@"):
		return fail(syscall.EINVAL, "Image name can't contain @ character")
	}
	return nil
}

// createImage makes an image, or a clone, as the options say.
func (r *run) createImage(name string, size uint64) (*schema.InodeConfig, error) {
	c, err := r.connect()
	if err != nil {
		return nil, err
	}
	for range attemptsMax {
		s, err := c.state()
		if err != nil {
			return nil, err
		}
		if s.image(name) != nil {
			return nil, fail(syscall.EEXIST, "Image %s already exists", name)
		}
		image := &schema.InodeConfig{Name: name, Size: size}
		if image.Meta, err = r.imageMeta(); err != nil {
			return nil, err
		}
		pool, err := r.poolForImage(s, image)
		if err != nil {
			return nil, err
		}
		maxRev := int64(0)
		if image.ID, maxRev, err = c.newInode(s, pool); err != nil {
			return nil, err
		}
		t := c.keys.CreateImage(image, maxRev)
		if p := s.inodes[image.Parent]; p != nil { // it must not be removed meanwhile
			t.If = append(t.If, env.Compare{Key: c.keys.InodeConfig(p.ID), Target: env.CompareMod, Result: env.CompareEqual, Number: p.Rev})
		}
		done, taken, err := c.tryName(&t)
		switch {
		case err != nil:
			return nil, err
		case done:
			return image, nil
		case taken:
			return nil, fail(syscall.EEXIST, "Image %s already exists", name)
		}
	}
	return nil, fail(syscall.EAGAIN, "Image %s: others keep creating images: try again", name)
}

// imageMeta is what an image or snapshot is to remember; nil = nothing.
func (r *run) imageMeta() ([]byte, error) {
	text := r.text("image_meta")
	if text == "" {
		return nil, nil
	}
	if _, is := decodeAny([]byte(text)).(map[string]any); !is {
		return nil, fail(syscall.EINVAL, "--image_meta must be a JSON object")
	}
	return []byte(text), nil
}

// poolForImage chooses the pool, and completes what a parent decides.
func (r *run) poolForImage(s *state, image *schema.InodeConfig) (*schema.Pool, error) {
	var pool *schema.Pool
	if name := r.text("pool"); name != "" {
		var err error
		if pool, err = s.wantPool(name); err != nil {
			return nil, err
		}
	}
	if parent := r.text("parent"); parent != "" {
		p := s.image(parent)
		if p == nil {
			return nil, fail(syscall.ENOENT, "Parent image %s not found", parent)
		}
		if p.Deleted {
			return nil, fail(syscall.EINVAL, "Parent image %s is being removed, its data may be gone", parent)
		}
		image.Parent = p.ID
		if pool == nil {
			pool = s.pools[p.ID.Pool()]
		}
		if !r.given("size") {
			image.Size = p.Size
		}
	}
	if pool == nil && len(s.pools) == 1 {
		pool = s.pools[s.poolIDs()[0]]
	}
	switch {
	case pool == nil:
		return nil, fail(syscall.EINVAL, "Pool name or ID is missing")
	case pool.UsedForApp != "" && !r.flag("force"):
		return nil, fail(syscall.EINVAL, "Pool %s is used for application %s. Use --force if you really know what you are doing", pool.Name, pool.UsedForApp)
	case image.Size == 0 && !r.flag("force_size"):
		return nil, fail(syscall.EINVAL, "Image size is missing")
	}
	return pool, nil
}

// newInode chooses an inode number; the transaction proves that it is free.
func (c *cluster) newInode(s *state, pool *schema.Pool) (id meta.Inode, maxRev int64, err error) {
	key := c.keys.MaxID(pool.ID)
	kv, err := c.get(key)
	if err != nil {
		return 0, 0, err
	}
	maxID, err := schema.DecodeMaxID(key, kv.Value)
	if err != nil {
		return 0, 0, fail(syscall.EINVAL, "%v", err)
	}
	n, ok := schema.NextInode(maxID, s.highest(pool.ID))
	if !ok {
		return 0, 0, fail(syscall.ENOSPC, "Pool %s has no inode number left", pool.Name)
	}
	return meta.MakeInode(pool.ID, n), kv.ModRevision, nil
}

// tryName runs a transaction that takes a name.
func (c *cluster) tryName(t *env.Txn) (done, taken bool, err error) {
	r, err := c.txn(t)
	if err != nil {
		return false, false, err
	}
	if r.Succeeded {
		return true, false, c.until(r.Revision)
	}
	if first(r.Responses[0]) != nil {
		return false, true, nil
	}
	time.Sleep(10 * time.Millisecond) // somebody took the number: until we know of it
	return false, false, nil
}

func (r *run) snapCreate() (result, error) {
	image, snapshot := schema.SplitImageName(r.arg(0))
	if snapshot == "" {
		return result{}, fail(syscall.EINVAL, "Please specify new snapshot name after @")
	}
	return r.makeSnapshot(image, snapshot)
}

func (r *run) makeSnapshot(image, snapshot string) (result, error) {
	if r.text("parent") != "" {
		return result{}, fail(syscall.EINVAL, "Parent can't be specified for snapshots")
	}
	if err := checkImageName(image); err != nil {
		return result{}, err
	}
	if strings.Contains(snapshot, "@") {
		return result{}, fail(syscall.EINVAL, "Snapshot name can't contain @ character")
	}
	full := image + "@" + snapshot
	about, err := r.imageMeta()
	if err != nil {
		return result{}, err
	}
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	for range attemptsMax {
		s, err := c.state()
		if err != nil {
			return result{}, err
		}
		if s.image(full) != nil {
			return result{}, fail(syscall.EEXIST, "Snapshot %s already exists", full)
		}
		old := s.image(image)
		if old == nil {
			return result{}, fail(syscall.ENOENT, "Image %s does not exist", image)
		}
		pool, err := r.poolForSnapshot(s, old)
		if err != nil {
			return result{}, err
		}
		index, err := c.get(c.keys.ImageIndex(image))
		if err != nil {
			return result{}, err
		}
		top, maxRev, err := c.newInode(s, pool)
		if err != nil {
			return result{}, err
		}
		t := c.keys.SnapshotAbout(old, index.ModRevision, snapshot, about, top, maxRev)
		done, taken, err := c.tryName(&t)
		switch {
		case err != nil:
			return result{}, err
		case done:
			return result{text: "Snapshot " + full + " created", data: object{"name": full, "parent": "", "pool": top.Pool(), "size": old.Size}}, nil
		case taken:
			return result{}, fail(syscall.EEXIST, "Snapshot %s already exists", full)
		}
	}
	return result{}, fail(syscall.EAGAIN, "Snapshot %s: the image keeps changing: try again", full)
}

// poolForSnapshot is where the image goes on.
func (r *run) poolForSnapshot(s *state, old *schema.SeenInode) (*schema.Pool, error) {
	name := r.text("pool")
	if name == "" {
		if p := s.pools[old.ID.Pool()]; p != nil {
			return p, nil
		}
		return nil, fail(syscall.ENOENT, "Pool %d of image %s does not exist", old.ID.Pool(), old.Name)
	}
	pool, err := s.wantPool(name)
	if err == nil && pool.UsedForApp != "" && !r.flag("force") {
		err = fail(syscall.EINVAL, "Pool %s is used for application %s. Use --force if you really know what you are doing", pool.Name, pool.UsedForApp)
	}
	return pool, err
}
