package cli

import (
	"fmt"
	"maps"
	"slices"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/client"
)

// merge copies what TO sees through the layers from FROM up into one layer of
// the chain (spec cli.md §2.10).
//
// Nothing that is read changes for anybody who reads TO: its own data goes
// first, and what is written below it is what it reads there anyway. So it can
// be interrupted and repeated at any moment.
type merge struct {
	chain    []*schema.SeenInode // TO, its parent, ..., FROM
	target   int                 // index in chain
	doomed   map[meta.Inode]bool // will be removed whatever happens: nobody minds what they read
	deleting bool                // all layers below TO will be removed
	cas      *bool               // nil = as needed
}

func (m *merge) to() *schema.SeenInode    { return m.chain[0] }
func (m *merge) from() *schema.SeenInode  { return m.chain[len(m.chain)-1] }
func (m *merge) layer() *schema.SeenInode { return m.chain[m.target] }
func (m *merge) isTop() bool              { return m.target == 0 }
func (m *merge) done(asked string) string {
	return fmt.Sprintf("Done, layers from %s to %s merged into %s", m.from().Name, m.to().Name, asked)
}
func inodeText(i *schema.SeenInode) string {
	return fmt.Sprintf("%s (inode %d in pool %d)", i.Name, i.ID.Number(), i.ID.Pool())
}

// chainOf are the layers from TO down to FROM.
func (s *state) chainOf(from, to *schema.SeenInode) ([]*schema.SeenInode, error) {
	var chain []*schema.SeenInode
	for cur := to; cur != nil; cur = s.inodes[cur.Parent] {
		if slices.Contains(chain, cur) {
			return nil, fail(syscall.EBADF, "Loop in parents of layer %s: correct its parent_id", to.Name)
		}
		if chain = append(chain, cur); cur == from {
			return chain, nil
		}
	}
	return nil, fail(syscall.EINVAL, "Layer %s is not a child of %s", to.Name, from.Name)
}

func (s *state) wantLayer(name string) (*schema.SeenInode, error) {
	if i := s.image(name); i != nil {
		return i, nil
	}
	return nil, fail(syscall.ENOENT, "Layer %s not found", name)
}

// casOption is --cas, nil = not given.
func (r *run) casOption() *bool {
	if !r.given("cas") {
		return nil
	}
	cas := r.flag("cas")
	return &cas
}

func (r *run) mergeData() (result, error) {
	if len(r.words) < 2 {
		return result{}, fail(syscall.EINVAL, "Beginning or end of the merge sequence is missing")
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	names := []string{r.words[0], r.words[1], r.words[0]}
	if t := r.text("target"); t != "" {
		names[2] = t
	}
	layers := make([]*schema.SeenInode, 3)
	for i, name := range names {
		if layers[i], err = s.wantLayer(name); err != nil {
			return result{}, err
		}
	}
	if layers[0] == layers[1] {
		return result{}, fail(syscall.EINVAL, "Layers to merge must be different")
	}
	m := &merge{cas: r.casOption(), deleting: r.text("delete_source") != ""}
	if m.chain, err = s.chainOf(layers[0], layers[1]); err != nil {
		return result{}, err
	}
	if m.target = slices.Index(m.chain, layers[2]); m.target < 0 {
		return result{}, fail(syscall.EINVAL, "Layer %s is not between %s and %s", names[2], names[0], names[1])
	}
	if err := r.merge(s, m); err != nil {
		return result{}, err
	}
	return result{text: m.done(names[2]), data: object{"from": names[0], "to": names[1], "into": r.text("target")}}, nil
}

// check refuses what others would see.
func (m *merge) check(s *state) error {
	last := m.target
	if m.deleting {
		last = len(m.chain) - 1
	}
	for i := 1; i <= last; i++ {
		if m.doomed[m.chain[i].ID] {
			continue
		}
		for _, child := range s.children(m.chain[i].ID) {
			if child != m.chain[i-1] {
				return fail(syscall.EINVAL, "Layer %s to be merged has another child %s: its view would change. Flatten or remove that first", m.chain[i].Name, child.Name)
			}
		}
	}
	return nil
}

// useCAS: only a layer at the top may be written by others meanwhile.
func (m *merge) useCAS(s *state) bool {
	if m.cas != nil {
		return *m.cas && m.isTop() // below the top there is nothing to compare with
	}
	return m.isTop() && len(s.children(m.to().ID)) == 0
}

// merge runs one.
func (r *run) merge(s *state, m *merge) error {
	if err := m.check(s); err != nil {
		return err
	}
	pool, top := s.pools[m.layer().ID.Pool()], s.pools[m.to().ID.Pool()]
	if pool == nil || top == nil {
		return fail(syscall.ENOENT, "Pool of layer %s does not exist", m.layer().Name)
	}
	j := &mergeJob{run: r, merge: m, cas: m.useCAS(s), block: pool.ObjectBytes(), granule: uint64(pool.GranularityBytes), topGranule: uint64(top.GranularityBytes)}
	mode := ""
	if j.cas {
		mode = " online (with CAS)"
	}
	if n := len(m.chain) - 1; n > 0 {
		r.step("Merging %d layer(s) into target %s%s (inode %d in pool %d)", n, m.layer().Name, mode, m.layer().ID.Number(), m.layer().ID.Pool())
	}
	if j.block%j.topGranule != 0 {
		return fail(syscall.EINVAL, "Layers %s and %s can't be merged: objects of %d bytes are no multiple of the granularity %d", m.layer().Name, m.to().Name, j.block, j.topGranule)
	}
	blocks, err := j.blocks(s)
	if err != nil {
		return err
	}
	return j.copy(blocks)
}

// mergeJob is a merge at work.
type mergeJob struct {
	*run
	merge      *merge
	cas        bool
	block      uint64 // bytes of an object of the target
	granule    uint64 // of the target
	topGranule uint64 // of TO: what is read
	shown      *progress
}

// blocks are the offsets of all blocks of the target that may have to be
// written, ascending.
func (j *mergeJob) blocks(s *state) ([]uint64, error) {
	m := j.merge
	wanted := map[uint64]bool{}
	for _, layer := range m.chain[m.target+1:] {
		if err := j.list(s, layer, wanted); err != nil {
			return nil, err
		}
	}
	if len(wanted) > 0 {
		if err := j.dropFull(wanted); err != nil {
			return nil, err
		}
	}
	for _, layer := range m.chain[:m.target] {
		if err := j.list(s, layer, wanted); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(wanted)), nil
}

// list adds the blocks that a layer has something in.
func (j *mergeJob) list(s *state, layer *schema.SeenInode, wanted map[uint64]bool) error {
	pool := s.pools[layer.ID.Pool()]
	if pool == nil {
		return fail(syscall.ENOENT, "Pool %d of layer %s does not exist", layer.ID.Pool(), layer.Name)
	}
	objects, err := j.conn.listObjects(layer)
	if err != nil {
		return err
	}
	for _, o := range objects {
		for at := o.Stripe / j.block * j.block; at < o.Stripe+pool.ObjectBytes(); at += j.block {
			wanted[at] = true
		}
	}
	if j.progress {
		j.note("Got listing of layer %s", inodeText(layer))
	}
	return nil
}

// listObjects lists all objects of a layer.
func (c *cluster) listObjects(layer *schema.SeenInode) ([]meta.ObjectID, error) {
	for range attemptsMax {
		var all []meta.ObjectID
		var inactive []meta.PGNum
		errno, err := await(c, func(done func(syscall.Errno)) {
			c.client.List(&client.List{Inode: layer.ID, Done: func(err syscall.Errno) { done(err) },
				PG: func(pg meta.PGNum, objects []meta.ObjectID, err syscall.Errno) {
					if err != 0 {
						inactive = append(inactive, pg)
					}
					all = append(all, objects...)
				}})
		})
		switch {
		case err != nil:
			return nil, err
		case errno == syscall.EAGAIN: // the number of PGs has changed
			continue
		case len(inactive) > 0:
			return nil, fail(syscall.EIO, "Failed to list objects of layer %s: PGs %s are not active: repeat the command when they are", inodeText(layer), numbers(inactive))
		case errno != 0:
			return nil, fail(syscall.EIO, "Failed to list objects of layer %s: %v", inodeText(layer), errno)
		}
		return all, nil
	}
	return nil, fail(syscall.EAGAIN, "Failed to list objects of layer %s: the number of PGs keeps changing: try again", inodeText(layer))
}

// each starts n pieces of work on the loop, some at a time, and waits.
func (c *cluster) each(n, parallel int, start func(i int, done func())) error {
	_, err := await(c, func(done func(bool)) {
		next, running := 0, 0
		var more func()
		more = func() {
			for running < parallel && next < n {
				i := next
				next++
				running++
				start(i, func() { running--; more() })
			}
			if running == 0 && next >= n {
				done(true)
				next, running = n, 1 // once
			}
		}
		more()
	})
	return err
}

// dropFull leaves out blocks that the target has written completely: whatever
// its parents have there, nobody sees it.
func (j *mergeJob) dropFull(wanted map[uint64]bool) error {
	blocks := slices.Sorted(maps.Keys(wanted))
	units := int(j.block / j.granule)
	full := 0
	var failed *failure
	err := j.conn.each(len(blocks), j.parallel(), func(i int, done func()) {
		op := &client.Op{Kind: client.ReadBitmap, Inode: j.merge.layer().ID, Offset: blocks[i], Bytes: j.block, Bitmap: make([]byte, (units+7)/8)}
		op.Done = func(op *client.Op) {
			switch {
			case op.Err != 0:
				failed = j.dataError("read the bitmap of", op)
			case meta.Bitmap(op.Bitmap).All(0, units):
				delete(wanted, blocks[i])
				full++
			}
			done()
		}
		j.conn.client.Submit(op)
	})
	if err == nil && failed != nil {
		err = failed
	}
	if err == nil && j.progress {
		j.note("%d full blocks of target filtered out", full)
	}
	return err
}

func (j *mergeJob) dataError(what string, op *client.Op) *failure {
	return fail(syscall.EIO, "Failed to %s layer %s at offset %d: %v: repeat the command, nothing is lost", what, j.merge.layer().Name, op.Offset, op.Err)
}
