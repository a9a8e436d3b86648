package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/client"
)

// etcdTimeout is for one transaction; attemptsMax bounds the repetitions when
// others change the same keys.
const (
	etcdTimeout = 5 * time.Second
	attemptsMax = 20
)

var errBusy = errors.New("others keep changing the same keys in etcd: try again")

// Images lists all images and snapshots, by inode.
func (c *Cluster) Images(ctx context.Context) ([]Info, error) {
	return do(ctx, c, func(done func([]Info, error)) {
		var list []Info
		v := c.conn.Client.View()
		for _, id := range v.Inodes() {
			list = append(list, c.info(v.Inode(id)))
		}
		done(list, nil)
	})
}

// info runs on the loop.
func (c *Cluster) info(s *schema.SeenInode) Info {
	i := Info{Name: s.Name, Pool: s.ID.Pool(), Number: s.ID.Number(), Size: s.Size, ReadOnly: s.ReadOnly}
	if p := c.conn.Client.View().Inode(s.Parent); p != nil {
		i.Parent = p.Name
	}
	return i
}

// Create makes an empty image of size bytes in a pool, which is given by its
// name or id; "" = the only pool there is.
func (c *Cluster) Create(ctx context.Context, name string, size uint64, pool string) error {
	if name == "" || strings.Contains(name, "@") {
		return fmt.Errorf("image %q: a name must not be empty, and @ is reserved for snapshots", name)
	}
	for range attemptsMax {
		ids, err := c.newInode(ctx, pool)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if size%uint64(ids.granule) != 0 {
			return fmt.Errorf("image %s: its size %d must be a multiple of %d", name, size, ids.granule)
		}
		t := c.keys().CreateImage(&schema.InodeConfig{ID: ids.inode, Name: name, Size: size}, ids.maxIDRev)
		done, err := c.tryName(ctx, &t, name)
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("image %s: %w", name, errBusy)
}

// Snapshot freezes the present content of an image as "image@snapshot". The
// image goes on as a new layer.
func (c *Cluster) Snapshot(ctx context.Context, image, snapshot string) error {
	name := image + "@" + snapshot
	if snapshot == "" || strings.Contains(name[:len(image)]+snapshot, "@") {
		return fmt.Errorf("snapshot %q: names must not be empty or contain @", name)
	}
	if err := c.run(ctx, &client.Op{Kind: client.Sync}, nil, nil); err != nil {
		return fmt.Errorf("snapshot %s: sync: %w", name, err)
	}
	for range attemptsMax {
		old, err := c.find(ctx, image)
		if err != nil {
			return err
		}
		ids, err := c.newInode(ctx, fmt.Sprint(old.ID.Pool()))
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		index, err := c.get(ctx, c.keys().ImageIndex(image))
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		t := c.keys().Snapshot(old, index.ModRevision, snapshot, ids.inode, ids.maxIDRev)
		done, err := c.tryName(ctx, &t, name)
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("snapshot %s: %w", name, errBusy)
}

// Resize makes an image larger. (Smaller ones would keep their data beyond the
// end, which would come back: vitastor-cli removes it.)
func (c *Cluster) Resize(ctx context.Context, image string, size uint64) error {
	for range attemptsMax {
		old, err := c.find(ctx, image)
		if err != nil {
			return err
		}
		if size < old.Size {
			return fmt.Errorf("image %s: it has %d bytes and cannot be made smaller here: use `vitastor-cli modify --resize`", image, old.Size)
		}
		changed := old.InodeConfig
		changed.Size = size
		t := c.keys().ModifyImage(old, &changed)
		r, err := c.txn(ctx, &t)
		if err != nil {
			return fmt.Errorf("image %s: %w", image, err)
		}
		if r.Succeeded {
			return c.until(ctx, r.Revision)
		}
	}
	return fmt.Errorf("image %s: %w", image, errBusy)
}

// Delete removes an image or snapshot, first its data, then its name. Nobody
// may use it. Layers with children cannot be removed.
func (c *Cluster) Delete(ctx context.Context, image string) error {
	old, err := c.find(ctx, image)
	if err != nil {
		return err
	}
	child, err := do(ctx, c, func(done func(string, error)) {
		v := c.conn.Client.View()
		for _, id := range v.Inodes() {
			if s := v.Inode(id); s.Parent == old.ID {
				done(s.Name, nil)
				return
			}
		}
		done("", nil)
	})
	if err == nil && child != "" {
		err = fmt.Errorf("%s is based on it: flatten or delete that first", child)
	}
	if err == nil {
		err = c.deleteData(ctx, old.ID)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	t := c.keys().DeleteLayer(old)
	r, err := c.txn(ctx, &t)
	if err == nil && !r.Succeeded {
		err = errBusy
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	return c.until(ctx, r.Revision)
}

// deleteData deletes all objects of an inode, some at a time.
func (c *Cluster) deleteData(ctx context.Context, inode meta.Inode) error {
	objects, err := do(ctx, c, func(done func([]meta.ObjectID, error)) {
		var all []meta.ObjectID
		var bad error
		c.conn.Client.List(&client.List{Inode: inode,
			PG: func(pg meta.PGNum, objects []meta.ObjectID, err syscall.Errno) {
				all = append(all, objects...)
				if err != 0 {
					bad = fmt.Errorf("PG %d of pool %d is not active: try again when it is", pg, inode.Pool())
				}
			},
			Done: func(err syscall.Errno) {
				if err != 0 {
					bad = err
				}
				done(all, bad)
			}})
	})
	if err != nil {
		return fmt.Errorf("listing its objects: %w", err)
	}
	const parallel = 32
	slots := make(chan error, parallel)
	for n := range objects {
		if n >= parallel {
			err = errors.Join(err, <-slots)
		}
		if err != nil {
			return err
		}
		go func() {
			granule, gerr := c.granule(ctx, inode)
			if gerr == nil {
				gerr = c.run(ctx, &client.Op{Kind: client.Delete, Inode: inode, Offset: objects[n].Stripe, Bytes: granule,
					Flags: client.IgnoreReadonly}, nil, nil)
			}
			slots <- gerr
		}()
	}
	for range min(parallel, len(objects)) {
		err = errors.Join(err, <-slots)
	}
	return err
}

func (c *Cluster) granule(ctx context.Context, inode meta.Inode) (uint64, error) {
	return do(ctx, c, func(done func(uint64, error)) {
		p := c.conn.Client.View().Pool(inode.Pool())
		if p == nil {
			done(0, fmt.Errorf("pool %d does not exist", inode.Pool()))
			return
		}
		done(uint64(p.GranularityBytes), nil)
	})
}

// newIDs is a free inode of a pool.
type newIDs struct {
	inode    meta.Inode
	maxIDRev int64
	granule  uint32
}

// newInode chooses an inode number; the transaction proves that it is free.
func (c *Cluster) newInode(ctx context.Context, pool string) (ids newIDs, err error) {
	type found struct {
		p       *schema.Pool
		highest uint64
	}
	f, err := do(ctx, c, func(done func(found, error)) {
		var f found
		var names []string
		v := c.conn.Client.View()
		for _, id := range v.Pools() {
			p := v.Pool(id)
			names = append(names, p.Name)
			if p.Name == pool || fmt.Sprint(id) == pool || pool == "" && len(v.Pools()) == 1 {
				f.p = p
			}
		}
		if f.p == nil {
			done(f, fmt.Errorf("there is no pool %q: choose one of [%s]", pool, strings.Join(names, " ")))
			return
		}
		for _, id := range v.Inodes() {
			if id.Pool() == f.p.ID {
				f.highest = max(f.highest, id.Number())
			}
		}
		done(f, nil)
	})
	if err != nil {
		return ids, err
	}
	key := c.keys().MaxID(f.p.ID)
	kv, err := c.get(ctx, key)
	if err != nil {
		return ids, err
	}
	maxID, err := schema.DecodeMaxID(key, kv.Value)
	if err != nil {
		return ids, err
	}
	number, ok := schema.NextInode(maxID, f.highest)
	if !ok {
		return ids, fmt.Errorf("pool %s has no inode number left", f.p.Name)
	}
	return newIDs{meta.MakeInode(f.p.ID, number), kv.ModRevision, f.p.GranularityBytes}, nil
}

// tryName runs a transaction that takes a name.
func (c *Cluster) tryName(ctx context.Context, t *env.Txn, name string) (done bool, err error) {
	r, err := c.txn(ctx, t)
	switch {
	case err != nil:
		return false, fmt.Errorf("image %s: %w (look at `vitastor-cli ls` before trying again: it may be done)", name, err)
	case r.Succeeded:
		return true, c.until(ctx, r.Revision)
	case len(r.Responses) > 0 && len(r.Responses[0].KVs) > 0:
		return false, fmt.Errorf("image %s: %w: choose another name", name, syscall.EEXIST)
	}
	return false, nil // somebody took the number
}

// find is an image by its name.
func (c *Cluster) find(ctx context.Context, name string) (*schema.SeenInode, error) {
	return do(ctx, c, func(done func(*schema.SeenInode, error)) {
		if s := c.conn.Client.View().InodeByName(name); s != nil {
			done(s, nil)
			return
		}
		done(nil, noImage(name))
	})
}

func (c *Cluster) txn(ctx context.Context, t *env.Txn) (*env.TxnResponse, error) {
	return do(ctx, c, func(done func(*env.TxnResponse, error)) { c.conn.Env.KV.Txn(t, etcdTimeout, done) })
}

// get reads a key; the zero value is one that does not exist.
func (c *Cluster) get(ctx context.Context, key string) (env.KeyValue, error) {
	r, err := c.txn(ctx, &env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil || len(r.Responses[0].KVs) == 0 {
		return env.KeyValue{}, err
	}
	return r.Responses[0].KVs[0], nil
}

// until waits until our view contains a revision that changed config/, so that
// who created an image can open it.
func (c *Cluster) until(ctx context.Context, revision int64) error {
	for {
		seen, err := do(ctx, c, func(done func(int64, error)) { done(c.conn.Client.View().ConfigRevision(), nil) })
		if err != nil || seen >= revision {
			return err
		}
		if err := c.sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// sleep waits on the loop's clock.
func (c *Cluster) sleep(ctx context.Context, d time.Duration) error {
	_, err := do(ctx, c, func(done func(bool, error)) {
		c.conn.Env.Clock.Arm(&env.Timer{Fire: func() { done(true, nil) }}, d)
	})
	return err
}
