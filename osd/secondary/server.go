package secondary

import (
	"cmp"
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema/option"
	"vitastor/internal/wire"
	"vitastor/osd/store"
)

// View is what the server has to know of the cluster. It is asked on the loop
// for each request, so it must be cheap.
type View interface {
	// Pool returns a pool with the PG count that is in force.
	Pool(id meta.PoolID) (p Pool, ok bool)
	// Primary tells whether this OSD is the primary of pg, in any state but
	// offline.
	Primary(pg meta.PG) bool
}

// Primary executes the operations that are not ours: READ, WRITE, SYNC, DELETE,
// SCRUB, DESCRIBE and SEC_LIST with wire.ListPrimary. Readonly mode was
// checked; everything else of the request was not.
type Primary interface {
	Serve(r *msgr.Request)
}

// Config is how the server works. Zero limits mean defaults.
type Config struct {
	OSD                      meta.OSDNum
	BlockBytes, GranuleBytes uint32 // of the store
	Commit                   meta.CommitMode
	LeaseTimeoutSec          uint64 // told to peers (wire.md §4.2)
	RunPrimary               bool
	ReadOnly                 bool

	PGLocks  option.Tristate // enable_pg_locks
	Recovery option.Recovery // the delay of recovery subops and its tuning
	Limits   Limits
}

// Limits bound what is executed at the same time. More waits in order.
type Limits struct {
	Running   int // requests of peers in the store. Default 1024
	Answers   int // long answers (listings, many bitmaps) to OSDs. Default 16
	Strangers int // long answers to others. Default 4
	LongReads int // reads longer than pinned.MaxBufferBytes. Default 8
}

// Server serves the secondary operations of one OSD.
type Server struct {
	env     *env.Env
	store   *store.Store
	view    View
	primary Primary
	config  Config
	bitmap  int // bytes of a chunk's bitmap

	pgLocks option.Tristate
	locks   Locks
	listers Listers

	slab    slab
	active  activeList
	waiting opQueue // for a slot
	running int     // of peers, in the store
	filling bool    // free slots are being given away

	peers, strangers lane
	longReads        longPool
	answerMax        int // bytes

	delays delays
	stats  Stats

	sent   func(*msgr.Request)
	closed func() // Close was called; tell when nothing is left
}

// New makes a server on an open store. Requests come through Serve, which the
// owner of the messenger calls from its msgr.Handler together with
// Disconnected.
func New(e *env.Env, st *store.Store, v View, c Config) (*Server, error) {
	s := &Server{env: e, store: st, view: v, config: c, pgLocks: c.PGLocks, bitmap: st.BitmapBytes(), answerMax: wire.MaxPayloadBytes}
	if c.GranuleBytes == 0 || c.BlockBytes != st.Totals().BlockBytes || meta.BitmapBytes(c.BlockBytes, c.GranuleBytes) != s.bitmap {
		return nil, fmt.Errorf("block_size %d and bitmap_granularity %d are not those of the store: its blocks have %d bytes and bitmaps of %d bytes",
			c.BlockBytes, c.GranuleBytes, st.Totals().BlockBytes, s.bitmap)
	}
	l := &s.config.Limits
	l.Running, l.Answers = cmp.Or(l.Running, 1024), cmp.Or(l.Answers, 16)
	l.Strangers, l.LongReads = cmp.Or(l.Strangers, 4), cmp.Or(l.LongReads, 8)
	if min(l.Running, l.Answers, l.Strangers, l.LongReads) < 1 {
		return nil, fmt.Errorf("limits of secondary operations must be positive: %+v", *l)
	}
	s.peers.max, s.strangers.max, s.longReads.max = l.Answers, l.Strangers, l.LongReads
	s.slab.scratchBytes = max(s.bitmap, scratchLeast)
	s.sent = s.replySent
	s.delays.timer.Fire, s.delays.idle.Fire = s.tune, s.checkIdle
	s.SetRecovery(c.Recovery)
	return s, nil
}

// SetPrimary says who executes primary operations. Without, this OSD is
// primary of nothing.
func (s *Server) SetPrimary(p Primary) { s.primary = p }

// SetPGLocks changes enable_pg_locks.
func (s *Server) SetPGLocks(mode option.Tristate) { s.pgLocks = mode }

// ShowConfig is the answer to SHOW_CONFIG (wire.md §4.2).
func (s *Server) ShowConfig(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
	c := &s.config
	return wire.ConfigReply{
		OSDNum: c.OSD, ProtocolVersion: wire.ProtocolVersion,
		BlockBytes: uint64(c.BlockBytes), GranularityBytes: uint64(c.GranuleBytes), ImmediateCommit: c.Commit.String(),
		PrimaryEnabled: c.RunPrimary, BlockstoreEnabled: true, Readonly: c.ReadOnly,
		LeaseTimeoutSec: c.LeaseTimeoutSec, PGLocks: true,
	}
}

// Disconnected ends what hangs on a lost connection: its PG locks. Requests of
// it that are not in the store yet will not be executed.
func (s *Server) Disconnected(c *msgr.Conn) {
	s.locks.Disconnected(c)
	s.listers.Disconnected(c)
}

// Serve executes one request, or hands it to the primary.
func (s *Server) Serve(r *msgr.Request) {
	op := r.Op()
	switch {
	case !op.Valid() || op == wire.OpTestSyncStab:
		r.Fail(wire.EINVAL)
		return
	case s.config.ReadOnly && !op.AllowedReadonly():
		r.Fail(wire.EROFS)
		return
	case s.closed != nil:
		r.Fail(wire.EPIPE)
		return
	}
	switch op {
	case wire.OpSecRead, wire.OpSecWrite, wire.OpSecWriteStable:
		s.serveRw(r)
	case wire.OpSecStabilize, wire.OpSecRollback:
		s.serveItems(r)
	case wire.OpSecDelete:
		s.serveDelete(r)
	case wire.OpSecSync:
		o := s.take(r)
		o.Kind = store.OpSync
		s.admit(o)
	case wire.OpSecReadBmp:
		s.serveBitmaps(r)
	case wire.OpSecList:
		s.serveList(r)
	case wire.OpSecLock:
		s.serveLock(r)
	default:
		s.servePrimary(r)
	}
}

// servePrimary passes on what is not ours. An OSD without a primary is primary
// of nothing, has nothing to sync and knows of no unclean objects.
func (s *Server) servePrimary(r *msgr.Request) {
	switch {
	case s.primary != nil:
		s.primary.Serve(r)
	case r.Op() == wire.OpSync || r.Op() == wire.OpDescribe:
		r.Fail(wire.OK)
	default:
		r.Fail(wire.EPIPE)
	}
}

// serveRw begins SEC_READ, SEC_WRITE and SEC_WRITE_STABLE.
func (s *Server) serveRw(r *msgr.Request) {
	var q wire.SecRw
	q.Decode(&r.Packet)
	if ret := q.Check(s.config.BlockBytes, s.config.GranuleBytes); ret.Failed() {
		r.Fail(ret)
		return
	}
	op := s.take(r)
	op.OID, op.Version, op.Offset, op.Len = q.Chunk, q.Version, q.Offset, q.Len
	op.flags = q.Flags
	switch {
	case q.Op == wire.OpSecRead:
		op.Kind, op.Bitmap = store.OpRead, op.scratch[:s.bitmap]
	case q.Op == wire.OpSecWrite:
		op.Kind, op.Bitmap = store.OpWrite, r.Attr
	default:
		op.Kind, op.Bitmap = store.OpWriteStable, r.Attr
	}
	switch {
	case len(r.Body) == 1:
		op.Buf = r.Body[0]
	case len(r.Body) > 1 && op.Kind != store.OpRead: // a long read gets its Buf later
		op.Iov = r.Body
	}
	s.admit(op)
}

func (s *Server) serveDelete(r *msgr.Request) {
	var q wire.SecDel
	q.Decode(&r.Packet)
	op := s.take(r)
	op.Kind, op.OID, op.Version, op.flags = store.OpDelete, q.Chunk, q.Version, q.Flags
	s.admit(op)
}

// serveItems begins SEC_STABILIZE and SEC_ROLLBACK.
func (s *Server) serveItems(r *msgr.Request) {
	var q wire.SecStab
	q.Decode(&r.Packet)
	op := s.take(r)
	op.Kind, op.flags = store.OpStabilize, q.Flags
	if q.Op == wire.OpSecRollback {
		op.Kind = store.OpRollback
	}
	op.items = op.items[:0]
	items := itemsOf(r)
	for i := range items.n {
		op.items = append(op.items, items.at(i))
	}
	op.Items = op.items
	s.admit(op)
}

// items is a list of objects as it was received, in parts of whole items of
// which only the last one may have another length.
type items struct {
	parts [][]byte
	each  int // items in a part
	n     int
}

func itemsOf(r *msgr.Request) items {
	l := items{parts: r.Body}
	for i, p := range r.Body {
		n := wire.ObjectList(p).Len()
		if i == 0 {
			l.each = n
		}
		l.n += n
	}
	return l
}

func (l *items) at(i int) meta.ObjectVersion {
	return wire.ObjectList(l.parts[i/l.each]).At(i % l.each)
}

// Close lets requests that wait or are delayed go on at once and calls done
// when nothing is left to do, later. New requests get EPIPE. Own operations
// must not be submitted any more.
func (s *Server) Close(done func()) {
	invariant.Must(s.closed == nil, "secondary: closed twice")
	s.closed = done
	s.env.Clock.Disarm(&s.delays.timer)
	s.delays.pause = 0
	s.hurry()
	for op := s.active.head; op != nil; op = op.next {
		if op.phase == phaseAfter {
			s.env.Clock.Arm(&op.timer, 0)
		}
	}
	s.env.Clock.Arm(&s.delays.idle, 0)
}

// Free returns memory outside of the Go heap, whatever is being done. It is for
// the end, when the loop does not run any more.
func (s *Server) Free() {
	for op := s.active.head; op != nil; op = op.next {
		if op.long != nil {
			pinned.Free(op.long)
			op.long = nil
		}
	}
	s.longReads.free()
}

// checkIdle is the end of Close.
func (s *Server) checkIdle() {
	if s.closed != nil && s.active.head == nil {
		done := s.closed
		s.closed = func() {}
		done()
		s.longReads.free()
	}
}
