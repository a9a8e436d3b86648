package wire

import "vitastor/internal/meta"

// Rw is the request of READ, WRITE, DELETE and SCRUB (§6.1).
//
//	24      32       40    44      48              56        64
//	| inode | offset | len | flags | meta_revision | version |
type Rw struct {
	ID     uint64
	Op     Op
	Inode  meta.Inode
	Offset uint64 // bytes from the start of the image
	Len    uint32 // bytes; the range lies inside one object
	Flags  uint32 // 0
	// MetaRevision > 0 asks for a chained read: the mod_revision of the
	// inode's etcd key, as the client knows it. Only READ looks at it.
	MetaRevision uint64
	// Version is the condition of a WRITE or DELETE: 0 = none, v > 0 = the
	// object has version v-1 now.
	Version meta.Version
}

// Encode writes the whole packet.
func (r *Rw) Encode(p *Packet) {
	p.startRequest(r.ID, r.Op)
	le.PutUint64(p[24:32], uint64(r.Inode))
	le.PutUint64(p[32:40], r.Offset)
	le.PutUint32(p[40:44], r.Len)
	le.PutUint32(p[44:48], r.Flags)
	le.PutUint64(p[48:56], r.MetaRevision)
	le.PutUint64(p[56:64], uint64(r.Version))
}

// Decode reads the fields.
func (r *Rw) Decode(p *Packet) {
	*r = Rw{
		ID:           p.ID(),
		Op:           p.Op(),
		Inode:        meta.Inode(le.Uint64(p[24:32])),
		Offset:       le.Uint64(p[32:40]),
		Len:          le.Uint32(p[40:44]),
		Flags:        le.Uint32(p[44:48]),
		MetaRevision: le.Uint64(p[48:56]),
		Version:      meta.Version(le.Uint64(p[56:64])),
	}
}

// RwReply answers READ, WRITE and SCRUB (§6.2).
//
//	24       32           36    40        48
//	| retval | bitmap_len | pad | version |
type RwReply struct {
	ID        uint64
	Op        Op
	Retval    Retval // READ, WRITE: Rw.Len
	BitmapLen uint32 // READ: bitmap bytes before the data; 0 in an error
	// Version that was read (0 = there is no object) or written; with EINTR
	// the one the object has.
	Version meta.Version
}

// Encode writes the whole packet. An error never announces a bitmap: the
// receiver would wait for it.
func (r *RwReply) Encode(p *Packet) {
	p.startReply(r.ID, r.Op, r.Retval)
	if !r.Retval.Failed() {
		le.PutUint32(p[32:36], r.BitmapLen)
	}
	le.PutUint64(p[40:48], uint64(r.Version))
}

// Decode reads the fields.
func (r *RwReply) Decode(p *Packet) {
	*r = RwReply{
		ID:        p.ID(),
		Op:        p.Op(),
		Retval:    p.Retval(),
		BitmapLen: le.Uint32(p[32:36]),
		Version:   meta.Version(le.Uint64(p[40:48])),
	}
	if r.Retval.Failed() {
		r.BitmapLen = 0
	}
}

// DeleteFlags qualify the reply of a successful DELETE.
type DeleteFlags uint32

const (
	// DeleteReportsDead is set by servers that can tell; always by ours.
	DeleteReportsDead DeleteFlags = 1
	// DeleteLeftOnDead: OSDs that are down may still hold the object.
	DeleteLeftOnDead DeleteFlags = 2
)

// MaxLeftOnDead is how many OSD numbers fit into the reply of a DELETE.
const MaxLeftOnDead = 22

// The list ends exactly with the packet.
var _ [PacketBytes - 40 - 4*MaxLeftOnDead]struct{}
var _ [40 + 4*MaxLeftOnDead - PacketBytes]struct{}

// DeleteReply answers DELETE (§6.4). Its shape depends on retval. Compat: some
// clients read bytes 40..47 as a version in any case; they are 0 without a list.
//
//	24       32      36      40                   128
//	| >= 0   | flags | count | 22 x u32 OSD number |
//	| EINTR  | 0     | 0     | u64 version | 0     |
//	| other  | 0                                   |
type DeleteReply struct {
	ID     uint64
	Retval Retval
	Flags  DeleteFlags
	// Version the object has, only with EINTR.
	Version meta.Version
	// Count and LeftOnDead: use AddLeftOnDead and Dead.
	Count      uint32
	LeftOnDead [MaxLeftOnDead]uint32
}

// AddLeftOnDead names an OSD that is down and may still hold the object, and
// tells whether the packet had room for it. The flags tell of it in any case.
func (r *DeleteReply) AddLeftOnDead(osd meta.OSDNum) bool {
	r.Flags |= DeleteReportsDead | DeleteLeftOnDead
	if r.Count >= MaxLeftOnDead || osd > 1<<32-1 {
		return false
	}
	r.LeftOnDead[r.Count] = uint32(osd)
	r.Count++
	return true
}

// Dead lists the OSDs that may still hold the object. It is a part of r.
func (r *DeleteReply) Dead() []uint32 { return r.LeftOnDead[:min(r.Count, MaxLeftOnDead)] }

// Encode writes the whole packet.
func (r *DeleteReply) Encode(p *Packet) {
	p.startReply(r.ID, OpDelete, r.Retval)
	switch {
	case r.Retval == EINTR:
		le.PutUint64(p[40:48], uint64(r.Version))
	case !r.Retval.Failed():
		le.PutUint32(p[32:36], uint32(r.Flags))
		dead := r.Dead()
		le.PutUint32(p[36:40], uint32(len(dead)))
		list := p[40:PacketBytes]
		for i, osd := range dead {
			le.PutUint32(list[4*i:4*i+4], osd)
		}
	}
}

// Decode reads the fields. A list that claims to be longer than the packet is
// taken to its end.
func (r *DeleteReply) Decode(p *Packet) {
	*r = DeleteReply{ID: p.ID(), Retval: p.Retval()}
	switch {
	case r.Retval == EINTR:
		r.Version = meta.Version(le.Uint64(p[40:48]))
	case !r.Retval.Failed():
		r.Flags = DeleteFlags(le.Uint32(p[32:36]))
		r.Count = min(le.Uint32(p[36:40]), MaxLeftOnDead)
		list := p[40:PacketBytes]
		for i := range r.Dead() {
			r.LeftOnDead[i] = le.Uint32(list[4*i : 4*i+4])
		}
	}
}

// DescribeMaxItems caps the items of one DESCRIBE reply.
const DescribeMaxItems = 1048576

// Describe asks a primary for its unclean objects (§9).
//
//	24             32          40           48          56           64      72        76       80
//	| object_state | min_inode | min_offset | max_inode | max_offset | limit | pool_id | pg_num |
type Describe struct {
	ID          uint64
	ObjectState uint64        // mask of meta.ObjectState bits, 0 = all
	Min, Max    meta.ObjectID // inclusive; a zero Max is no bound
	Limit       uint64        // items, 0 = unlimited
	Pool        meta.PoolID   // 0 = all PGs of the primary
	PG          meta.PGNum    // 0 = all PGs of the pool
}

// MaxItems is the limit that holds for the request.
func (r *Describe) MaxItems() uint64 {
	if r.Limit == 0 {
		return DescribeMaxItems
	}
	return min(r.Limit, DescribeMaxItems)
}

// UpTo is the last object of the range.
func (r *Describe) UpTo() meta.ObjectID {
	if r.Max == (meta.ObjectID{}) {
		return meta.MaxObjectID
	}
	return r.Max
}

// Encode writes the whole packet.
func (r *Describe) Encode(p *Packet) {
	p.startRequest(r.ID, OpDescribe)
	le.PutUint64(p[24:32], r.ObjectState)
	le.PutUint64(p[32:40], uint64(r.Min.Inode))
	le.PutUint64(p[40:48], r.Min.Stripe)
	le.PutUint64(p[48:56], uint64(r.Max.Inode))
	le.PutUint64(p[56:64], r.Max.Stripe)
	le.PutUint64(p[64:72], r.Limit)
	le.PutUint32(p[72:76], uint32(r.Pool))
	le.PutUint32(p[76:80], uint32(r.PG))
}

// Decode reads the fields.
func (r *Describe) Decode(p *Packet) {
	*r = Describe{
		ID:          p.ID(),
		ObjectState: le.Uint64(p[24:32]),
		Min:         meta.ObjectID{Inode: meta.Inode(le.Uint64(p[32:40])), Stripe: le.Uint64(p[40:48])},
		Max:         meta.ObjectID{Inode: meta.Inode(le.Uint64(p[48:56])), Stripe: le.Uint64(p[56:64])},
		Limit:       le.Uint64(p[64:72]),
		Pool:        meta.PoolID(le.Uint32(p[72:76])),
		PG:          meta.PGNum(le.Uint32(p[76:80])),
	}
}

// DescribeReply announces Retval items (DescribeList) in the payload. The
// field result_bytes is not in the struct: Encode calculates it, ReplyPayload
// checks it.
//
//	24       32             40
//	| retval | result_bytes |
type DescribeReply struct {
	ID     uint64
	Retval Retval
}

// Encode writes the whole packet.
func (r *DescribeReply) Encode(p *Packet) {
	p.startReply(r.ID, OpDescribe, r.Retval)
	le.PutUint64(p[32:40], uint64(max(r.Retval, 0))*DescribeItemBytes)
}

// Decode reads the fields.
func (r *DescribeReply) Decode(p *Packet) {
	*r = DescribeReply{ID: p.ID(), Retval: p.Retval()}
}
