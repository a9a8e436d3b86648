package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// staging is a volume that is to be attached, and mounted for all its pods
// unless it is a block volume.
type staging struct {
	handle
	use
	path string
}

// NodeStageVolume implements the RPC.
func (n *node) NodeStageVolume(ctx context.Context, r *spec.NodeStageVolumeRequest) (*spec.NodeStageVolumeResponse, error) {
	if r.GetStagingTargetPath() == "" {
		return nil, invalid("staging_target_path is missing")
	}
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	s := staging{path: r.GetStagingTargetPath()}
	var err error
	if s.use, err = parseUse(r.GetVolumeCapability()); err != nil {
		return nil, invalid("%v", err)
	}
	if s.handle, err = n.volume(r.GetVolumeId()); err != nil {
		return nil, err
	}
	err = n.act(ctx, s.handle, "staging", func(ctx context.Context) error { return n.stage(ctx, &s) })
	return &spec.NodeStageVolumeResponse{}, err
}

// stage attaches and mounts. If that fails, what it has attached is detached.
func (n *node) stage(ctx context.Context, s *staging) error {
	a, fresh, err := n.attach(ctx, s)
	if err != nil {
		return err
	}
	if !s.block {
		err = n.mountStaged(ctx, s, a)
	}
	if err == nil || !fresh || ctx.Err() != nil {
		return err
	}
	if e := n.detach(ctx, a); e != nil {
		n.log.Error("a device stays attached until the volume is unstaged", "device", a.Device, "err", e)
	}
	return err
}

// attach finds the device of the volume, or makes it.
func (n *node) attach(ctx context.Context, s *staging) (a *Attachment, fresh bool, err error) {
	own, err := n.attachments(ctx, s.handle)
	if err != nil {
		return nil, false, err
	}
	if len(own) > 0 {
		a, err := n.attachedAlready(ctx, s, &own[0])
		return a, false, err
	}
	i, err := n.images.find(ctx, s.handle)
	switch {
	case err != nil:
		return nil, false, err
	case i == nil:
		return nil, false, notFound("there is no image %s in the cluster of %s", s.Name, s.ConfigPath)
	case i.Deleted:
		return nil, false, notFound("image %s is being removed", s.Name)
	}
	by, err := n.attacher(ctx)
	if err != nil {
		return nil, false, precondition("%v", err)
	}
	made, err := by.Attach(ctx, Attachment{ConfigPath: s.ConfigPath, Image: s.image(), ReadOnly: s.readOnly()})
	if err != nil {
		return nil, false, err
	}
	made.Method = by.Method()
	if err := n.states.save(&made); err != nil {
		return nil, false, errors.Join(err, n.detach(ctx, &made))
	}
	return &made, true, waitForDevice(ctx, made.Device)
}

// attachedAlready uses a device that is there.
func (n *node) attachedAlready(ctx context.Context, s *staging, a *Attachment) (*Attachment, error) {
	if a.ReadOnly && !s.readOnly() {
		return nil, exists("volume %s is attached read-only as %s already, and cannot be written to", s.Name, a.Device)
	}
	if a.Dead {
		if err := n.by(a.Method).Revive(ctx, *a); err != nil {
			return nil, err
		}
	}
	if err := n.states.save(a); err != nil {
		return nil, err
	}
	return a, waitForDevice(ctx, a.Device)
}

// deviceWait is how long a new device may take to appear in /dev.
const deviceWait = 10 * time.Second

func waitForDevice(ctx context.Context, device string) error {
	for end := time.Now().Add(deviceWait); ; time.Sleep(20 * time.Millisecond) {
		number, err := deviceNumber(device)
		switch {
		case err == nil && number != "":
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(end) && err == nil:
			return fmt.Errorf("%s is no block device: look at attach.log in the folder of state files", device)
		case time.Now().After(end):
			return fmt.Errorf("%w: the device does not appear, is /dev that of the host?", err)
		}
	}
}

// mountStaged makes the file system and mounts it.
func (n *node) mountStaged(ctx context.Context, s *staging, a *Attachment) error {
	number, err := deviceNumber(a.Device)
	if err != nil {
		return err
	}
	m, err := mountAt(s.path)
	if err != nil {
		return err
	}
	f := filesystem{run: n.run, device: a.Device, fsType: s.fsType}
	switch {
	case m != nil && m.device != number:
		return exists("%s is a mount point of %s already, not of %s", s.path, m.source, a.Device)
	case m != nil && (m.fsType != s.fsType || m.readOnly() != s.readOnly()):
		return exists("volume %s is staged on %s already, in another way (%s, %s)", s.Name, s.path, m.fsType, strings.Join(m.options, ","))
	case m == nil:
		if err := os.MkdirAll(s.path, 0o750); err != nil {
			return err
		}
		if err := f.prepare(ctx, s.readOnly()); err != nil {
			return err
		}
		if err := f.mount(ctx, s.path, s.options, s.readOnly()); err != nil {
			return err
		}
	}
	if s.readOnly() {
		return nil
	}
	// The image may have become larger meanwhile. A volume that cannot be enlarged
	// can still be used, and NodeExpandVolume tells why it cannot.
	if err := f.grow(ctx, s.path); err != nil {
		if ctx.Err() != nil {
			return err
		}
		n.log.Warn("the file system keeps its size", "volume", s.Name, "err", err)
	}
	return nil
}

// NodeUnstageVolume implements the RPC.
func (n *node) NodeUnstageVolume(ctx context.Context, r *spec.NodeUnstageVolumeRequest) (*spec.NodeUnstageVolumeResponse, error) {
	path := r.GetStagingTargetPath()
	if path == "" {
		return nil, invalid("staging_target_path is missing")
	}
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	h, err := parseHandle(r.GetVolumeId(), n.config)
	if err != nil { // nothing of ours can be attached, but it must not stay mounted
		return &spec.NodeUnstageVolumeResponse{}, statusOf(unmount(ctx, n.run, path), "unmounting %s", path)
	}
	err = n.act(ctx, h, "unstaging", func(ctx context.Context) error { return n.unstage(ctx, h, path) })
	return &spec.NodeUnstageVolumeResponse{}, err
}

// unstage unmounts the volume and detaches it, unless it is used elsewhere.
func (n *node) unstage(ctx context.Context, h handle, path string) error {
	// Compat: the reference's driver mounts device files here.
	if err := unmount(ctx, n.run, path); err != nil {
		return err
	}
	own, err := n.attachments(ctx, h)
	if err != nil {
		return err
	}
	for i := range own {
		if number, err := deviceNumber(own[i].Device); err == nil && number != "" {
			targets, err := users(number)
			if err != nil {
				return err
			}
			if len(targets) > 0 {
				return precondition("%s is still used: unmount %s", own[i].Device, strings.Join(targets, ", "))
			}
		}
		if err := n.detach(ctx, &own[i]); err != nil {
			return err
		}
	}
	return n.forgetAll(h)
}

// forgetAll removes what is still remembered of a volume that is not attached:
// we may have been killed after detaching it.
func (n *node) forgetAll(h handle) error {
	for _, k := range n.states.load() {
		if k.ConfigPath == "" {
			k.ConfigPath = n.config
		}
		if k.is(h) {
			if err := n.states.forget(&k); err != nil {
				return err
			}
		}
	}
	return nil
}

// detachTries is how often a busy device is tried again: udev looks into
// devices when they change.
const (
	detachTries = 5
	detachPause = 20 * time.Millisecond // then twice that, and so on
)

func (n *node) detach(ctx context.Context, a *Attachment) error {
	by, wait := n.by(a.Method), detachPause
	for try := 1; ; try++ {
		err := by.Detach(ctx, *a)
		if err == nil {
			return n.states.forget(a)
		}
		if try == detachTries || ctx.Err() != nil {
			return err
		}
		time.Sleep(wait)
		wait *= 2
	}
}
