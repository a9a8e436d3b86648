package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// Image is an open image, or snapshot ("image@snapshot"). It follows its name:
// after a snapshot was made, writes go to the new layer.
//
// It implements io.ReaderAt and io.WriterAt. Offsets and lengths need not be
// aligned; aligned ones (see BlockBytes) are faster, and unaligned writes of
// one granule by several programs at the same time are not safe.
type Image struct {
	c       *Cluster
	name    string
	watch   *client.Watch
	granule uint64
	// partial lets unaligned writes, which read and write whole granules,
	// run alone.
	partial sync.RWMutex
}

// Info is what is known of an image.
type Info struct {
	Name     string
	Pool     meta.PoolID
	Number   uint64 // of the inode in its pool
	Size     uint64 // bytes
	Parent   string // name of the layer below; "" = none
	ReadOnly bool
}

// Open opens an image by its name.
func (c *Cluster) Open(name string) (*Image, error) {
	return do(context.Background(), c, func(done func(*Image, error)) {
		w := c.conn.Client.Watch(name, nil)
		i := &Image{c: c, name: name, watch: w}
		seen := w.Image()
		if seen == nil {
			w.Close()
			done(nil, noImage(name))
			return
		}
		pool := c.conn.Client.View().Pool(seen.ID.Pool())
		if pool == nil {
			w.Close()
			done(nil, fmt.Errorf("image %s: its pool %d does not exist or its parameters are wrong: look at `vitastor-cli ls-pools`", name, seen.ID.Pool()))
			return
		}
		i.granule = uint64(pool.GranularityBytes)
		done(i, nil)
	})
}

func noImage(name string) error {
	return fmt.Errorf("image %s: %w: create it with `vitastor-cli create`, or Cluster.Create", name, syscall.ENOENT)
}

// Name is the name of the image.
func (i *Image) Name() string { return i.name }

// BlockBytes is the unit in which reads and writes are fast.
func (i *Image) BlockBytes() int { return int(i.granule) }

// Size is the size of the image now, in bytes.
func (i *Image) Size() (int64, error) {
	info, err := i.Info()
	return int64(info.Size), err
}

// Info tells about the image now.
func (i *Image) Info() (Info, error) {
	return do(context.Background(), i.c, func(done func(Info, error)) {
		seen := i.watch.Image()
		if seen == nil {
			done(Info{}, noImage(i.name))
			return
		}
		done(i.c.info(seen), nil)
	})
}

// Close closes the image. It does not sync.
func (i *Image) Close() error {
	_, err := do(context.Background(), i.c, func(done func(bool, error)) {
		i.watch.Close()
		done(true, nil)
	})
	return err
}

// ReadAt implements io.ReaderAt.
func (i *Image) ReadAt(p []byte, off int64) (int, error) {
	return i.ReadContext(context.Background(), p, off)
}

// WriteAt implements io.WriterAt. Writes beyond the end are refused.
func (i *Image) WriteAt(p []byte, off int64) (int, error) {
	return i.WriteContext(context.Background(), p, off)
}

// Sync makes everything written so far, by this Cluster, durable.
func (i *Image) Sync() error { return i.SyncContext(context.Background()) }

// SyncContext is Sync that gives up when ctx ends.
func (i *Image) SyncContext(ctx context.Context) error {
	if err := i.c.run(ctx, &client.Op{Kind: client.Sync}, nil, nil); err != nil {
		return fmt.Errorf("image %s: sync: %w", i.name, err)
	}
	return nil
}

// ReadContext is ReadAt that gives up when ctx ends.
func (i *Image) ReadContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, i.failed("read", p, off, syscall.EINVAL)
	}
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	var buf []byte
	from := uint64(0)
	err := i.c.run(ctx, &client.Op{Kind: client.Read}, i, func(op *client.Op, size uint64) error {
		if uint64(off) >= size {
			return io.EOF
		}
		n = int(min(uint64(len(p)), size-uint64(off)))
		from = i.aim(ctx, op, p[:n], uint64(off))
		buf = op.Iov[0]
		return nil
	})
	switch {
	case err == io.EOF:
		return 0, err
	case err != nil:
		return 0, i.failed("read", p, off, err)
	}
	take(p[:n], buf, uint64(off)-from)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// aim makes op a read of the whole granules that contain a range, into memory
// of its own if that is more than was wanted, or if the caller may leave while
// the read goes on.
func (i *Image) aim(ctx context.Context, op *client.Op, p []byte, off uint64) (from uint64) {
	from, to := i.align(off, uint64(len(p)))
	if int(to-from) != len(p) || ctx.Done() != nil {
		p = make([]byte, to-from)
	}
	op.Offset, op.Bytes, op.Iov = from, to-from, [][]byte{p}
	return from
}

// take copies what was wanted, unless it is in its place.
func take(p, buf []byte, skip uint64) {
	if &buf[0] != &p[0] {
		copy(p, buf[skip:])
	}
}

// readRange reads without a look at the size.
func (i *Image) readRange(ctx context.Context, p []byte, off uint64) error {
	op := &client.Op{Kind: client.Read}
	from := i.aim(ctx, op, p, off)
	buf := op.Iov[0]
	err := i.c.run(ctx, op, i, nil)
	if err == nil {
		take(p, buf, off-from)
	}
	return err
}

// align is the smallest range of whole granules that contains a range.
func (i *Image) align(off, bytes uint64) (from, to uint64) {
	g := i.granule
	return off / g * g, (off + bytes + g - 1) / g * g
}

// WriteContext is WriteAt that gives up when ctx ends: then nobody knows
// whether the data was written.
func (i *Image) WriteContext(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, i.failed("write", p, off, syscall.EINVAL)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := i.writeRange(ctx, p, uint64(off)); err != nil {
		return 0, i.failed("write", p, off, err)
	}
	return len(p), nil
}

// writeRange writes whole granules; those that are written in part are read
// before.
func (i *Image) writeRange(ctx context.Context, p []byte, off uint64) error {
	from, to := i.align(off, uint64(len(p)))
	end := off + uint64(len(p))
	if int(to-from) == len(p) {
		i.partial.RLock()
		defer i.partial.RUnlock()
		if ctx.Done() != nil {
			p = append([]byte(nil), p...)
		}
		return i.write(ctx, p, from, end)
	}
	i.partial.Lock()
	defer i.partial.Unlock()
	buf := make([]byte, to-from)
	g := i.granule
	if from < off {
		if err := i.readRange(ctx, buf[:g], from); err != nil {
			return err
		}
	}
	if end < to && (to-g > from || from == off) {
		if err := i.readRange(ctx, buf[to-g-from:], to-g); err != nil {
			return err
		}
	}
	copy(buf[off-from:], p)
	return i.write(ctx, buf, from, end)
}

// write writes whole granules of which bytes up to end are wanted.
func (i *Image) write(ctx context.Context, p []byte, off, end uint64) error {
	op := &client.Op{Kind: client.Write, Offset: off, Bytes: uint64(len(p)), Iov: [][]byte{p}}
	return i.c.run(ctx, op, i, func(_ *client.Op, size uint64) error {
		if end > size {
			return fmt.Errorf("the image ends at %d: resize it first", size)
		}
		return nil
	})
}

// run executes an operation, on the inode that the image is at that moment,
// unless prepare objects. When ctx ends it is given up, and its memory must not
// be used any more.
func (c *Cluster) run(ctx context.Context, op *client.Op, i *Image, prepare func(op *client.Op, size uint64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := do(ctx, c, func(done func(bool, error)) {
		if i != nil {
			seen := i.watch.Image()
			if seen == nil {
				done(false, syscall.ENOENT)
				return
			}
			op.Inode = seen.ID
			if prepare != nil {
				if err := prepare(op, seen.Size); err != nil {
					done(false, err)
					return
				}
			}
		}
		op.Done = func(op *client.Op) {
			if op.Err != 0 {
				done(false, op.Err)
				return
			}
			done(true, nil)
		}
		c.conn.Client.Submit(op)
	})
	if err != nil && ctx.Err() != nil {
		c.conn.Loop.Post(func() { c.conn.Client.Cancel(op) })
	}
	return err
}

// remedies say what can be done about errors.
var remedies = map[syscall.Errno]string{
	syscall.ENOENT: "it was removed or renamed, or never created",
	syscall.EROFS:  "the image is read-only: it is a snapshot, or marked so with `vitastor-cli modify --readonly`",
	syscall.EIO:    "data is damaged or too many OSDs are down: look at `vitastor-cli status` and `vitastor-cli describe`",
	syscall.ENOSPC: "the cluster is full: add OSDs or delete something",
	syscall.EINVAL: "its pool has no placement groups: look at `vitastor-cli ls-pools`",
}

// failed names the image and the remedy.
func (i *Image) failed(what string, p []byte, off int64, err error) error {
	var n syscall.Errno
	if errors.As(err, &n) {
		if n == syscall.ECANCELED {
			err = ErrClosed
		} else if text := remedies[n]; text != "" {
			return fmt.Errorf("image %s: %s of %d bytes at %d: %w (%s)", i.name, what, len(p), off, err, text)
		}
	}
	return fmt.Errorf("image %s: %s of %d bytes at %d: %w", i.name, what, len(p), off, err)
}
