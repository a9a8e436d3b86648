package csi

import (
	"context"
	"errors"
	"syscall"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// wanted is a volume that is to be created.
type wanted struct {
	handle
	sizes
	pool    string
	content *spec.VolumeContentSource
	source  *handle // volume or snapshot; nil = empty
}

// clone tells whether the source is a volume.
func (w *wanted) clone() bool { return w.source != nil && w.source.Snapshot == "" }

// parent is the layer below the new image: that of a snapshot, or one which is
// made of a volume to be cloned.
func (w *wanted) parent() string {
	switch {
	case w.source == nil:
		return ""
	case w.clone():
		return w.frozen().image()
	}
	return w.source.image()
}

// frozen is the snapshot that a clone of a volume is made from.
func (w *wanted) frozen() handle {
	h := *w.source
	h.Snapshot = cloneMark + w.Name
	return h
}

// CreateVolume implements the RPC.
func (c *controller) CreateVolume(ctx context.Context, r *spec.CreateVolumeRequest) (*spec.CreateVolumeResponse, error) {
	w, err := c.wanted(r)
	if err != nil {
		return nil, err
	}
	l := locks{alone: []string{w.key()}}
	if w.source != nil {
		if w.source.key() == w.key() {
			return nil, invalid("volume %s cannot be made of itself", w.Name)
		}
		l.shared = []string{w.source.key()}
	}
	return guarded(ctx, c.guard, l, func(ctx context.Context) (*spec.CreateVolumeResponse, error) {
		size, err := c.create(ctx, w)
		if err != nil {
			return nil, statusOf(err, "creating volume %s", w.Name)
		}
		return &spec.CreateVolumeResponse{Volume: &spec.Volume{VolumeId: w.String(), CapacityBytes: int64(size), ContentSource: w.content}}, nil
	})
}

// wanted reads a request.
func (c *controller) wanted(r *spec.CreateVolumeRequest) (*wanted, error) {
	if err := checkName("volume", r.GetName()); err != nil {
		return nil, err
	}
	if err := parseUses(r.GetVolumeCapabilities()); err != nil {
		return nil, invalid("%v", err)
	}
	if len(r.GetMutableParameters()) > 0 {
		return nil, invalid("mutable_parameters: there are none that could be changed later")
	}
	p, err := parseParams(r.GetParameters(), c.config, c.log)
	if err != nil {
		return nil, err
	}
	if err := checkConfig(p.configPath); err != nil {
		return nil, invalid("parameter configPath: %v", err)
	}
	w := &wanted{handle: handle{ConfigPath: p.configPath, Name: p.prefix + r.GetName()}, pool: p.pool, content: r.GetVolumeContentSource()}
	if w.sizes, err = sizesOf(r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if w.content != nil {
		if w.source, err = c.source(w); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// source reads what the volume is to be made of.
func (c *controller) source(w *wanted) (*handle, error) {
	id := w.content.GetSnapshot().GetSnapshotId()
	isSnapshot := w.content.GetSnapshot() != nil
	if !isSnapshot {
		id = w.content.GetVolume().GetVolumeId()
	}
	if id == "" {
		return nil, invalid("volume_content_source has no id of a volume or snapshot")
	}
	h, err := parseHandle(id, c.config)
	switch {
	case err != nil || isSnapshot != (h.Snapshot != ""):
		return nil, notFound("volume_content_source: there is no volume or snapshot %q", id)
	case h.VitastorFS != "":
		return nil, invalid("volume_content_source: %s is a folder of a file system, of which block volumes cannot be made", h.Name)
	case h.ConfigPath != w.ConfigPath:
		return nil, invalid("volume_content_source: %s is in the cluster of %s, the volume in that of %s: copy the data, or use a StorageClass with the same configPath",
			h.image(), h.ConfigPath, w.ConfigPath)
	}
	return &h, nil
}

// create makes the volume, unless it is there, and returns its size.
func (c *controller) create(ctx context.Context, w *wanted) (uint64, error) {
	names := []string{w.Name}
	if w.source != nil {
		names = append(names, w.source.image(), w.parent())
	}
	list, err := c.images.list(ctx, w.ConfigPath, names...)
	if err != nil {
		return 0, err
	}
	if found := named(list, w.Name); found != nil {
		return c.accept(ctx, w, found)
	}
	usual := uint64(sizeDefault)
	if w.source != nil {
		source := named(list, w.source.image())
		if source == nil || source.Deleted {
			return 0, notFound("volume_content_source: there is no image %s in the cluster of %s", w.source.image(), w.ConfigPath)
		}
		usual = source.Size
		if w.least > 0 && w.least < source.Size || w.most > 0 && w.most < source.Size {
			return 0, outOfRange("capacity_range: %s, which the volume is made of, has %d bytes", w.source.image(), source.Size)
		}
	}
	size, err := w.choose(usual)
	if err != nil {
		return 0, err
	}
	if w.clone() {
		err = c.createClone(ctx, w, size, named(list, w.parent()) != nil)
	} else {
		err = c.images.create(ctx, w.handle, w.pool, size, w.parent())
	}
	if failed(err, syscall.EEXIST) { // another controller was faster
		found, err := c.images.find(ctx, w.handle)
		if err != nil || found == nil {
			return 0, errors.Join(err, aborted("volume %s appears and disappears: repeat the call", w.Name))
		}
		return c.accept(ctx, w, found)
	}
	return size, c.explain(w, err)
}

// explain tells what could not be found.
func (c *controller) explain(w *wanted, err error) error {
	switch {
	case !failed(err, syscall.ENOENT):
		return err
	case w.source == nil:
		return invalid("parameter poolId: %v: see `vitastor-cli ls-pools`", err)
	}
	return aborted("%v: it was removed meanwhile, or the pool %s does not exist: repeat the call", err, w.pool)
}

// accept checks whether an image that exists is the volume that is wanted.
func (c *controller) accept(ctx context.Context, w *wanted, found *image) (uint64, error) {
	switch {
	case found.Deleted:
		return 0, aborted("image %s is being removed: repeat the call when it is gone", w.Name)
	case !w.allow(found.Size):
		return 0, exists("image %s already exists and has %d bytes, which is not what is wanted", w.Name, found.Size)
	case !found.inPool(w.pool):
		return 0, exists("image %s already exists in pool %s, not in %s", w.Name, found.PoolName, w.pool)
	}
	below, err := c.below(ctx, w.handle, found)
	if err != nil {
		return 0, err
	}
	if below != w.parent() {
		return 0, exists("image %s already exists and is made of %s, not of %s", w.Name, nameOrNothing(below), nameOrNothing(w.parent()))
	}
	return found.Size, nil
}

func nameOrNothing(image string) string {
	if image == "" {
		return "nothing"
	}
	return image
}

// below is the layer below a volume and all its snapshots.
func (c *controller) below(ctx context.Context, h handle, found *image) (string, error) {
	parent := handleOf(h.ConfigPath, found.Parent)
	if parent.Name != h.Name {
		return found.Parent, nil
	}
	list, err := c.images.list(ctx, h.ConfigPath)
	if err != nil {
		return "", err
	}
	for range list { // no more than there are, even if they are a ring
		layer := named(list, parent.image())
		if layer == nil {
			return "", nil
		}
		if parent = handleOf(h.ConfigPath, layer.Parent); parent.Name != h.Name {
			break
		}
	}
	return parent.image(), nil
}

// DeleteVolume implements the RPC. Snapshots of the volume stay.
func (c *controller) DeleteVolume(ctx context.Context, r *spec.DeleteVolumeRequest) (*spec.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	h, err := parseHandle(r.GetVolumeId(), c.config)
	if err != nil || h.Snapshot != "" || h.VitastorFS != "" {
		// Compat: folders of file systems keep their data.
		c.log.Warn("a volume that is none of ours counts as deleted", "volume", r.GetVolumeId())
		return &spec.DeleteVolumeResponse{}, nil
	}
	return guarded(ctx, c.guard, locks{alone: []string{h.key()}}, func(ctx context.Context) (*spec.DeleteVolumeResponse, error) {
		err := c.images.remove(ctx, h)
		if err == nil {
			err = c.sweep(ctx, h)
		}
		return &spec.DeleteVolumeResponse{}, statusOf(err, "deleting volume %s", h.Name)
	})
}
