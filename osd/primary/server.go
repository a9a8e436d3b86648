package primary

import (
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

type op struct{}

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
}

// New makes a server without PGs.
func New(e *env.Env, local *secondary.Server, st *store.Store, peers Peers, v View, o Owner, c Config) *Server {
	return &Server{env: e, local: local, store: st, peers: peers, view: v, owner: o, config: c}
}

// Serve implements secondary.Primary.
func (s *Server) Serve(r *msgr.Request) { r.Fail(wire.EPIPE) }

// Disconnected forgets what a client has not synced.
func (s *Server) Disconnected(c *msgr.Conn) {}

// Activate begins to serve a PG.
func (s *Server) Activate(a Activation) {}

// EpochRecorded lets writes go on that use an epoch up to this one.
func (s *Server) EpochRecorded(pg meta.PG, epoch uint64) {}

// Stop ends the service of a PG.
func (s *Server) Stop(pg meta.PG, done func()) {}

// Reset forgets everything about a PG.
func (s *Server) Reset(pg meta.PG) {}

// Flushed lets operations go on that waited for a flush.
func (s *Server) Flushed(pg meta.PG) {}

// Objects of a PG that is active; nil otherwise.
func (s *Server) Objects(pg meta.PG) *peering.Objects { return nil }

// PGCounts returns the numbers of objects of an active PG.
func (s *Server) PGCounts(pg meta.PG) (peering.Counts, bool) { return peering.Counts{}, false }

// Busy tells whether an operation of the object runs or waits.
func (s *Server) Busy(id meta.ObjectID) bool { return false }

// Recover begins a recovery.
func (s *Server) Recover(r *Recovery) {}

// Hold asks for the exclusive use of an object.
func (s *Server) Hold(h *Hold) {}

// Release ends a granted Hold.
func (s *Server) Release(h *Hold) {}

// Sync executes a SYNC.
func (s *Server) Sync(done func(wire.Retval)) {}

// SetScrubbing sets or clears the flag of a PG.
func (s *Server) SetScrubbing(pg meta.PG, on bool) {}

// SetScrub says who executes SCRUB.
func (s *Server) SetScrub(f func(r *msgr.Request)) {}

// SetTimes changes the conditions of automatic SYNCs.
func (s *Server) SetTimes(autosync time.Duration, writes, recoveryBatch int) {}

// Stats returns the totals.
func (s *Server) Stats() *Stats { return &s.stats }

// Close ends all.
func (s *Server) Close(done func()) {}

// Free returns the memory.
func (s *Server) Free() {}
