package simcluster

import (
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/sim"
)

// ballast fills the disks of the cluster with an image of its own, and takes it
// away again. It is no part of the history.
//
// One client writes until there is no space, and dies; another one deletes.
// They are two, because a client with lazy commit may have to repeat what it has
// not synced before it does anything else, and that needs space.
type ballast struct {
	k              *Cluster
	pool           *PoolConfig
	writer, broom  *sim.Node
	writes, sweeps *realClient
	filling        bool
	next           uint64 // object to write
	active         int    // deletions
}

const (
	ballastNumber  = 99
	ballastWriters = 3
)

func (k *Cluster) newBallast() *ballast {
	b := &ballast{k: k, writer: k.w.NewNode("ballast"), broom: k.w.NewNode("broom"), pool: &k.c.Pools[0]}
	k.announce(&Image{Inode: b.inode(), Granules: 1 << 20}, false)
	b.broom.SetProgram(func(e *env.Env) { b.sweeps = newRealClient(k, e, "host0", 0, func() {}) })
	b.writer.Crash()
	b.writer.SetProgram(func(e *env.Env) {
		b.writes = newRealClient(k, e, "host0", 0, func() {})
		for range ballastWriters {
			b.write()
		}
	})
	return b
}

func (b *ballast) inode() meta.Inode { return meta.MakeInode(b.pool.ID, ballastNumber) }

// fillDisks begins to write; it goes on until the heal, or waits for space.
func (k *Cluster) fillDisks() {
	k.ballast.filling = true
	k.ballast.writer.Restart()
}

func (b *ballast) write() {
	size := b.k.c.ObjectBytes(b.pool)
	b.writes.Submit(&Request{Kind: OpWrite, Inode: b.inode(), Offset: b.next * size, Buf: make([]byte, size), Done: func(*Request) { b.write() }})
	b.next++
}

// emptyDisks deletes what was written.
func (k *Cluster) emptyDisks() {
	b := k.ballast
	b.stopWriting()
	size := k.c.ObjectBytes(b.pool)
	b.broom.Do(func(*env.Env) {
		for ; b.next > 0; b.next-- {
			b.active++
			b.sweeps.Submit(&Request{Kind: OpDelete, Inode: b.inode(), Offset: (b.next - 1) * size, Bytes: size, Done: func(q *Request) {
				if b.active--; q.Err != 0 {
					k.violate("full", "deleting ballast: %v", q.Err)
				}
			}})
		}
	})
}

func (b *ballast) stopWriting() {
	if b.filling {
		b.filling = false
		b.writer.Crash()
		b.writes.free()
	}
}

func (b *ballast) free() {
	b.stopWriting()
	b.broom.Crash()
	b.sweeps.free()
}
