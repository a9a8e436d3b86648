package cli

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// layerRemoval is rm FROM TO at work (spec cli.md §2.7).
//
//	children of the chain:   merge FROM..child into child, new parent       one by one
//	at most one of them:     merge FROM..child into a layer of the chain,   (inverse)
//	                         which takes the child's place
//	layers of the chain:     mark as deleted, delete data, delete the inode  TO first
//
// A crash after any step leaves images that read the same as before; the same
// command goes on from there.
type layerRemoval struct {
	*run
	s     *state
	chain []*schema.SeenInode // TO, its parent, ..., FROM
	// inverse merge: child's data goes into into, which is in the chain; nil =
	// none.
	child, into *schema.SeenInode

	deletedIDs             []meta.Inode
	deleted, rebased       []string
	renamedFrom, renamedTo string
	data                   object // of the last removal of data
}

func (r *run) rm() (result, error) {
	if r.flag("exact") || r.flag("matching") {
		return r.rmMany()
	}
	if len(r.words) == 0 {
		return result{}, fail(syscall.EINVAL, "Layer to remove argument is missing")
	}
	if len(r.words) > 2 {
		return result{}, fail(syscall.EINVAL, "Too many arguments: to remove several images, use rm --exact IMAGE ...")
	}
	if _, err := r.connect(); err != nil {
		return result{}, err
	}
	rm, err := r.removeLayers(r.words[0], r.words[len(r.words)-1])
	if rm == nil {
		return result{}, err
	}
	data := rm.json()
	if err != nil {
		f, ok := err.(*failure)
		if !ok {
			f = fail(errnoOf(err), "%v", err)
		}
		if f.data != nil || len(rm.deleted)+len(rm.rebased) > 0 {
			f.data = data
		}
		return result{}, f
	}
	return result{data: data}, nil
}

func (rm *layerRemoval) json() object {
	o := object{"deleted_ids": rm.deletedIDs, "deleted_images": rm.deleted, "rebased_images": rm.rebased,
		"renamed_from": rm.renamedFrom, "renamed_to": rm.renamedTo}
	for name, v := range rm.data {
		o[name] = v
	}
	return o
}

// removeLayers removes the chain between two names. The removal is nil if it
// did not begin.
func (r *run) removeLayers(from, to string) (*layerRemoval, error) {
	s, err := r.finishRests()
	if err != nil {
		return nil, err
	}
	top, err := s.wantLayer(to)
	bottom := s.image(from)
	if bottom == nil && top != nil && top.Deleted {
		bottom = s.lowestDeleted(top) // an interrupted removal has renamed it
	}
	if bottom == nil {
		return nil, fail(syscall.ENOENT, "Layer %s not found", from)
	}
	if err != nil {
		return nil, err
	}
	rm := &layerRemoval{run: r, s: s, deletedIDs: []meta.Inode{}, deleted: []string{}, rebased: []string{}}
	if rm.chain, err = s.chainOf(bottom, top); err != nil {
		return nil, err
	}
	children := rm.children()
	if err := rm.chooseInverse(children); err != nil {
		return nil, err
	}
	for _, child := range children {
		if child != rm.child {
			if err := rm.rebase(child); err != nil {
				return rm, err
			}
		}
	}
	if rm.child != nil {
		if err := rm.takePlace(); err != nil {
			return rm, err
		}
	}
	for _, layer := range rm.chain {
		if layer != rm.into {
			if err := rm.remove(layer.Name); err != nil {
				return rm, err
			}
			rm.deletedIDs, rm.deleted = append(rm.deletedIDs, layer.ID), append(rm.deleted, layer.Name)
		}
	}
	return rm, nil
}

// lowestDeleted is the last layer below one, or itself, up to which all are
// marked as deleted.
func (s *state) lowestDeleted(layer *schema.SeenInode) *schema.SeenInode {
	for range len(s.order) {
		parent := s.inodes[layer.Parent]
		if parent == nil || !parent.Deleted {
			break
		}
		layer = parent
	}
	return layer
}

// children of the chain that are not in it, ascending.
func (rm *layerRemoval) children() []*schema.SeenInode {
	var list []*schema.SeenInode
	for _, id := range rm.s.order {
		child := rm.s.inodes[id]
		if child.Parent != 0 && !rm.inChain(id) && rm.inChain(child.Parent) {
			list = append(list, child)
		}
	}
	return list
}

func (rm *layerRemoval) inChain(id meta.Inode) bool {
	return slices.ContainsFunc(rm.chain, func(l *schema.SeenInode) bool { return l.ID == id })
}

func (rm *layerRemoval) newParent() meta.Inode { return rm.chain[len(rm.chain)-1].Parent }

// chooseInverse finds the child and the layer below it for which moving the
// child's data saves most. Children that somebody may write to stay where they
// are.
func (rm *layerRemoval) chooseInverse(children []*schema.SeenInode) error {
	candidates := slices.DeleteFunc(slices.Clone(children), func(c *schema.SeenInode) bool {
		return !c.ReadOnly && !rm.flag("writers_stopped")
	})
	if len(candidates) == 0 {
		return nil
	}
	used, err := rm.usedBy(slices.Concat(candidates, rm.chain))
	if err != nil {
		return err
	}
	best := int64(0)
	for _, child := range candidates {
		attached := slices.IndexFunc(rm.chain, func(l *schema.SeenInode) bool { return l.ID == child.Parent })
		for _, layer := range rm.chain[attached:] {
			if layer.ID.Pool() != child.ID.Pool() { // the child would move to another pool
				continue
			}
			if gain := int64(used[layer.ID]) - int64(used[child.ID]); gain > best {
				best, rm.child, rm.into = gain, child, layer
			}
		}
	}
	return nil
}

// usedBy is how much data layers have.
func (rm *layerRemoval) usedBy(layers []*schema.SeenInode) (map[meta.Inode]uint64, error) {
	k := rm.conn.keys
	var ops []env.KVOp
	for _, l := range layers {
		ops = append(ops, getOp(k.InodeStats(l.ID)))
	}
	got, _, err := rm.conn.read(ops...)
	if err != nil {
		return nil, err
	}
	used := map[meta.Inode]uint64{}
	for i, l := range layers {
		if kv := first(got[i]); kv != nil {
			stats, _ := schema.DecodeInodeStats(kv.Key, kv.Value)
			if p := rm.s.pools[l.ID.Pool()]; p != nil {
				used[l.ID] = stats.RawUsedBytes / uint64(p.PGSize) * uint64(p.DataChunks())
			}
		}
	}
	return used, nil
}

// mergeInto merges FROM..child into one of the layers between.
func (rm *layerRemoval) mergeInto(child, target *schema.SeenInode) error {
	chain, err := rm.s.chainOf(rm.chain[len(rm.chain)-1], child)
	if err != nil {
		return err
	}
	m := &merge{chain: chain, target: slices.Index(chain, target), doomed: map[meta.Inode]bool{}, cas: rm.casOption()}
	for _, l := range rm.chain {
		m.doomed[l.ID] = true
	}
	if m.cas == nil {
		cas := m.isTop()
		m.cas = &cas
	}
	if err := rm.merge(rm.s, m); err != nil {
		return err
	}
	rm.step("%s", m.done(target.Name))
	return nil
}

// rebase makes a child independent of the chain.
func (rm *layerRemoval) rebase(child *schema.SeenInode) error {
	if err := rm.mergeInto(child, child); err != nil {
		return err
	}
	text, err := rm.changeParent(child, rm.newParent())
	if err != nil {
		return err
	}
	rm.step("%s", text)
	rm.rebased = append(rm.rebased, child.Name)
	return nil
}

// changeParent moves a layer onto another one; what it reads must be the same
// there. The text tells about it.
func (r *run) changeParent(child *schema.SeenInode, parent meta.Inode) (text string, err error) {
	s, err := r.conn.state()
	if err != nil {
		return "", err
	}
	if now := s.inodes[child.ID]; now == nil || now.Parent != child.Parent {
		return "", fail(syscall.EAGAIN, "Layer %s was moved by someone else: run the command again", inodeText(child))
	} else if now.Name == child.Name { // the size may have changed meanwhile
		child = now
	}
	t := r.conn.keys.ChangeParent(child, parent)
	answer, err := r.conn.txn(&t)
	if err != nil {
		return "", err
	}
	if !answer.Succeeded {
		return "", fail(syscall.EAGAIN, "Layer %s was modified by someone else: run the command again", inodeText(child))
	}
	text = fmt.Sprintf("Parent of layer %s detached", inodeText(child))
	if p := s.inodes[parent]; p != nil {
		text = fmt.Sprintf("Parent of layer %s changed to %s", inodeText(child), inodeText(p))
	}
	return text, r.conn.until(answer.Revision)
}

// takePlace moves the child's data into a layer of the chain, which becomes the
// child. Layers of the chain above it read wrong data from the first write on,
// so they are marked as deleted before. Other than the reference, which deletes
// the child's data before it switches, we switch first: between the two the
// child would read old data of layers between, for ever after a crash. Until
// its data is gone, the child's inode has another name, so that rm finds it.
func (rm *layerRemoval) takePlace() error {
	for _, l := range rm.chain {
		if err := rm.doom(l); err != nil {
			return err
		}
		if l == rm.into {
			break
		}
	}
	if err := rm.mergeInto(rm.child, rm.into); err != nil {
		return err
	}
	s, err := rm.conn.state()
	if err != nil {
		return err
	}
	child, into := s.inodes[rm.child.ID], s.inodes[rm.into.ID]
	if child == nil || into == nil || child.Name != rm.child.Name || child.Parent != rm.child.Parent {
		return fail(syscall.EAGAIN, "Layer %s was modified by someone else: run the command again", inodeText(rm.child))
	}
	rest := restName(&child.InodeConfig)
	t := rm.conn.switchTo(s, child, into, rm.newParent(), rest)
	answer, err := rm.conn.txn(&t)
	if err != nil {
		return err
	}
	if !answer.Succeeded {
		return fail(syscall.EAGAIN, "Layer %s was modified by someone else: run the command again", inodeText(rm.child))
	}
	if err := rm.conn.until(answer.Revision); err != nil {
		return err
	}
	rm.renamedFrom, rm.renamedTo = into.Name, child.Name
	rm.step("Layer %s renamed to %s", into.Name, child.Name)
	return rm.remove(rest)
}

// restName is the name of an inode whose place was taken, until it is removed.
func restName(child *schema.InodeConfig) string {
	return fmt.Sprintf("%s.deleted-%d", child.Name, child.ID.Number())
}

// finishRests removes what an interrupted removal has left behind under such
// names, and returns the state after it.
func (r *run) finishRests() (*state, error) {
	s, err := r.conn.freshState()
	if err != nil {
		return nil, err
	}
	found := false
	for _, id := range s.order {
		rest := s.inodes[id]
		if !rest.Deleted || rest.Parent != 0 || !strings.HasSuffix(rest.Name, fmt.Sprintf(".deleted-%d", id.Number())) || len(s.children(id)) > 0 {
			continue
		}
		found = true
		rm := &layerRemoval{run: r, s: s, chain: []*schema.SeenInode{rest}}
		if err := rm.remove(rest.Name); err != nil && errnoOf(err) != syscall.EAGAIN { // the other one may be at work
			return nil, err
		}
	}
	if found {
		return r.conn.state()
	}
	return s, nil
}

// childless refuses to remove what somebody needs who was not there before.
func (rm *layerRemoval) childless(s *state, layer *schema.SeenInode) error {
	for _, child := range s.children(layer.ID) {
		if !rm.inChain(child.ID) && (rm.child == nil || child.ID != rm.child.ID) {
			return fail(syscall.EAGAIN, "Layer %s has got a new child %s: run the command again", layer.Name, child.Name)
		}
	}
	return nil
}

// doom marks a layer as deleted. From then on it cannot get children; one that
// it has got just before still needs the data.
func (rm *layerRemoval) doom(layer *schema.SeenInode) error {
	if err := rm.markDeleted(layer.ID, layer.Name); err != nil {
		return err
	}
	s, err := rm.conn.state()
	if err != nil {
		return err
	}
	return rm.childless(s, layer)
}

// switchTo is the transaction that gives child's place to a layer below it, and
// leaves child's inode as a nameless rest to be removed.
func (c *cluster) switchTo(s *state, child, into *schema.SeenInode, newParent meta.Inode, rest string) env.Txn {
	var grandchildren []schema.SeenInode
	for _, g := range s.children(child.ID) {
		grandchildren = append(grandchildren, *g)
	}
	t := c.keys.ReplaceParent(child, into, newParent, grandchildren)
	gone := child.InodeConfig
	gone.Name, gone.Parent, gone.Deleted, gone.ReadOnly = rest, 0, true, true
	key := c.keys.InodeConfig(child.ID)
	for i := range t.Then {
		if op := &t.Then[i]; op.Kind == env.KVDelete && op.Key == key {
			*op = env.KVOp{Kind: env.KVPut, Key: key, Value: gone.Encode()}
		}
	}
	index := c.keys.ImageIndex(rest)
	t.If = append(t.If, env.Compare{Key: index, Target: env.CompareVersion, Result: env.CompareEqual})
	t.Then = append(t.Then, env.KVOp{Kind: env.KVPut, Key: index, Value: schema.EncodeImageIndex(child.ID)})
	return t
}

// remove deletes a layer that nobody needs: marks it, deletes its data, then
// its inode.
func (rm *layerRemoval) remove(name string) error {
	s, err := rm.conn.freshState()
	if err != nil {
		return err
	}
	layer := s.image(name)
	if layer == nil {
		return fail(syscall.EAGAIN, "Layer %s was removed by someone else", name)
	}
	if err := rm.childless(s, layer); err != nil {
		return err
	}
	if err := rm.doom(layer); err != nil {
		return err
	}
	if rm.data, err = rm.removeData(layer.ID, rm.dataOptions()); err != nil {
		return err
	}
	rm.step("Done, inode %d from pool %d removed", layer.ID.Number(), layer.ID.Pool())
	if s, err = rm.conn.state(); err != nil {
		return err
	}
	if layer = s.inodes[layer.ID]; layer == nil {
		return fail(syscall.EAGAIN, "Layer %s was removed by someone else", name)
	}
	if err := rm.childless(s, layer); err != nil {
		return err
	}
	t := rm.conn.keys.DeleteLayer(layer)
	answer, err := rm.conn.txn(&t)
	if err != nil {
		return err
	}
	if !answer.Succeeded {
		return fail(syscall.EAGAIN, "Layer %s was modified by someone else: run the command again", name)
	}
	rm.step("Layer %s deleted", name)
	return rm.conn.until(answer.Revision)
}

func (r *run) flatten() (result, error) {
	if len(r.words) == 0 {
		return result{}, fail(syscall.EINVAL, "Layer to flatten not specified")
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	layer, err := s.wantLayer(r.words[0])
	if err != nil {
		return result{}, err
	}
	root := layer
	for seen := map[meta.Inode]bool{}; s.inodes[root.Parent] != nil; root = s.inodes[root.Parent] {
		if seen[root.ID] {
			return result{}, fail(syscall.EBADF, "Loop in parents of layer %s: correct its parent_id", layer.Name)
		}
		seen[root.ID] = true
	}
	m := &merge{cas: r.casOption()}
	if m.cas == nil {
		cas := true
		m.cas = &cas
	}
	if m.chain, err = s.chainOf(root, layer); err != nil {
		return result{}, err
	}
	if err := r.merge(s, m); err != nil {
		return result{}, err
	}
	if layer.Parent == 0 {
		return result{text: fmt.Sprintf("Parent of layer %s detached", inodeText(layer))}, nil
	}
	text, err := r.changeParent(layer, 0)
	return result{text: text}, err
}
