// Package meta is the vocabulary of the cluster: ids, versions, PG and object
// states, bitmaps. Formats and rules: spec wire.md §2, osd.md §1-3 and §10.
//
// Guarantee: pure values and functions; no I/O, no allocation except where a
// function returns text. Safe for concurrent use.
//
//	inode    pool (16 bits) | number in the pool (48 bits)
//	stripe   byte offset of the object in the image, role in the low 12 bits
//	version  epoch (48 bits) | counter (16 bits)
package meta

import (
	"cmp"
	"fmt"
)

// PoolID is 1..MaxPoolID; 0 = no pool.
type PoolID uint32

// MaxPoolID is the largest pool id: it has to fit 16 bits of an Inode.
const MaxPoolID PoolID = 65535

// PGNum is the number of a placement group inside its pool, from 1.
type PGNum uint32

// PG names a placement group.
type PG struct {
	Pool PoolID
	Num  PGNum
}

func (p PG) String() string { return fmt.Sprintf("%d/%d", p.Pool, p.Num) }

// Compare orders by pool, then number.
func (p PG) Compare(q PG) int {
	return cmp.Or(cmp.Compare(p.Pool, q.Pool), cmp.Compare(p.Num, q.Num))
}

// OSDNum is the number of an OSD, from 1; 0 = nobody.
type OSDNum uint64

// Role is the number of a chunk inside an object: data chunks first, then
// parity; always 0 in replicated pools.
type Role uint32

// RoleMask are the bits of a stripe that hold a role.
const RoleMask = 1<<12 - 1

// Inode is an image (or one layer of it) including its pool.
type Inode uint64

const inodeNumberBits = 48

// MaxInodeNumber is the largest number of an inode inside its pool.
const MaxInodeNumber = 1<<inodeNumberBits - 1

// MakeInode joins a pool and a number; number must be <= MaxInodeNumber.
func MakeInode(pool PoolID, number uint64) Inode {
	return Inode(uint64(pool)<<inodeNumberBits | number&MaxInodeNumber)
}

// Pool is the pool of the inode.
func (i Inode) Pool() PoolID { return PoolID(i >> inodeNumberBits) }

// Number is the inode without its pool.
func (i Inode) Number() uint64 { return uint64(i) & MaxInodeNumber }

func (i Inode) String() string { return fmt.Sprintf("%d/%d", i.Pool(), i.Number()) }

// ObjectID names an object (role 0) or one of its chunks.
type ObjectID struct {
	Inode  Inode
	Stripe uint64 // byte offset in the image | role
}

// MaxObjectID is not less than any object id.
var MaxObjectID = ObjectID{^Inode(0), ^uint64(0)}

// Role is the chunk number in the id.
func (o ObjectID) Role() Role { return Role(o.Stripe & RoleMask) }

// Object is the id without the role.
func (o ObjectID) Object() ObjectID { return ObjectID{o.Inode, o.Stripe &^ RoleMask} }

// WithRole is the id of chunk r of the same object.
func (o ObjectID) WithRole(r Role) ObjectID {
	return ObjectID{o.Inode, o.Stripe&^RoleMask | uint64(r)&RoleMask}
}

// Less orders by inode, then stripe.
func (o ObjectID) Less(p ObjectID) bool {
	return o.Inode < p.Inode || o.Inode == p.Inode && o.Stripe < p.Stripe
}

// Compare orders by inode, then stripe.
func (o ObjectID) Compare(p ObjectID) int {
	return cmp.Or(cmp.Compare(o.Inode, p.Inode), cmp.Compare(o.Stripe, p.Stripe))
}

func (o ObjectID) String() string {
	return fmt.Sprintf("%x:%x", uint64(o.Inode), o.Stripe)
}

// Version orders the states of an object. Only the primary makes versions.
type Version uint64

const (
	// NoVersion means: the object does not exist.
	NoVersion Version = 0
	// NewestVersion in a read means: the newest there is, unstable included.
	NewestVersion Version = 1<<64 - 1
)

const versionCounterBits = 16

// MakeVersion joins an epoch and a counter.
func MakeVersion(epoch uint64, counter uint16) Version {
	return Version(epoch<<versionCounterBits | uint64(counter))
}

// Epoch is the PG epoch in which the version was made.
func (v Version) Epoch() uint64 { return uint64(v >> versionCounterBits) }

// Counter is the number of the version inside its epoch.
func (v Version) Counter() uint16 { return uint16(v) }

// NextVersion is the version of the write after v in a PG of the given epoch,
// and the epoch it belongs to: that is higher than the given one when the
// counter of v is half used up (osd.md §2), and has to be announced before.
func NextVersion(v Version, epoch uint64) (next Version, newEpoch uint64) {
	if v.Counter()&0x8000 != 0 && v.Epoch() >= epoch {
		epoch = v.Epoch() + 1
	}
	if v.Epoch() < epoch {
		return MakeVersion(epoch, 1), epoch
	}
	return v + 1, v.Epoch()
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Epoch(), v.Counter()) }

// ObjectVersion is one version of an object or chunk: the item of all lists.
type ObjectVersion struct {
	ObjectID
	Version Version
}

// Compare orders by object id, then version.
func (v ObjectVersion) Compare(w ObjectVersion) int {
	return cmp.Or(v.ObjectID.Compare(w.ObjectID), cmp.Compare(v.Version, w.Version))
}

// PGStripeBytes is the unit in which images are spread over PGs: the pool's
// configured value (0 = none), but at least one object.
func PGStripeBytes(configured, blockBytes uint64, dataChunks int) uint64 {
	return max(configured, blockBytes*uint64(dataChunks))
}

// PGOf returns the number of the PG that stores stripe (role bits do not
// matter). pgCount 0 gives 0: the pool has no PGs.
func PGOf(stripe, pgStripeBytes uint64, pgCount uint32) PGNum {
	if pgCount == 0 || pgStripeBytes == 0 {
		return 0
	}
	return PGNum(stripe/pgStripeBytes%uint64(pgCount)) + 1
}
