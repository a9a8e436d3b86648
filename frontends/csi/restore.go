package csi

import (
	"context"
	"time"
)

// watch revives dead devices, now and every interval; 0 = never.
func (n *node) watch(ctx context.Context, interval time.Duration) {
	if interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		n.restore(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// restore gives every dead device a new process, and forgets devices that are
// gone. What it cannot do now, it does the next time.
func (n *node) restore(ctx context.Context) {
	known := n.states.load()
	if len(known) == 0 {
		return
	}
	all, err := n.attached(ctx)
	if err != nil {
		n.log.Error("attached volumes cannot be listed", "err", err)
		return
	}
	for i := range known {
		k := &known[i]
		if k.ConfigPath == "" {
			k.ConfigPath = n.config
		}
		if alive(all, k) {
			continue
		}
		free, err := n.guard.take(locks{alone: []string{handleOf(k.ConfigPath, k.Image).key()}})
		if err != nil {
			continue // somebody is at work on it
		}
		n.restoreOne(ctx, k)
		free()
	}
}

// same finds a device in a list.
func same(list []Attachment, k *Attachment) *Attachment {
	for i := range list {
		if list[i].Method == k.Method && list[i].Device == k.Device && list[i].Image == k.Image {
			return &list[i]
		}
	}
	return nil
}

func alive(list []Attachment, k *Attachment) bool {
	a := same(list, k)
	return a != nil && !a.Dead
}

// restoreOne looks again, now that nobody else acts on the volume.
func (n *node) restoreOne(ctx context.Context, k *Attachment) {
	all, err := n.attached(ctx)
	if err != nil || alive(all, k) {
		return
	}
	a := same(all, k)
	if a == nil {
		n.log.Info("a device is gone", "device", k.Device, "image", k.Image)
		if err := n.states.forget(k); err != nil {
			n.log.Error("state file", "device", k.Device, "err", err)
		}
		return
	}
	if a.Foreign {
		n.log.Error("the process of a device has died, and ours cannot replace it: move the pods of the volume to another node", "device", a.Device, "image", a.Image)
		return
	}
	n.log.Warn("the process of a device has died: starting a new one", "device", a.Device, "image", a.Image)
	if err := n.by(a.Method).Revive(ctx, *a); err != nil {
		n.log.Error("the device stays dead for now", "device", a.Device, "image", a.Image, "err", err)
	}
}
