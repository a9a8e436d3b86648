// Package nbd gives images to NBD clients: to anybody over TCP and unix sockets
// (serve), and to the kernel of this host (map, unmap, ls). It is the program
// vitastor-nbd.
//
//	socket ─▶ conn: handshake, then requests ─▶ slot ─▶ blockdev.Disk
//	       ◀───────── replies, in any order ◀──────┘
//
// Guarantee: every request of a client is answered exactly once or its
// connection ends; hostile clients cost no more than the limits below and harm
// nobody else. What a client writes to one connection and flushes on any is
// durable (NBD_FLAG_CAN_MULTI_CONN).
//
// Concurrency: a Server and its connections live on the loop of the env.Env.
// Reads and writes allocate nothing in steady state and payloads are received
// into, and sent from, the memory that the disk uses. Only TLS connections
// have goroutines of their own, which encrypt.
package nbd

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/env"
	"vitastor/internal/pinned"
)

// Limits.
const (
	// MaxPayload is the longest READ or WRITE, which is what other servers take.
	MaxPayload = 32 << 20
	// slotsMax is the number of requests of one connection in flight.
	slotsMax = 512
	// MemoryDefault is for the payloads of all connections.
	MemoryDefault = 256 << 20
	// memoryShare: a connection gets no more than 1/memoryShare of the memory,
	// unless it has nothing else in flight.
	memoryShare = 4
	// handshakeMax is the time for a handshake.
	handshakeMax = 30 * time.Second
	// ConnectionsDefault is the number of clients.
	ConnectionsDefault = 1024
)

// Catalogue knows the exports of a server.
type Catalogue interface {
	// Open opens the disk of an export; "" means the default one. The error is
	// shown to the client.
	Open(name string) (blockdev.Disk, error)
	// List calls f for each export that clients are told of.
	List(f func(name, description string))
}

// Config describes a server.
type Config struct {
	Env         *env.Env
	Catalogue   Catalogue
	ReadOnly    bool // all exports
	MemoryBytes int  // for payloads; 0 = MemoryDefault
	Connections int  // at most; 0 = ConnectionsDefault
	// TLS says what is offered. StartTLS takes over a stream whose client wants
	// it; the client's further conversation goes to AcceptTLS.
	TLS      nbdproto.TLS
	StartTLS func(s env.Stream, h *nbdproto.Handshake)
	// Empty, if set, is called when the last client has left.
	Empty func()
}

// Server serves disks over any number of listeners.
type Server struct {
	config  Config
	log     *slog.Logger
	pool    *pinned.Pool
	exports map[string]*export // open ones, by the name of their disk
	conns   map[*conn]struct{}
	// Connections that wait for memory, in order.
	waiting  []*conn
	wakeTask env.Task
	relief   env.Timer
	idle     func() // of Shutdown: no new clients; called when there are none
}

// export is an open disk and who uses it.
type export struct {
	name  string
	disk  blockdev.Disk
	users int
}

// NewServer makes a server that listens nowhere yet.
func NewServer(c Config) (*Server, error) {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = MemoryDefault
	}
	if c.Connections == 0 {
		c.Connections = ConnectionsDefault
	}
	if c.MemoryBytes < memoryShare*MaxPayload {
		return nil, fmt.Errorf("memory for payloads: at least %d MiB are needed", memoryShare*MaxPayload>>20)
	}
	pool, err := pinned.NewPool("nbd payloads", c.MemoryBytes)
	if err != nil {
		return nil, fmt.Errorf("memory for payloads: %w", err)
	}
	s := &Server{config: c, log: c.Env.Log, pool: pool, exports: map[string]*export{}, conns: map[*conn]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.wakeTask.Run, s.relief.Fire = s.wake, s.relieve
	return s, nil
}

// Accept begins to serve a client; it is meant for env.Net.Listen.
func (s *Server) Accept(stream env.Stream) env.StreamHandler {
	from := "a unix socket"
	if a := stream.RemoteAddr(); a.IsValid() {
		from = a.String()
	}
	return s.accept(stream, from, nil)
}

// AcceptTLS serves a client inside of TLS, after the handshake h that StartTLS
// was given.
func (s *Server) AcceptTLS(stream env.Stream, from string, h *nbdproto.Handshake) env.StreamHandler {
	return s.accept(stream, from, h)
}

func (s *Server) accept(stream env.Stream, from string, inside *nbdproto.Handshake) env.StreamHandler {
	if s.idle != nil || len(s.conns) >= s.config.Connections {
		s.log.Warn("a client is refused: too many connections", "from", from, "limit", s.config.Connections)
		return nil
	}
	c := newConn(s, stream, from, inside)
	s.conns[c] = struct{}{}
	return c
}

// AcceptDevice serves the kernel's end of a device: requests of the default
// export, without a handshake.
func (s *Server) AcceptDevice(stream env.Stream) env.StreamHandler {
	c := &conn{s: s, stream: stream, from: "the kernel"}
	c.retries.Run = c.retry
	x, err := c.Find("")
	if err != nil {
		s.log.Error("device", "err", err)
		return nil
	}
	c.phase = transmitting
	c.session = nbdproto.Session{Export: x.Name, Flags: x.Flags, MaxPayload: x.MaxPayload}
	s.conns[c] = struct{}{}
	return c
}

// Connections is the number of clients.
func (s *Server) Connections() int { return len(s.conns) }

// Shutdown ends all connections and calls done when what they wrote is durable.
func (s *Server) Shutdown(done func()) {
	s.idle = done
	for _, c := range slices.Collect(maps.Keys(s.conns)) {
		c.drop(nil)
	}
	s.ended()
}

// Free returns the memory, after Shutdown or after the end of the loop.
func (s *Server) Free() { s.pool.Discard() }

// ended looks whether the last client has left.
func (s *Server) ended() {
	if len(s.conns) > 0 {
		return
	}
	if s.config.Empty != nil {
		s.config.Empty()
	}
	if idle := s.idle; idle != nil {
		s.idle = func() {}
		idle()
	}
}

// acquire opens an export, or joins those who use it: partial writes of all of
// them must go through one disk.
func (s *Server) acquire(name string) (*export, error) {
	x := s.exports[name]
	if x == nil {
		disk, err := s.config.Catalogue.Open(name)
		if err != nil {
			return nil, err
		}
		full := disk.Info().Name // the default export has one, too
		if x = s.exports[full]; x == nil {
			x = &export{name: full, disk: disk}
			s.exports[full] = x
		} else if x.disk != disk {
			disk.Close()
		}
	}
	x.users++
	return x, nil
}

func (s *Server) release(x *export) {
	if x.users--; x.users == 0 {
		delete(s.exports, x.name)
		x.disk.Close()
	}
}

// describe is what clients are told of an export.
func (s *Server) describe(x *export) nbdproto.Export {
	info := x.disk.Info()
	flags := nbdproto.HasFlags | nbdproto.SendFlush | nbdproto.SendFUA | nbdproto.SendDF | nbdproto.CanMultiConn
	if info.ReadOnly || s.config.ReadOnly {
		flags |= nbdproto.ReadOnly
	} else {
		flags |= nbdproto.SendTrim | nbdproto.SendWriteZeroes
	}
	return nbdproto.Export{Name: info.Name, SizeBytes: info.SizeBytes, Flags: flags,
		MinBlock: 1, PreferredBlock: info.GranuleBytes, MaxPayload: MaxPayload}
}

// memory takes buffers for n bytes, all or none.
func (s *Server) memory(bufs [][]byte, n int) ([][]byte, bool) {
	for n > 0 {
		b, ok := s.pool.Get(min(n, pinned.MaxBufferBytes))
		if !ok {
			s.giveBack(bufs)
			return bufs[:0], false
		}
		bufs = append(bufs, b)
		n -= len(b)
	}
	return bufs, true
}

func (s *Server) giveBack(bufs [][]byte) {
	for i, b := range bufs {
		s.pool.Put(b)
		bufs[i] = nil
	}
}

// turn tells whether a connection may take memory now: nobody waits for it, or
// it is the first who does.
func (s *Server) turn(c *conn) bool {
	if len(s.waiting) == 0 || s.waiting[0] == c {
		return true
	}
	s.queue(c)
	return false
}

// queue makes a connection wait for memory, if it does not do so yet.
func (s *Server) queue(c *conn) {
	if c.queued {
		return
	}
	c.queued = true
	s.waiting = append(s.waiting, c)
	if !s.relief.Armed() {
		s.config.Env.Clock.Arm(&s.relief, reliefInterval)
	}
}

// freed wakes connections that wait for memory, soon.
func (s *Server) freed() {
	if len(s.waiting) > 0 {
		s.config.Env.Exec.Defer(&s.wakeTask)
	}
}

// wake lets connections go on, in order, until one has to wait again.
func (s *Server) wake() {
	for len(s.waiting) > 0 {
		c := s.waiting[0]
		if c.retry(); len(s.waiting) > 0 && s.waiting[0] == c {
			return
		}
	}
}

const (
	reliefInterval = time.Second
	stalledMax     = 30 // times reliefInterval
)

// relieve drops clients that keep memory from others: they have not sent the
// rest of a write, or have not read a reply, for a while.
func (s *Server) relieve() {
	if len(s.waiting) == 0 {
		return
	}
	var lazy []*conn
	for c := range s.conns {
		if c.bytes == 0 || c.working > 0 || c.progress != c.seen {
			c.stalled, c.seen = 0, c.progress
		} else if c.stalled++; c.stalled == stalledMax {
			lazy = append(lazy, c)
		}
	}
	for _, c := range lazy {
		c.drop(errors.New("the client neither sends nor receives, and others need the memory"))
	}
	s.config.Env.Clock.Arm(&s.relief, reliefInterval)
}
