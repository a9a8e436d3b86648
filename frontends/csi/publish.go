package csi

import (
	"context"
	"os"
	"path/filepath"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// publishing is a staged volume that is to be given to a pod.
type publishing struct {
	handle
	use
	staged, target string
	noWrite        bool
}

// NodePublishVolume implements the RPC.
func (n *node) NodePublishVolume(ctx context.Context, r *spec.NodePublishVolumeRequest) (*spec.NodePublishVolumeResponse, error) {
	p := publishing{staged: r.GetStagingTargetPath(), target: r.GetTargetPath(), noWrite: r.GetReadonly()}
	var err error
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if p.target == "" {
		return nil, invalid("target_path is missing")
	}
	if p.use, err = parseUse(r.GetVolumeCapability()); err != nil {
		return nil, invalid("%v", err)
	}
	if p.staged == "" {
		return nil, precondition("staging_target_path is missing: the volume has to be staged first")
	}
	if p.handle, err = n.volume(r.GetVolumeId()); err != nil {
		return nil, err
	}
	p.noWrite = p.noWrite || p.readOnly()
	err = n.act(ctx, p.handle, "publishing", func(ctx context.Context) error {
		if p.block {
			return n.publishBlock(ctx, &p)
		}
		return n.publishMount(ctx, &p)
	})
	return &spec.NodePublishVolumeResponse{}, err
}

// publishMount mounts what is staged once more.
func (n *node) publishMount(ctx context.Context, p *publishing) error {
	staged, err := mountAt(p.staged)
	if err != nil {
		return err
	}
	if staged == nil {
		return precondition("volume %s is not staged on %s", p.Name, p.staged)
	}
	there, err := mountAt(p.target)
	if err != nil {
		return err
	}
	if there == nil {
		if err := n.onlyOne(p, staged.device); err != nil {
			return err
		}
		if err := os.MkdirAll(p.target, 0o750); err != nil {
			return err
		}
		if _, err := try(ctx, n.run, "mount", "--bind", "--", p.staged, p.target); err != nil {
			removePath(p.target)
			return err
		}
		if there, err = mountAt(p.target); err != nil || there == nil {
			return err
		}
	}
	switch {
	case there.device != staged.device:
		return exists("%s is a mount point of %s already", p.target, there.source)
	case there.readOnly() == p.noWrite:
		return nil
	case !p.noWrite:
		return exists("volume %s is published on %s already, read-only", p.Name, p.target)
	}
	// A new one, or one of a call that was killed before this step.
	_, err = try(ctx, n.run, "mount", "-o", "remount,bind,ro", "--", p.target)
	return err
}

// publishBlock mounts the device on a file.
func (n *node) publishBlock(ctx context.Context, p *publishing) error {
	own, err := n.attachments(ctx, p.handle)
	if err != nil {
		return err
	}
	if len(own) == 0 {
		return precondition("volume %s is not attached: it has to be staged first", p.Name)
	}
	number, err := deviceNumber(own[0].Device)
	if err != nil {
		return err
	}
	there, err := mountAt(p.target)
	if err != nil {
		return err
	}
	if there != nil {
		if other, err := deviceNumber(p.target); err != nil || other != number {
			return exists("%s is a mount point of something else already", p.target)
		}
		return nil
	}
	if err := n.onlyOne(p, number); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(p.target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	f.Close()
	if _, err = try(ctx, n.run, "mount", "--bind", "--", own[0].Device, p.target); err != nil {
		removePath(p.target)
	}
	return err
}

// onlyOne refuses a second target of a volume that may have but one.
func (n *node) onlyOne(p *publishing, number string) error {
	if p.mode != singleNodeSingleWriter {
		return nil
	}
	targets, err := users(number)
	if err != nil {
		return err
	}
	staged := resolved(p.staged)
	for _, t := range targets {
		if t != staged {
			return precondition("volume %s is published on %s already, and its access mode allows no second pod", p.Name, t)
		}
	}
	return nil
}

// NodeUnpublishVolume implements the RPC.
func (n *node) NodeUnpublishVolume(ctx context.Context, r *spec.NodeUnpublishVolumeRequest) (*spec.NodeUnpublishVolumeResponse, error) {
	path := r.GetTargetPath()
	if path == "" {
		return nil, invalid("target_path is missing")
	}
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	work := func(ctx context.Context) error {
		if err := unmount(ctx, n.run, path); err != nil {
			return err
		}
		return removePath(path)
	}
	h, err := parseHandle(r.GetVolumeId(), n.config)
	if err != nil {
		return &spec.NodeUnpublishVolumeResponse{}, statusOf(work(ctx), "unpublishing %s", path)
	}
	return &spec.NodeUnpublishVolumeResponse{}, n.act(ctx, h, "unpublishing", work)
}
