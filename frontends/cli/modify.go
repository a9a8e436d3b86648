package cli

import (
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// imageChange is what modify does to an image; the zero value changes nothing.
type imageChange struct {
	rename              string
	resize              bool
	size                uint64
	growOnly            bool
	readOnly, readWrite bool
	deleted             *bool
	force, forceSize    bool
	data                dataOptions // for removing data beyond a smaller size
}

func (r *run) modify() (result, error) {
	name := r.arg(0)
	if name == "" {
		return result{}, fail(syscall.EINVAL, "Image name is missing")
	}
	ch := imageChange{rename: r.text("rename"), size: r.size("resize"), growOnly: r.flag("inc_size"), readOnly: r.flag("readonly"),
		readWrite: r.flag("readwrite"), force: r.flag("force"), forceSize: r.flag("force_size"), data: r.dataOptions()}
	if _, valid := parseSize(r.text("resize")); r.given("resize") && !valid && r.text("resize") != "" {
		r.note("warning: --resize %s is no size", r.text("resize")) // Compat: it is no error
	} else if valid {
		ch.resize = ch.size > 0 || ch.forceSize
	}
	if ch.size%imageAlign != 0 && !ch.forceSize {
		return result{}, fail(syscall.EINVAL, "Image size should be a multiple of %d", imageAlign)
	}
	if r.given("deleted") {
		deleted := r.flag("deleted")
		ch.deleted = &deleted
	}
	if ch.readOnly && ch.readWrite {
		return result{}, fail(syscall.EINVAL, "--readonly and --readwrite can't be used together")
	}
	if _, err := r.connect(); err != nil {
		return result{}, err
	}
	old, changed, err := r.modifyImage(name, &ch)
	if err != nil {
		return result{}, err
	}
	if !changed {
		return result{text: "No change", data: object{"error_code": 0, "error_text": "No change"}}, nil
	}
	return result{text: "Image " + name + " modified", data: object{"inode": old.ID.Number(), "name": name, "pool": old.ID.Pool(), "size": ch.size}}, nil
}

// modifyImage applies a change; a smaller image loses its data first.
func (r *run) modifyImage(name string, ch *imageChange) (old *schema.SeenInode, changed bool, err error) {
	c := r.conn
	s, err := c.state()
	if err != nil {
		return nil, false, err
	}
	if old = s.image(name); old == nil {
		return nil, false, fail(syscall.ENOENT, "Image %s does not exist", name)
	}
	next, err := ch.apply(s, old)
	if err != nil || next == nil {
		return old, false, err
	}
	if next.Size < old.Size {
		if s, err = c.freshState(); err != nil {
			return nil, false, err
		}
		if _, err = ch.apply(s, old); err != nil { // a clone that was just made
			return nil, false, err
		}
		opts := ch.data
		opts.min = (next.Size + imageAlign - 1) / imageAlign * imageAlign
		if _, err := r.removeData(old.ID, opts); err != nil {
			return nil, false, err
		}
	}
	t := c.keys.ModifyImage(old, next)
	answer, err := c.txn(&t)
	if err != nil {
		return nil, false, err
	}
	if !answer.Succeeded {
		return nil, false, fail(syscall.EAGAIN, "Image %s was modified by someone else, please repeat your request", name)
	}
	return old, true, c.until(answer.Revision)
}

// apply is the image after the change, nil if it is the same; or why that
// cannot be.
func (ch *imageChange) apply(s *state, old *schema.SeenInode) (*schema.InodeConfig, error) {
	next := old.InodeConfig
	if ch.rename != "" {
		next.Name = ch.rename
	}
	if ch.resize && (!ch.growOnly || ch.size > old.Size) {
		next.Size = ch.size
	}
	if ch.readOnly {
		next.ReadOnly = true
	}
	if ch.readWrite {
		next.ReadOnly = false
	}
	if ch.deleted != nil {
		next.Deleted = *ch.deleted
	}
	if next.Name == old.Name && next.Size == old.Size && next.ReadOnly == old.ReadOnly && next.Deleted == old.Deleted {
		return nil, nil
	}
	parent := len(s.children(old.ID)) > 0 && !ch.force
	switch {
	case next.Name != old.Name && s.image(next.Name) != nil:
		return nil, fail(syscall.EEXIST, "Image %s already exists", next.Name)
	case next.Size < old.Size && parent:
		return nil, fail(syscall.EINVAL, "Image %s has children. Refusing to shrink it without --force", old.Name)
	case ch.readWrite && parent:
		return nil, fail(syscall.EINVAL, "Image %s has children. Refusing to make it read-write without --force", old.Name)
	}
	return &next, nil
}

// markDeleted makes an interrupted removal visible.
func (r *run) markDeleted(id meta.Inode, name string) error {
	deleted := true
	_, _, err := r.modifyImage(name, &imageChange{deleted: &deleted})
	if err == nil {
		r.step("Image %s modified", name)
	}
	return err
}
