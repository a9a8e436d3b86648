package main

/*
#include <stdlib.h>
#include "core.h"
*/
import "C"

import (
	"syscall"
	"time"
	"unsafe"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/client"
)

// etcdTimeout is for one transaction.
const etcdTimeout = 5 * time.Second

// watch follows an image for the C side.
func (k *core) watch(op *C.vcore_op) {
	k.tokens++
	image := op.image
	image.token = C.uint64_t(k.tokens)
	w := k.client.Watch(C.GoString(image.name), func(w *client.Watch) { k.fill(image, w) })
	k.images[k.tokens] = w
	k.fill(image, w)
	k.complete(op, 0)
}

func (k *core) unwatch(op *C.vcore_op) {
	token := uint64(op.image.token)
	if w := k.images[token]; w != nil {
		w.Close()
		delete(k.images, token)
	}
	k.complete(op, 0)
}

// fill tells the C side what is known of an image now. One that has gone keeps
// everything but its number.
func (k *core) fill(image *C.vcore_image, w *client.Watch) {
	seen := w.Image()
	if seen == nil {
		image.num = 0
		return
	}
	image.num, image.size = C.uint64_t(seen.ID), C.uint64_t(seen.Size)
	image.parent, image.mod_revision = C.uint64_t(seen.Parent), C.uint64_t(seen.Rev)
	image.readonly = 0
	if seen.ReadOnly {
		image.readonly = 1
	}
	C.free(unsafe.Pointer(image.meta))
	if image.meta = nil; len(seen.Meta) > 0 {
		image.meta = C.CString(string(seen.Meta))
	}
}

// resize writes the size of an image to etcd. What is beyond a smaller size is
// the caller's to delete before.
func (k *core) resize(op *C.vcore_op) {
	token := uint64(op.image.token)
	w := k.images[token]
	if w == nil || w.Image() == nil {
		k.complete(op, -int64(syscall.ENOENT))
		return
	}
	old := w.Image()
	granule := uint64(0)
	if pool := k.client.View().Pool(old.ID.Pool()); pool != nil {
		granule = uint64(pool.GranularityBytes)
	}
	switch {
	case granule == 0 || uint64(op.len) == 0 || uint64(op.len)%granule != 0:
		k.complete(op, -int64(syscall.EINVAL))
		return
	case old.ReadOnly:
		k.complete(op, -int64(syscall.EROFS))
		return
	case old.Size == uint64(op.len):
		k.complete(op, 0)
		return
	}
	changed := old.InodeConfig
	changed.Size = uint64(op.len)
	t := k.client.Keys().ModifyImage(old, &changed)
	k.kv.Txn(&t, etcdTimeout, func(r *env.TxnResponse, err error) {
		switch {
		case k.ended:
		case err != nil:
			k.log.Error("vitastor: resize of an image", "name", old.Name, "err", err)
			k.complete(op, -int64(syscall.EIO))
		case !r.Succeeded: // somebody else has changed the image
			k.complete(op, -int64(syscall.EAGAIN))
		default:
			if k.images[token] != nil { // else it is not followed any more
				op.image.size = op.len
			}
			k.complete(op, 0)
		}
	})
}

// used tells how many bytes of an inode exist, by the statistics in etcd, which
// count every copy and parity.
func (k *core) used(op *C.vcore_op) {
	inode := meta.Inode(op.inode)
	pool := k.client.View().Pool(inode.Pool())
	if pool == nil {
		k.complete(op, -int64(syscall.EINVAL))
		return
	}
	key := k.client.Keys().InodeStats(inode)
	t := env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}}
	k.kv.Txn(&t, etcdTimeout, func(r *env.TxnResponse, err error) {
		if k.ended {
			return
		}
		used := uint64(0)
		if err == nil && len(r.Responses[0].KVs) > 0 {
			var stats schema.InodeStats
			if stats, err = schema.DecodeInodeStats(key, r.Responses[0].KVs[0].Value); err == nil {
				used = stats.RawUsedBytes * uint64(pool.DataChunks()) / uint64(pool.PGSize)
			}
		}
		if err != nil {
			k.complete(op, -int64(syscall.EIO))
			return
		}
		k.complete(op, int64(used))
	})
}
