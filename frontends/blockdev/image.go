package blockdev

import (
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/client"
)

// Image is a Disk on an image of the cluster, or on a bare inode. An image is
// followed by its name: after a snapshot was made, writes go to the new layer.
type Image struct {
	exec  env.Exec
	back  Backend
	name  string
	watch *client.Watch // nil for a bare inode
	// seen tells the inode now, nil = there is none; geometry about its pool.
	seen     func() *schema.SeenInode
	geometry func(meta.Inode) (client.Geometry, bool)

	granule, object uint64
	order           order
	zeroes          [][]byte // zeroChunk bytes in all, which are the same memory again and again

	// Requests that ended inside of Submit.
	ended     *Request
	endedTask env.Task

	// Resized, if set, is called when the size has changed, with the new one.
	Resized func(sizeBytes uint64)
	size    uint64
}

const (
	zeroBytes = 64 << 10 // of memory with zeroes
	zeroChunk = 4 << 20  // longest write of zeroes
)

// OpenImage opens an image, or a snapshot ("image@snapshot"), of a client that
// is ready.
func OpenImage(e *env.Env, c *client.Client, name string) (*Image, error) {
	i := &Image{name: name}
	i.watch = c.Watch(name, i.changed)
	i.seen = i.watch.Image
	if err := i.open(e, c, c.Geometry); err != nil {
		i.watch.Close()
		return nil, err
	}
	return i, nil
}

// OpenInode opens a bare inode, which need not be known in etcd, as a disk of
// the given size.
func OpenInode(e *env.Env, c *client.Client, inode meta.Inode, sizeBytes uint64) (*Image, error) {
	bare := &schema.SeenInode{}
	bare.ID, bare.Size = inode, sizeBytes
	i := &Image{name: fmt.Sprintf("inode %d of pool %d", inode.Number(), inode.Pool())}
	i.seen = func() *schema.SeenInode {
		if known := c.View().Inode(inode); known != nil {
			bare.Parent, bare.ReadOnly = known.Parent, known.ReadOnly
		}
		return bare
	}
	if err := i.open(e, c, c.Geometry); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Image) open(e *env.Env, back Backend, geometry func(meta.Inode) (client.Geometry, bool)) error {
	i.exec, i.back, i.geometry = e.Exec, back, geometry
	i.endedTask.Run = i.endAll
	seen := i.seen()
	if seen == nil || seen.Deleted {
		return fmt.Errorf("image %s does not exist: `vitastor-cli ls` lists images, `vitastor-cli create` makes one", i.name)
	}
	g, ok := geometry(seen.ID)
	if !ok || g.GranuleBytes == 0 {
		return fmt.Errorf("image %s: its pool %d does not exist or its parameters are wrong: look at `vitastor-cli ls-pools`",
			i.name, seen.ID.Pool())
	}
	i.granule, i.object, i.size = uint64(g.GranuleBytes), g.ObjectBytes, seen.Size
	i.order.granule = i.granule
	piece := make([]byte, max(zeroBytes, i.granule))
	for n := uint64(0); n < zeroChunk; n += uint64(len(piece)) {
		i.zeroes = append(i.zeroes, piece)
	}
	return nil
}

// Info implements Disk.
func (i *Image) Info() Info {
	info := Info{Name: i.name, GranuleBytes: uint32(i.granule), ObjectBytes: i.object, SizeBytes: i.size, ReadOnly: true}
	if seen := i.seen(); seen != nil {
		info.SizeBytes, info.ReadOnly = seen.Size, seen.ReadOnly
		info.WriteCache = i.cached(seen)
	}
	return info
}

// cached tells whether writes need a Sync to be durable.
func (i *Image) cached(seen *schema.SeenInode) bool {
	g, ok := i.geometry(seen.ID)
	return !ok || g.Commit != meta.CommitAll
}

// changed is called when something about the image has changed.
func (i *Image) changed(*client.Watch) {
	seen := i.seen()
	if seen == nil || seen.Size == i.size {
		return
	}
	i.size = seen.Size
	if i.Resized != nil {
		i.Resized(i.size)
	}
}

// Close implements Disk.
func (i *Image) Close() {
	if i.watch != nil {
		i.watch.Close()
	}
}

// Submit implements Disk.
func (i *Image) Submit(r *Request) {
	r.image, r.Err, r.Extents = i, 0, r.Extents[:0]
	if r.op.Done == nil {
		r.op.Done, r.op.User = opDone, r
	}
	seen := i.seen()
	if seen == nil {
		i.endSoon(r, syscall.ENOENT)
		return
	}
	info := Info{SizeBytes: seen.Size, ReadOnly: seen.ReadOnly}
	if err := r.check(&info); err != 0 {
		i.endSoon(r, err)
		return
	}
	switch {
	case r.Kind == Flush:
		r.sync()
	case r.Bytes == 0:
		i.endSoon(r, 0)
	case r.Kind == Read:
		r.startRead()
	case r.Kind == Status:
		r.startStatus(i.granule)
	case i.order.enter(r):
		r.startChange()
	}
}

// endSoon ends a request that has not been started.
func (i *Image) endSoon(r *Request, err syscall.Errno) {
	r.Err = err
	r.nextEnded = i.ended
	i.ended = r
	i.exec.Defer(&i.endedTask)
}

func (i *Image) endAll() {
	r := i.ended
	i.ended = nil
	for r != nil {
		next := r.nextEnded
		r.nextEnded = nil
		if r.ordered {
			i.order.leave(r)
		}
		r.Done(r)
		r = next
	}
}
