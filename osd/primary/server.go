package primary

import (
	"cmp"
	"maps"
	"slices"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// defaultMemoryBytes is Config.MemoryBytes if that is 0.
const defaultMemoryBytes = 128 << 20

// leastBuffers is how many buffers of a block one operation may need at once:
// the limit is never below, or it would wait for ever.
const leastBuffers = 2 * ec.MaxRoles

// Server executes the operations of one OSD as a primary.
type Server struct {
	env    *env.Env
	local  *secondary.Server
	store  *store.Store
	peers  Peers
	view   View
	owner  Owner
	config Config
	stats  Stats

	bitmapBytes int // of one chunk
	autosyncMax int // writes that the buffer area of the store has room for

	pgs     map[meta.PG]*pg
	codes   map[codeKey]*ec.Code
	objects objectTable
	sync    syncer
	scrub   func(r *msgr.Request)

	// Operations and requests to OSDs: free ones, and those with something to do.
	freeOps    *op
	freeSubs   *sub
	lostSubs   *sub // could not be sent
	opsMade    int
	subsMade   int
	ready      list
	draining   bool
	memory     memory
	memWaiters list
	shards     [][]byte

	// READ of images with layers and of other OSDs' PGs, DESCRIBE, listings.
	freeChains   *chain
	freeLocals   *localRead
	deletes      [deleteClasses]uint64 // see countDelete
	describer    describer
	freeListings *listing
	listings     int // in work
	listWaiters  []*msgr.Request

	telling []*pg    // whose flags have changed
	stopped []func() // to be called
	closed  func()   // Close was called

	readyTask, lostTask, tellTask, stoppedTask, syncTask env.Task
	readSent, localSent                                  func(*msgr.Request)
}

// New makes a server without PGs. local is asked to execute what concerns our
// own store; st is that store.
func New(e *env.Env, local *secondary.Server, st *store.Store, peers Peers, v View, o Owner, c Config) *Server {
	s := &Server{env: e, local: local, store: st, peers: peers, view: v, owner: o, config: c,
		bitmapBytes: st.BitmapBytes(), pgs: make(map[meta.PG]*pg), codes: make(map[codeKey]*ec.Code)}
	s.stats.Inodes = make(map[meta.Inode]*InodeStats)
	s.memory.limit = max(cmp.Or(c.MemoryBytes, defaultMemoryBytes), leastBuffers*min(int(c.BlockBytes), pinned.MaxBufferBytes))
	s.autosyncMax = max(int(st.Totals().BufferTotal/uint64(c.BlockBytes)/2), 1)
	s.sync.s, s.sync.byConn, s.sync.itemsMax = s, make(map[*msgr.Conn]*client), listKept
	s.sync.timer.Fire = s.sync.fired
	s.readyTask.Run, s.lostTask.Run = s.drain, s.failLost
	s.tellTask.Run, s.stoppedTask.Run, s.syncTask.Run = s.tellFlags, s.tellStopped, s.sync.begin
	s.readSent, s.localSent = s.replySent, s.localReadSent
	return s
}

// SetScrub says who executes SCRUB. Requests were checked: this OSD is primary
// of the object's PG, which is active. Until then they get EPIPE.
func (s *Server) SetScrub(f func(r *msgr.Request)) { s.scrub = f }

// Stats returns the totals; the pointer stays valid.
func (s *Server) Stats() *Stats { return &s.stats }

// Close stops all PGs, as Stop does, and calls done, later, when nothing is in
// flight. New requests get EPIPE.
func (s *Server) Close(done func()) {
	s.closed = done
	s.env.Clock.Disarm(&s.sync.timer)
	left := 1
	one := func() {
		if left--; left == 0 {
			done()
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.pgs), meta.PG.Compare) {
		left++
		s.Stop(id, one)
	}
	s.stopped = append(s.stopped, one)
	s.env.Exec.Defer(&s.stoppedTask)
}

// Free returns memory outside of the Go heap, that of Objects included. It is
// for the end, when the loop does not run any more.
func (s *Server) Free() {
	for _, p := range s.pgs {
		p.objects.Free()
	}
	clear(s.pgs)
	s.memory.free()
}
