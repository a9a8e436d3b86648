package wire

import "vitastor/internal/meta"

// SecFlags are the flags of requests to secondaries (§13).
type SecFlags uint32

const (
	// FlagRecovery: part of recovery or rebalance; may be delayed.
	FlagRecovery SecFlags = 1
	// FlagIgnorePGLock skips the check of the PG lock: administrative deletes.
	FlagIgnorePGLock SecFlags = 2
)

// SecRw is the request of SEC_READ, SEC_WRITE and SEC_WRITE_STABLE (§7.1).
//
//	24      32             40        48       52    56         60      64
//	| inode | stripe|role  | version | offset | len | attr_len | flags |
type SecRw struct {
	ID    uint64
	Op    Op
	Chunk meta.ObjectID // with the role
	// Version to create exactly, or the newest one to read.
	Version meta.Version
	Offset  uint32 // bytes inside the chunk
	Len     uint32 // bytes; 0 = only version and bitmap
	AttrLen uint32 // bitmap bytes before the data of a write
	Flags   SecFlags
}

// Encode writes the whole packet.
func (r *SecRw) Encode(p *Packet) {
	p.startRequest(r.ID, r.Op)
	le.PutUint64(p[24:32], uint64(r.Chunk.Inode))
	le.PutUint64(p[32:40], r.Chunk.Stripe)
	le.PutUint64(p[40:48], uint64(r.Version))
	le.PutUint32(p[48:52], r.Offset)
	le.PutUint32(p[52:56], r.Len)
	le.PutUint32(p[56:60], r.AttrLen)
	le.PutUint32(p[60:64], uint32(r.Flags))
}

// Decode reads the fields.
func (r *SecRw) Decode(p *Packet) {
	*r = SecRw{
		ID:      p.ID(),
		Op:      p.Op(),
		Chunk:   meta.ObjectID{Inode: meta.Inode(le.Uint64(p[24:32])), Stripe: le.Uint64(p[32:40])},
		Version: meta.Version(le.Uint64(p[40:48])),
		Offset:  le.Uint32(p[48:52]),
		Len:     le.Uint32(p[52:56]),
		AttrLen: le.Uint32(p[56:60]),
		Flags:   SecFlags(le.Uint32(p[60:64])),
	}
}

// SecRwReply answers SEC_READ, SEC_WRITE and SEC_WRITE_STABLE (§7.2).
//
//	24       32        40         44    48
//	| retval | version | attr_len | pad |
type SecRwReply struct {
	ID      uint64
	Op      Op
	Retval  Retval       // SecRw.Len
	Version meta.Version // read or written
	AttrLen uint32       // SEC_READ: always the whole bitmap; 0 in an error
}

// Encode writes the whole packet. An error never announces a bitmap.
func (r *SecRwReply) Encode(p *Packet) {
	p.startReply(r.ID, r.Op, r.Retval)
	le.PutUint64(p[32:40], uint64(r.Version))
	if !r.Retval.Failed() {
		le.PutUint32(p[40:44], r.AttrLen)
	}
}

// Decode reads the fields.
func (r *SecRwReply) Decode(p *Packet) {
	*r = SecRwReply{
		ID:      p.ID(),
		Op:      p.Op(),
		Retval:  p.Retval(),
		Version: meta.Version(le.Uint64(p[32:40])),
		AttrLen: le.Uint32(p[40:44]),
	}
	if r.Retval.Failed() {
		r.AttrLen = 0
	}
}

// SecDel is the request of SEC_DELETE (§7.3).
//
//	24      32            40        48      52    56
//	| inode | stripe|role | version | flags | pad |
type SecDel struct {
	ID      uint64
	Chunk   meta.ObjectID // with the role
	Version meta.Version  // previous + 1; 0 = whatever
	Flags   SecFlags
}

// Encode writes the whole packet.
func (r *SecDel) Encode(p *Packet) {
	p.startRequest(r.ID, OpSecDelete)
	le.PutUint64(p[24:32], uint64(r.Chunk.Inode))
	le.PutUint64(p[32:40], r.Chunk.Stripe)
	le.PutUint64(p[40:48], uint64(r.Version))
	le.PutUint32(p[48:52], uint32(r.Flags))
}

// Decode reads the fields.
func (r *SecDel) Decode(p *Packet) {
	*r = SecDel{
		ID:      p.ID(),
		Chunk:   meta.ObjectID{Inode: meta.Inode(le.Uint64(p[24:32])), Stripe: le.Uint64(p[32:40])},
		Version: meta.Version(le.Uint64(p[40:48])),
		Flags:   SecFlags(le.Uint32(p[48:52])),
	}
}

// SecDelReply answers SEC_DELETE.
//
//	24       32        40
//	| retval | version |
type SecDelReply struct {
	ID      uint64
	Retval  Retval
	Version meta.Version
}

// Encode writes the whole packet.
func (r *SecDelReply) Encode(p *Packet) {
	p.startReply(r.ID, OpSecDelete, r.Retval)
	le.PutUint64(p[32:40], uint64(r.Version))
}

// Decode reads the fields.
func (r *SecDelReply) Decode(p *Packet) {
	*r = SecDelReply{ID: p.ID(), Retval: p.Retval(), Version: meta.Version(le.Uint64(p[32:40]))}
}

// SecSync is the request of SEC_SYNC (§7.5).
//
//	24      28    32
//	| flags | pad |
type SecSync struct {
	ID    uint64
	Flags SecFlags
}

// Encode writes the whole packet.
func (r *SecSync) Encode(p *Packet) {
	p.startRequest(r.ID, OpSecSync)
	le.PutUint32(p[24:28], uint32(r.Flags))
}

// Decode reads the fields.
func (r *SecSync) Decode(p *Packet) {
	*r = SecSync{ID: p.ID(), Flags: SecFlags(le.Uint32(p[24:28]))}
}

// SecStab is the request of SEC_STABILIZE and SEC_ROLLBACK (§7.6); an
// ObjectList follows.
//
//	24    32      36    40
//	| len | flags | pad |
type SecStab struct {
	ID    uint64
	Op    Op
	Len   uint64 // payload bytes; a rest of less than an item is ignored
	Flags SecFlags
}

// Encode writes the whole packet.
func (r *SecStab) Encode(p *Packet) {
	p.startRequest(r.ID, r.Op)
	le.PutUint64(p[24:32], r.Len)
	le.PutUint32(p[32:36], uint32(r.Flags))
}

// Decode reads the fields.
func (r *SecStab) Decode(p *Packet) {
	*r = SecStab{ID: p.ID(), Op: p.Op(), Len: le.Uint64(p[24:32]), Flags: SecFlags(le.Uint32(p[32:36]))}
}

// SecReadBmp is the request of SEC_READ_BMP (§7.7): an ObjectList follows. The
// reply is a StatusReply and a BitmapList with one item for each.
//
//	24    32      36
//	| len | flags |
type SecReadBmp struct {
	ID    uint64
	Len   uint64 // payload bytes; a rest of less than an item is ignored
	Flags SecFlags
}

// Encode writes the whole packet.
func (r *SecReadBmp) Encode(p *Packet) {
	p.startRequest(r.ID, OpSecReadBmp)
	le.PutUint64(p[24:32], r.Len)
	le.PutUint32(p[32:36], uint32(r.Flags))
}

// Decode reads the fields.
func (r *SecReadBmp) Decode(p *Packet) {
	*r = SecReadBmp{ID: p.ID(), Len: le.Uint64(p[24:32]), Flags: SecFlags(le.Uint32(p[32:36]))}
}

// What a SEC_LOCK asks for.
const (
	LockAcquire uint64 = 1 // also tells the new state to a lock already held
	LockRelease uint64 = 2
)

// SecLock is the request of SEC_LOCK (§8). The owner of the lock is the OSD
// number announced on the connection.
//
//	24      32        40       48         56
//	| flags | pool_id | pg_num | pg_state |
type SecLock struct {
	ID      uint64
	Flags   uint64 // LockAcquire or LockRelease
	Pool    uint64 // meta.PoolID after Check
	PG      uint64 // meta.PGNum after Check
	PGState uint64 // meta.PGState bits of the primary
}

// Encode writes the whole packet.
func (r *SecLock) Encode(p *Packet) {
	p.startRequest(r.ID, OpSecLock)
	le.PutUint64(p[24:32], r.Flags)
	le.PutUint64(p[32:40], r.Pool)
	le.PutUint64(p[40:48], r.PG)
	le.PutUint64(p[48:56], r.PGState)
}

// Decode reads the fields.
func (r *SecLock) Decode(p *Packet) {
	*r = SecLock{
		ID:      p.ID(),
		Flags:   le.Uint64(p[24:32]),
		Pool:    le.Uint64(p[32:40]),
		PG:      le.Uint64(p[40:48]),
		PGState: le.Uint64(p[48:56]),
	}
}

// SecLockReply answers SEC_LOCK.
//
//	24       32            40
//	| retval | cur_primary |
type SecLockReply struct {
	ID         uint64
	Retval     Retval
	CurPrimary meta.OSDNum // with EBUSY: who holds the PG
}

// Encode writes the whole packet.
func (r *SecLockReply) Encode(p *Packet) {
	p.startReply(r.ID, OpSecLock, r.Retval)
	le.PutUint64(p[32:40], uint64(r.CurPrimary))
}

// Decode reads the fields.
func (r *SecLockReply) Decode(p *Packet) {
	*r = SecLockReply{ID: p.ID(), Retval: p.Retval(), CurPrimary: meta.OSDNum(le.Uint64(p[32:40]))}
}
