package csi

import (
	"context"
	"syscall"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// CreateSnapshot implements the RPC.
func (c *controller) CreateSnapshot(ctx context.Context, r *spec.CreateSnapshotRequest) (*spec.CreateSnapshotResponse, error) {
	if err := checkName("snapshot", r.GetName()); err != nil {
		return nil, err
	}
	if r.GetSourceVolumeId() == "" {
		return nil, invalid("source_volume_id is missing")
	}
	h, _, err := c.existing(ctx, r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	h.Snapshot = r.GetName()
	return guarded(ctx, c.guard, locks{alone: []string{h.key(), "snapshot:" + h.Snapshot}}, func(ctx context.Context) (*spec.CreateSnapshotResponse, error) {
		made, err := c.freeze(ctx, h)
		if err != nil {
			return nil, statusOf(err, "creating snapshot %s", h.image())
		}
		return &spec.CreateSnapshotResponse{Snapshot: snapshotOf(h, made)}, nil
	})
}

// freeze makes a snapshot, unless it is there. Names of snapshots are unique
// among all volumes.
func (c *controller) freeze(ctx context.Context, h handle) (*image, error) {
	list, err := c.images.list(ctx, h.ConfigPath)
	if err != nil {
		return nil, err
	}
	for i := range list {
		switch {
		case list[i].snapshot() != h.Snapshot:
		case list[i].volume() != h.Name:
			return nil, exists("snapshot %s already exists, of volume %s", h.Snapshot, list[i].volume())
		case list[i].Deleted:
			return nil, aborted("snapshot %s is being removed: repeat the call when it is gone", h.image())
		default:
			return &list[i], nil
		}
	}
	if err := c.images.freeze(ctx, h); err != nil && !failed(err, syscall.EEXIST) {
		return nil, err
	}
	made, err := c.images.find(ctx, h)
	if err == nil && made == nil {
		err = aborted("snapshot %s was removed meanwhile: repeat the call", h.image())
	}
	return made, err
}

// snapshotOf is how orchestrators see it.
func snapshotOf(h handle, i *image) *spec.Snapshot {
	return &spec.Snapshot{SnapshotId: h.String(), SourceVolumeId: h.volume().String(), SizeBytes: int64(i.Size),
		CreationTime: timestamppb.New(i.made()), ReadyToUse: !i.Deleted}
}

// DeleteSnapshot implements the RPC. Clones and later layers get its data first.
func (c *controller) DeleteSnapshot(ctx context.Context, r *spec.DeleteSnapshotRequest) (*spec.DeleteSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, invalid("snapshot_id is missing")
	}
	h, err := parseHandle(r.GetSnapshotId(), c.config)
	if err != nil || h.Snapshot == "" || h.VitastorFS != "" {
		c.log.Warn("a snapshot that is none of ours counts as deleted", "snapshot", r.GetSnapshotId())
		return &spec.DeleteSnapshotResponse{}, nil
	}
	return guarded(ctx, c.guard, locks{alone: []string{h.key()}}, func(ctx context.Context) (*spec.DeleteSnapshotResponse, error) {
		err := c.images.remove(ctx, h)
		if err == nil {
			err = c.sweep(ctx, h)
		}
		return &spec.DeleteSnapshotResponse{}, statusOf(err, "deleting snapshot %s", h.image())
	})
}

// GetSnapshot implements the RPC.
func (c *controller) GetSnapshot(ctx context.Context, r *spec.GetSnapshotRequest) (*spec.GetSnapshotResponse, error) {
	if r.GetSnapshotId() == "" {
		return nil, invalid("snapshot_id is missing")
	}
	h, found, err := c.snapshot(ctx, r.GetSnapshotId())
	switch {
	case err != nil:
		return nil, err
	case found == nil:
		return nil, notFound("there is no snapshot %q", r.GetSnapshotId())
	}
	return &spec.GetSnapshotResponse{Snapshot: snapshotOf(h, found)}, nil
}

// snapshot finds the snapshot of an id, nil if there is none.
func (c *controller) snapshot(ctx context.Context, id string) (handle, *image, error) {
	h, err := parseHandle(id, c.config)
	if err != nil || h.Snapshot == "" || h.VitastorFS != "" {
		return h, nil, nil
	}
	found, err := c.images.find(ctx, h)
	return h, found, statusOf(err, "snapshot %s", h.image())
}
