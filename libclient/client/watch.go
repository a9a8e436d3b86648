package client

import (
	"slices"

	"vitastor/internal/clusterview"
	"vitastor/internal/schema"
)

// Watch follows an image by its name: after a snapshot or a rename the same
// name means another inode (capi.md 2.5).
type Watch struct {
	c    *Client
	name string
	seen *schema.SeenInode
	f    func(*Watch)
}

// Watch follows the image of a name, which need not exist yet. changed may be
// nil; it is called, never inside, whenever something about the image changes.
func (c *Client) Watch(name string, changed func(*Watch)) *Watch {
	w := &Watch{c: c, name: name, f: changed, seen: c.view.InodeByName(name)}
	c.watches = append(c.watches, w)
	return w
}

// Name is the name that is followed.
func (w *Watch) Name() string { return w.name }

// Image is the image of the name now, with the revision of its key; nil = there
// is none. It must be asked again before every operation.
func (w *Watch) Image() *schema.SeenInode { return w.seen }

// Close ends following.
func (w *Watch) Close() {
	w.f = nil
	w.c.watches = slices.DeleteFunc(w.c.watches, func(x *Watch) bool { return x == w })
}

// updateWatches looks at the images again after a change.
func (c *Client) updateWatches(ch *clusterview.Changes) {
	if len(ch.Inodes) == 0 && !ch.Reloaded {
		return
	}
	for _, w := range slices.Clone(c.watches) {
		now := c.view.InodeByName(w.name)
		if now == w.seen {
			continue
		}
		w.seen = now
		if w.f != nil {
			w.f(w)
		}
	}
}
