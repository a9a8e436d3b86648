package csi

import (
	"context"
	"strings"
	"syscall"
)

// A clone of a volume needs a layer that does not change any more. So the volume
// SOURCE is frozen for the clone NAME:
//
//	SOURCE ──▶ SOURCE@csi-clone-NAME ──▶ what was below SOURCE
//	NAME   ──▶ ┘
//
// Orchestrators never see that snapshot. It is removed when NAME and everything
// that was made of it are gone, by the deletion after which this is so.

// createClone makes the snapshot, unless it is there, and the clone on it.
func (c *controller) createClone(ctx context.Context, w *wanted, size uint64, frozen bool) error {
	if !frozen {
		pools, err := c.images.pools(ctx, w.ConfigPath)
		if err != nil {
			return err
		}
		if !hasPool(pools, w.pool) {
			return invalid("parameter poolId: there is no pool %s: see `vitastor-cli ls-pools`", w.pool)
		}
		if err := c.images.freeze(ctx, w.frozen()); err != nil && !failed(err, syscall.EEXIST) {
			return err
		}
	}
	err := c.images.create(ctx, w.handle, w.pool, size, w.parent())
	if certain(err) {
		if e := c.images.remove(ctx, w.frozen()); e != nil {
			c.log.Error("the snapshot of a clone that could not be made stays until the next deletion", "snapshot", w.parent(), "err", e)
		}
	}
	return err
}

func hasPool(list []pool, name string) bool {
	for i := range list {
		if list[i].is(name) {
			return true
		}
	}
	return false
}

// sweep removes snapshots of clones that nobody needs any more; h is what was
// just deleted. It fails only because of those that were made for h: others
// belong to calls that will be repeated, or to a later sweep.
func (c *controller) sweep(ctx context.Context, h handle) error {
	for skip := map[string]bool{}; ; {
		list, err := c.images.list(ctx, h.ConfigPath)
		if err != nil {
			return err
		}
		rest := needless(list, skip)
		if rest == nil {
			return nil
		}
		skip[rest.Name] = true
		if err := c.discard(ctx, h, rest); err != nil {
			return err
		}
	}
}

// discard removes one of them. The lock is that of the clone: while somebody
// creates it, the snapshot is needed although the clone is not there yet.
func (c *controller) discard(ctx context.Context, h handle, rest *image) error {
	clone := handleOf(h.ConfigPath, strings.TrimPrefix(rest.snapshot(), cloneMark))
	own := clone.Name == h.Name
	if !own {
		free, err := c.guard.take(locks{alone: []string{clone.key()}})
		if err != nil {
			return nil
		}
		defer free()
	}
	err := c.images.remove(ctx, handleOf(h.ConfigPath, rest.Name))
	if err != nil && !own {
		c.log.Warn("a snapshot that nobody needs stays until the next deletion", "snapshot", rest.Name, "err", err)
		return nil
	}
	return err
}

// needless finds a snapshot of a clone that is gone, with all that was made of
// it; nil = there is none but those to be skipped.
func needless(list []image, skip map[string]bool) *image {
	there := map[string]bool{}  // images
	needed := map[string]bool{} // layers below another image
	for i := range list {
		there[list[i].Name] = true
		if parent, _, _ := strings.Cut(list[i].Parent, "@"); parent != list[i].volume() {
			needed[list[i].Parent] = true
		}
	}
	for i := range list {
		s := &list[i]
		clone, is := strings.CutPrefix(s.snapshot(), cloneMark)
		if is && !there[clone] && !needed[s.Name] && !skip[s.Name] {
			return s
		}
	}
	return nil
}
