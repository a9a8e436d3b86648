package msgr

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/wire"
)

// Options say who we are. Zero values of durations and limits mean defaults.
type Options struct {
	// OSD is our number; 0 = a client.
	OSD meta.OSDNum
	// Store, if set, is compared with what OSDs we connect to say about
	// theirs (wire.md §4.2). OSDs set it, clients do not.
	Store *wire.StoreParams
	// Networks are preferred among the addresses of a peer that has several
	// (wire.md §4.1): osd_network for clients, osd_cluster_network for OSDs.
	Networks []netip.Prefix
	// ShowConfig makes the answer to SHOW_CONFIG. Needed to Listen.
	ShowConfig func(c *Conn, request wire.ConfigRequest) wire.ConfigReply
	Handler    Handler
	Timeouts   Timeouts
	Limits     Limits
}

// Handler is what the owner is told, on the loop.
type Handler interface {
	// Serve executes a request that has arrived completely. r belongs to the
	// handler until it calls r.Finish or r.Fail, at once or later; also when
	// the connection is lost meanwhile. Never called for PING, SHOW_CONFIG
	// and requests that are refused by their form.
	Serve(r *Request)
	// Connected: the wanted OSD c.OSD() is reachable over c.
	Connected(c *Conn)
	// ConnectFailed: no address of the wanted OSD works, the last one for
	// the given reason. It will be tried again.
	ConnectFailed(osd meta.OSDNum, reason error)
	// Disconnected: c is gone and all its Ops have completed. Called once for
	// each accepted connection, and each for which Connected was called.
	Disconnected(c *Conn, reason error)
}

// Timeouts are the options of the same names (config.md); they may change at
// any time. Values below 1 s count as 1 s, except 0.
type Timeouts struct {
	Connect         time.Duration // peer_connect_timeout: of TCP
	ConnectInterval time.Duration // peer_connect_interval: pause after all addresses failed
	Idle            time.Duration // osd_idle_timeout: silence before a PING
	Ping            time.Duration // osd_ping_timeout: silence after a PING before we give up
}

const (
	defaultTimeout = 5 * time.Second
	tickInterval   = time.Second
)

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []*time.Duration{&t.Connect, &t.ConnectInterval, &t.Idle, &t.Ping} {
		*d = max(cmp.Or(*d, defaultTimeout), time.Second)
	}
	return t
}

// Limits bound what peers can make us use.
type Limits struct {
	// Bytes for payloads and for the data of reads, of requests by clients
	// and of requests between OSDs. At least 65 MiB (one longest request).
	ClientPayloadBytes int
	PeerPayloadBytes   int
	// Requests being executed at the same time.
	ClientRequests int
	PeerRequests   int
	// RequestsPerConn being executed for one connection; also the number of
	// replies that a peer who does not read them can pile up.
	RequestsPerConn int
	// OpsPerConn is how many of our requests are in flight on a connection.
	// More wait in the order of submission.
	OpsPerConn int
	// Connections accepted; more are refused.
	Connections int
	// ListBytes is the longest payload of a request that is a list of objects.
	ListBytes int
}

// Fixed limits.
const (
	attrBytesMax = 64 << 10 // bitmap in a request; the largest real one is 32 KiB
	jsonBytesMax = 64 << 10 // text of SHOW_CONFIG, in both directions

	// SHOW_CONFIG has memory and requests of its own.
	controlBytes    = 8 << 20
	controlRequests = 1024

	pongsMax = 2 // answers to PING that wait for the peer to read
	pingsMax = 8 // PINGs of ours that the peer has not answered while we listened
	// reassuringMax is how many PINGs we send while we do not listen: enough
	// for a quarter of an hour.
	reassuringMax = 256

	// payloadStallMax is how long a payload may make no progress while others
	// wait for memory.
	payloadStallMax = 5 * time.Second
)

func (l Limits) withDefaults() Limits {
	for _, x := range []struct {
		value *int
		def   int
	}{
		{&l.ClientPayloadBytes, 256 << 20}, {&l.PeerPayloadBytes, 256 << 20},
		{&l.ClientRequests, 8192}, {&l.PeerRequests, 8192},
		{&l.RequestsPerConn, 1024}, {&l.OpsPerConn, 4096},
		{&l.Connections, 16384}, {&l.ListBytes, 32 << 20},
	} {
		*x.value = cmp.Or(*x.value, x.def)
	}
	return l
}

func (l Limits) check() error {
	least := min(l.ClientPayloadBytes, l.PeerPayloadBytes)
	longest := max(wire.MaxIOBytes, l.ListBytes) + pinned.MaxBufferBytes // the bitmap has its own
	if least < longest {
		return fmt.Errorf("memory for payloads is limited to %d bytes, but one request needs up to %d", least, longest)
	}
	if min(l.ClientRequests, l.PeerRequests, l.RequestsPerConn, l.OpsPerConn, l.Connections) < 1 {
		return fmt.Errorf("limits of messages and connections must be positive: %+v", l)
	}
	return nil
}

// checkEnv tells what the messenger needs of the world.
func checkEnv(e *env.Env) error {
	if e.Clock == nil || e.Exec == nil || e.Net == nil {
		return fmt.Errorf("messenger needs a clock, an executor and a network")
	}
	return nil
}
