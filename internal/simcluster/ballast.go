package simcluster

import (
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// ballast fills the disks of the cluster with an image of its own, and takes it
// away again. It is no part of the history.
type ballast struct {
	k       *Cluster
	target  *realClient
	node    *sim.Node
	pool    *PoolConfig
	next    uint64 // object to write
	active  int
	filling bool
	written []uint64
}

const (
	ballastNumber  = 99
	ballastWriters = 3
)

func (k *Cluster) newBallast() *ballast {
	n := k.w.NewNode("ballast")
	b := &ballast{k: k, node: n, pool: &k.c.Pools[0]}
	k.announce(&Image{Inode: b.inode(), Granules: 1 << 20}, false)
	n.SetProgram(func(e *env.Env) { b.target = newRealClient(k, e, "host0", 0, func() {}) })
	return b
}

func (b *ballast) inode() meta.Inode { return meta.MakeInode(b.pool.ID, ballastNumber) }

// fillDisks begins to write; it goes on until the heal, or waits for space.
func (k *Cluster) fillDisks() {
	b := k.ballast
	b.filling = true
	b.node.Do(func(*env.Env) {
		for range ballastWriters {
			b.write()
		}
	})
}

func (b *ballast) write() {
	if !b.filling {
		return
	}
	object := b.next
	b.next++
	b.active++
	size := b.k.c.ObjectBytes(b.pool)
	b.target.Submit(&Request{Kind: OpWrite, Inode: b.inode(), Offset: object * size, Buf: make([]byte, size), Done: func(*Request) {
		b.active--
		b.written = append(b.written, object)
		if !b.filling {
			b.remove()
			return
		}
		b.write()
	}})
}

// emptyDisks deletes what was written, and what is still being written when it
// is.
func (k *Cluster) emptyDisks() {
	k.ballast.filling = false
	k.ballast.node.Do(func(*env.Env) { k.ballast.remove() })
}

func (b *ballast) remove() {
	size := b.k.c.ObjectBytes(b.pool)
	for _, object := range b.written {
		b.active++
		b.target.Submit(&Request{Kind: OpDelete, Inode: b.inode(), Offset: object * size, Bytes: size, Done: func(q *Request) {
			b.active--
			if q.Err != 0 {
				b.k.violate("full", "deleting ballast: %v", q.Err)
			}
		}})
	}
	b.written = b.written[:0]
}
