package cli

import (
	"slices"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// rmMany removes images by patterns, as few chains as possible, the deepest
// first (spec cli.md §2.7). What has changed meanwhile is looked at again.
func (r *run) rmMany() (result, error) {
	if _, err := r.connect(); err != nil {
		return result{}, err
	}
	ids, images, rebased := []meta.Inode{}, []string{}, []string{}
	data := func() object {
		return object{"deleted_ids": ids, "deleted_images": images, "rebased_images": rebased}
	}
	for busy := 0; ; {
		s, err := r.conn.state()
		if err != nil {
			return result{}, err
		}
		chain := r.deepestChain(s)
		if chain == nil {
			return result{data: data()}, nil
		}
		rm, err := r.removeLayers(chain[len(chain)-1].Name, chain[0].Name)
		if rm != nil {
			ids, images = append(ids, rm.deletedIDs...), append(images, rm.deleted...)
			rebased = append(rebased, rm.rebased...)
		}
		if err != nil {
			f := fail(errnoOf(err), "%v", err)
			if busy++; f.errno == syscall.EAGAIN && rm != nil && busy < attemptsMax { // somebody was faster: look again
				continue
			}
			f.data = data()
			return result{}, f
		}
	}
}

// deepestChain finds matching images that are parents of each other: one that
// has the most layers below it, and those of its parents that match too and are
// not needed for another one.
func (r *run) deepestChain(s *state) []*schema.SeenInode {
	matches := func(i *schema.SeenInode) bool {
		return i != nil && len(r.words) > 0 && selected(r.words, r.flag("exact"), i.Name)
	}
	var top *schema.SeenInode
	deepest := -1
	for _, id := range s.order {
		i := s.inodes[id]
		if !matches(i) || slices.ContainsFunc(s.children(id), matches) {
			continue
		}
		depth := 0
		for p := s.inodes[i.Parent]; p != nil && depth <= len(s.order); p = s.inodes[p.Parent] {
			depth++
		}
		if depth > deepest {
			top, deepest = i, depth
		}
	}
	if top == nil {
		return nil
	}
	chain := []*schema.SeenInode{top}
	for p := s.inodes[top.Parent]; matches(p) && !slices.Contains(chain, p); p = s.inodes[p.Parent] {
		needed := slices.ContainsFunc(s.children(p.ID), func(c *schema.SeenInode) bool { return c != chain[len(chain)-1] && matches(c) })
		if needed {
			break
		}
		chain = append(chain, p)
	}
	return chain
}
