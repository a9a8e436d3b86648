// Package wire is the codec of the OSD protocol, version 1: packets, payload
// rules, list items, the SHOW_CONFIG texts, error numbers and the checks a
// receiver makes before it acts. Formats and rules: spec wire.md; an overview
// in our own words: docs/PROTOCOL.md.
//
// A message is a packet of exactly 128 bytes, then its payload, then at once
// the next packet. Integers are little-endian. Every request and reply starts
// with one of
//
//	request   0        8        16       24                     128
//	          | magic  |   id   | opcode | fields of the opcode  |
//
//	reply     0        8        16       24       32            128
//	          | magic  |   id   | opcode | retval | fields       |
//
// Each layout is a plain struct with Encode(*Packet) and Decode(*Packet);
// a received stream is looked at in place with (*Packet)(buf[:PacketBytes]).
// Which struct belongs to which opcode: the table in op.go.
//
// Guarantee: Encode writes all 128 bytes, zeroes where nothing is defined, so
// that no stale memory leaves the process; Decode takes any bytes and looks
// only at defined fields; neither allocates nor fails. What can be wrong about
// a packet is told by RequestPayload, ReplyPayload and CheckReply (the stream
// cannot go on: close the connection) and the Check methods (reply an error).
//
// Pure functions on values: safe for concurrent use, as long as callers do not
// share a packet or struct that one of them writes.
package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// PacketBytes is the size of the fixed part of every message.
	PacketBytes = 128
	// ProtocolVersion is what both ends must announce in SHOW_CONFIG.
	ProtocolVersion = 1
	// MaxIOBytes is the longest read or write of one request (§1).
	MaxIOBytes = 64 << 20
	// MaxPayloadBytes is the longest payload of one message. Compat: the
	// reference counts payload bytes in a signed 32-bit variable (§1).
	MaxPayloadBytes = 1<<31 - 1
)

// Magic numbers, the first 8 bytes of a packet.
const (
	RequestMagic uint64 = 0x2bd7b10325434553 // "SEC%..."
	ReplyMagic   uint64 = 0xbaa699b87b434553 // "SEC{..."
)

// RDMA defaults (§12): bytes of one message, posted receives and sends in
// flight. The transport itself is not part of this package.
const (
	RDMAMaxMsgBytes = 129 << 10
	RDMAMaxRecv     = 16
	RDMAMaxSend     = 8
)

var le = binary.LittleEndian

// Packet is the fixed part of a message.
//
// Codecs address it only by constant ranges like p[24:32]: a field beyond the
// end of the packet does not compile.
type Packet [PacketBytes]byte

// Kind says what a packet is.
type Kind uint8

const (
	KindUnknown Kind = iota // the stream is broken: log it, close the connection
	KindRequest
	KindReply
)

func (k Kind) String() string {
	switch k {
	case KindRequest:
		return "request"
	case KindReply:
		return "reply"
	}
	return "unknown packet"
}

// Kind recognises requests and replies by their magic.
func (p *Packet) Kind() Kind {
	switch le.Uint64(p[0:8]) {
	case RequestMagic:
		return KindRequest
	case ReplyMagic:
		return KindReply
	}
	return KindUnknown
}

// ID is the number of the request; a reply repeats it.
func (p *Packet) ID() uint64 { return le.Uint64(p[8:16]) }

// SetID numbers an encoded packet. Requests get their ids when they are put on
// the wire: from 1, without gaps, one counter per connection and direction.
func (p *Packet) SetID(id uint64) { le.PutUint64(p[8:16], id) }

// Op is the opcode; a reply repeats it.
func (p *Packet) Op() Op { return Op(le.Uint64(p[16:24])) }

// Retval is the result in a reply.
func (p *Packet) Retval() Retval { return Retval(le.Uint64(p[24:32])) }

// name is how errors call the packet.
func (p *Packet) name() string {
	return fmt.Sprintf("%v %v %d", p.Op(), p.Kind(), p.ID())
}

// startRequest clears the packet and writes the header of a request.
func (p *Packet) startRequest(id uint64, op Op) {
	*p = Packet{}
	le.PutUint64(p[0:8], RequestMagic)
	le.PutUint64(p[8:16], id)
	le.PutUint64(p[16:24], uint64(op))
}

// startReply clears the packet and writes the header of a reply.
func (p *Packet) startReply(id uint64, op Op, r Retval) {
	*p = Packet{}
	le.PutUint64(p[0:8], ReplyMagic)
	le.PutUint64(p[8:16], id)
	le.PutUint64(p[16:24], uint64(op))
	le.PutUint64(p[24:32], uint64(r))
}

// HeaderOnly is a request without fields: SYNC, PING, TEST_SYNC_STAB_ALL, and
// whatever can be said about a request with an unknown opcode.
type HeaderOnly struct {
	ID uint64
	Op Op
}

// Encode writes the whole packet.
func (r *HeaderOnly) Encode(p *Packet) { p.startRequest(r.ID, r.Op) }

// Decode reads the fields of any request's header.
func (r *HeaderOnly) Decode(p *Packet) { *r = HeaderOnly{ID: p.ID(), Op: p.Op()} }

// StatusReply is a reply without fields. It answers SEC_SYNC, SEC_STABILIZE,
// SEC_ROLLBACK, SEC_READ_BMP, SHOW_CONFIG, SYNC, PING; and, with a negative
// Retval, any request (a DELETE or WRITE that fails with EINTR has a version).
type StatusReply struct {
	ID     uint64
	Op     Op
	Retval Retval
}

// Encode writes the whole packet.
func (r *StatusReply) Encode(p *Packet) { p.startReply(r.ID, r.Op, r.Retval) }

// Decode reads the fields of any reply's header.
func (r *StatusReply) Decode(p *Packet) {
	*r = StatusReply{ID: p.ID(), Op: p.Op(), Retval: p.Retval()}
}
