// Package msgr is the messenger of OSDs and clients: connections, framing,
// handshake, keepalive, reconnecting and back-pressure of the OSD protocol
// (spec wire.md §1, §3-§5, §10).
//
//	owner ──Submit(*Op)──▶ Conn ──▶ table of ids ──▶ Stream      requests we make
//	owner ◀──Op.Done────── Conn ◀── reply, payload in Op memory
//
//	Stream ──▶ Conn ──▶ Request from a slab ──Handler.Serve──▶ owner
//	Stream ◀── Conn ◀── Request.Finish ──────────────────────── owner   requests we serve
//
// One Messenger serves one loop. It accepts connections (Listen), keeps the
// connections to wanted OSDs alive (Want), and answers PING and SHOW_CONFIG by
// itself. What is not a legal message costs the peer its connection, and is
// logged with the reason, the address and the OSD number; it is never a panic.
//
// Guarantee: every submitted Op completes exactly once, with the reply that
// belongs to it or with EPIPE and Lost set, and its memory is not touched
// afterwards. Whatever peers do, the memory used for them stays within Limits:
// when it is used up we stop reading from whoever needs more.
//
// Requests of clients and requests of OSDs have separate memory (class.go):
// otherwise two OSDs whose memory is full of client writes would wait for each
// other for ever. PING needs no memory at all.
//
// Concurrency: everything runs on the loop of its env.Env; no locks. Callbacks
// never run inside the call that started the operation. In steady state a
// request and its reply allocate nothing on either side.
package msgr
