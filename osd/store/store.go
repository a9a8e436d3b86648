// Package store is the object store of an OSD: one disk (or three devices),
// versioned objects of one block each. Spec: store.md §1, ondisk.md.
//
// Concurrency: everything runs on the loop of the env.Env given to Open.
package store

import (
	"errors"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// Store is an open object store.
type Store struct{}

type opState struct{}

// Open starts the store on d, initializing the disks if their metadata area is
// blank; done is called once, not inside Open, with the store or an error that
// names the device, the place and the remedy.
func Open(e *env.Env, d Disks, c Config, done func(*Store, error)) {
	done(nil, errors.New("not there yet"))
}

// Submit starts op; op.Done is called when it is finished, never inside Submit.
func (s *Store) Submit(op *Op) {}

// BitmapBytes is the length of external bitmaps.
func (s *Store) BitmapBytes() int { return 0 }

// Stat tells the newest version <= limit of an object and copies its external
// bitmap to bitmap if that is not nil (zeroes if there is none). No disk is read.
func (s *Store) Stat(id meta.ObjectID, limit meta.Version, bitmap []byte) (v meta.Version, ok bool) {
	return
}

// Reshard starts to index the objects of a pool by the given PG count and
// stripe size, in bounded steps. Listings of the pool get EAGAIN until it is
// finished. A pool is sharded implicitly by nothing: it has to be called once.
func (s *Store) Reshard(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) {}

// Sharded tells whether listings with these parameters work.
func (s *Store) Sharded(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) bool { return false }

// InodeBytes is the space taken by an inode (number 0 for pools counted as one).
func (s *Store) InodeBytes(i meta.Inode) uint64 { return 0 }

// Inodes calls yield for each inode that takes space, in no order.
func (s *Store) Inodes(yield func(i meta.Inode, bytes uint64) bool) {}

// Totals returns sizes now.
func (s *Store) Totals() Totals { return Totals{} }

// Counters returns what was done since the start.
func (s *Store) Counters() Counters { return Counters{} }

// Check compares all state in memory with itself, for tests: cost is
// proportional to the store.
func (s *Store) Check() error { return nil }

// Close waits for running operations, makes everything durable and frees the
// memory; done is not called inside Close. Operations submitted later fail
// with ESHUTDOWN.
func (s *Store) Close(done func(error)) {}
