package store

import (
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
)

// statInode is the inode under which space is counted.
func (s *Store) statInode(i meta.Inode) meta.Inode {
	if s.cfg.NoInodeStats != nil && s.cfg.NoInodeStats(i.Pool()) {
		return meta.MakeInode(i.Pool(), 0)
	}
	return i
}

// takeBlock claims the lowest free data block; ok is false if there is none.
func (s *Store) takeBlock(i meta.Inode) (n uint32, ok bool) {
	b := s.blocks.lowestFree()
	if b < 0 {
		return 0, false
	}
	s.claimBlock(i, uint32(b))
	return uint32(b), true
}

func (s *Store) claimBlock(i meta.Inode, n uint32) {
	s.blocks.set(int(n))
	s.inodes[s.statInode(i)] += uint64(s.geo.BlockBytes)
}

// blockReleased notes that a block loses its owner; false if it did before.
// (Two entries of an object may name one block; it is freed once.)
func (s *Store) blockReleased(n uint32) bool {
	w, bit := &s.releasing[n>>6], uint64(1)<<(n&63)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	return true
}

// freeBlock makes a data block free.
func (s *Store) freeBlock(i meta.Inode, n uint32) {
	s.releasing[n>>6] &^= 1 << (n & 63)
	s.blocks.clear(int(n))
	i = s.statInode(i)
	left := s.inodes[i] - uint64(s.geo.BlockBytes)
	invariant.Must(left < 1<<63, "store: space of an inode became negative")
	if left == 0 {
		delete(s.inodes, i)
	} else {
		s.inodes[i] = left
	}
	s.trimBlock(n)
}

// takeBuffer claims a contiguous part of the buffer area.
func (s *Store) takeBuffer(length uint32) (location uint64, ok bool) {
	at := s.buffer.take(int(length / s.geo.GranuleBytes))
	if at < 0 {
		return 0, false
	}
	return uint64(at) * uint64(s.geo.GranuleBytes), true
}

func (s *Store) freeBuffer(location uint64, length uint32) {
	g := uint64(s.geo.GranuleBytes)
	s.buffer.release(int(location/g), int(uint64(length)/g))
}

// InodeBytes is the space taken by an inode (number 0 for pools that are
// counted as one).
func (s *Store) InodeBytes(i meta.Inode) uint64 { return s.inodes[s.statInode(i)] }

// Inodes calls yield for each inode that takes space, in no order.
func (s *Store) Inodes(yield func(i meta.Inode, bytes uint64) bool) {
	for i, n := range s.inodes {
		if !yield(i, n) {
			return
		}
	}
}
