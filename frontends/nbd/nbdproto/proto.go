// Package nbdproto is the server's side of the NBD protocol as pure functions:
// what bytes mean, what is answered, and the state machine of the handshake
// (fixed newstyle, structured replies, base:allocation). All numbers are big
// endian.
//
//	greeting   | "NBDMAGIC" | "IHAVEOPT" | flags 2 |            then the client's flags 4
//	option     | "IHAVEOPT" | option 4 | length 4 | data |
//	reply      | 3e889045565a9 8 | option 4 | type 4 | length 4 | data |
//	request    | 25609513 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | data of WRITE |
//	simple     | 67446698 | error 4 | cookie 8 | data of READ |
//	chunk      | 668e33ef | flags 2 | type 2 | cookie 8 | length 4 | payload |
//
// Guarantee: whatever a client sends leads to an answer or to an error that
// ends the connection, never to a panic; nothing is kept or allocated in
// proportion to what a client claims; a length is believed only within limits.
//
// Concurrency: functions are pure; a Handshake belongs to one connection.
package nbdproto

import (
	"encoding/binary"
	"syscall"
)

var be = binary.BigEndian

// Flags of an export.
const (
	HasFlags        uint16 = 1 << 0
	ReadOnly        uint16 = 1 << 1
	SendFlush       uint16 = 1 << 2
	SendFUA         uint16 = 1 << 3
	Rotational      uint16 = 1 << 4
	SendTrim        uint16 = 1 << 5
	SendWriteZeroes uint16 = 1 << 6
	SendDF          uint16 = 1 << 7
	CanMultiConn    uint16 = 1 << 8
)

// Command is the type of a request.
type Command uint16

// Commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisconnect  Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
)

// Flags of requests.
const (
	FlagFUA    uint16 = 1 << 0
	FlagNoHole uint16 = 1 << 1
	FlagDF     uint16 = 1 << 2 // do not fragment the reply
	FlagReqOne uint16 = 1 << 3 // one extent is enough
)

// Errno is an error as the protocol numbers them, which is as Linux does.
type Errno uint32

// Errors of the protocol.
const (
	EPERM     = Errno(syscall.EPERM)
	EIO       = Errno(syscall.EIO)
	ENOMEM    = Errno(syscall.ENOMEM)
	EINVAL    = Errno(syscall.EINVAL)
	ENOSPC    = Errno(syscall.ENOSPC)
	EOVERFLOW = Errno(syscall.EOVERFLOW)
	ENOTSUP   = Errno(syscall.ENOTSUP)
	ESHUTDOWN = Errno(syscall.ESHUTDOWN)
)

// ErrnoOf is the error of the protocol for one of the system.
func ErrnoOf(e syscall.Errno) Errno {
	switch e {
	case 0, syscall.EPERM, syscall.EIO, syscall.ENOMEM, syscall.EINVAL, syscall.ENOSPC, syscall.EOVERFLOW,
		syscall.ENOTSUP, syscall.ESHUTDOWN:
		return Errno(e)
	case syscall.EROFS:
		return EPERM
	case syscall.ENOENT:
		return ESHUTDOWN
	}
	return EIO
}

const (
	requestMagic    = 0x25609513
	simpleMagic     = 0x67446698
	structuredMagic = 0x668e33ef

	chunkDone = 1 // flag: the last chunk of a reply

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

// Sizes of what is sent and received.
const (
	RequestBytes     = 28
	SimpleBytes      = 16
	ChunkBytes       = 20
	DataHeaderBytes  = ChunkBytes + 8
	StatusHeadBytes  = ChunkBytes + 4
	StatusEntryBytes = 8
	// ErrorTextMax is the longest message in an error chunk.
	ErrorTextMax    = 200
	ErrorChunkBytes = ChunkBytes + 6 + ErrorTextMax
)

// Request is a request without its data.
type Request struct {
	Flags  uint16
	Type   Command
	Cookie uint64
	Offset uint64 // bytes
	Length uint32 // bytes
}

// ParseRequest reads a request. ok is false if it is none: then nothing that
// follows can be understood either.
func ParseRequest(b *[RequestBytes]byte) (r Request, ok bool) {
	r = Request{be.Uint16(b[4:]), Command(be.Uint16(b[6:])), be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint32(b[24:])}
	return r, be.Uint32(b[:]) == requestMagic
}

// Put writes a request, for clients in tests.
func (r *Request) Put(b *[RequestBytes]byte) {
	be.PutUint32(b[:], requestMagic)
	be.PutUint16(b[4:], r.Flags)
	be.PutUint16(b[6:], uint16(r.Type))
	be.PutUint64(b[8:], r.Cookie)
	be.PutUint64(b[16:], r.Offset)
	be.PutUint32(b[24:], r.Length)
}

// Payload is how many bytes follow the request.
func (r *Request) Payload() uint32 {
	if r.Type == CmdWrite {
		return r.Length
	}
	return 0
}

// Session is what was agreed upon in the handshake.
type Session struct {
	Export     string
	Flags      uint16 // of the export
	Structured bool   // replies
	Allocation bool   // base:allocation was selected
	MaxPayload uint32 // of one READ or WRITE, bytes
}

// AllocationID is the number of base:allocation.
const AllocationID = 1

// Check tells what is wrong with a request, of which everything that depends on
// the size of the export is left to others. The text is for the client.
func (s *Session) Check(r *Request) (Errno, string) {
	switch r.Type {
	case CmdRead, CmdWrite, CmdDisconnect, CmdFlush, CmdTrim, CmdWriteZeroes, CmdBlockStatus:
	default:
		return EINVAL, "unknown command"
	}
	if r.Flags&^s.allowed(r.Type) != 0 {
		return EINVAL, "a flag that this command does not take, or that was not offered"
	}
	switch {
	case s.Flags&ReadOnly != 0 && (r.Type == CmdWrite || r.Type == CmdTrim || r.Type == CmdWriteZeroes):
		return EPERM, "the export is read-only"
	case (r.Type == CmdRead || r.Type == CmdWrite) && r.Length > s.MaxPayload:
		return EOVERFLOW, "the request is longer than the maximum block size"
	case r.Type == CmdBlockStatus && !s.Allocation:
		return EINVAL, "base:allocation was not selected"
	case r.Type == CmdBlockStatus && r.Length == 0:
		return EINVAL, "block status of nothing"
	}
	return 0, ""
}

// allowed are the flags that a command may have. FUA is ignored where it means
// nothing, as the protocol asks.
func (s *Session) allowed(c Command) uint16 {
	f := FlagFUA
	switch c {
	case CmdRead:
		if s.Structured {
			f |= FlagDF
		}
	case CmdWriteZeroes:
		f |= FlagNoHole
	case CmdBlockStatus:
		f |= FlagReqOne
	}
	return f
}

// PutSimple writes a simple reply; data may follow if e is 0.
func PutSimple(b []byte, cookie uint64, e Errno) []byte {
	b = b[:SimpleBytes]
	be.PutUint32(b, simpleMagic)
	be.PutUint32(b[4:], uint32(e))
	be.PutUint64(b[8:], cookie)
	return b
}

func putChunk(b []byte, kind uint16, cookie uint64, length int) {
	be.PutUint32(b, structuredMagic)
	be.PutUint16(b[4:], chunkDone)
	be.PutUint16(b[6:], kind)
	be.PutUint64(b[8:], cookie)
	be.PutUint32(b[16:], uint32(length))
}

// PutDone writes a structured reply without content.
func PutDone(b []byte, cookie uint64) []byte {
	b = b[:ChunkBytes]
	putChunk(b, chunkNone, cookie, 0)
	return b
}

// PutData writes the head of a structured reply to a READ of length > 0 bytes,
// which follow.
func PutData(b []byte, cookie, offset uint64, length uint32) []byte {
	b = b[:DataHeaderBytes]
	putChunk(b, chunkOffsetData, cookie, 8+int(length))
	be.PutUint64(b[ChunkBytes:], offset)
	return b
}

// PutError writes a structured reply that is an error.
func PutError(b []byte, cookie uint64, e Errno, text string) []byte {
	n := copy(b[ChunkBytes+6:ErrorChunkBytes], text)
	putChunk(b, chunkError, cookie, 6+n)
	be.PutUint32(b[ChunkBytes:], uint32(e))
	be.PutUint16(b[ChunkBytes+4:], uint16(n))
	return b[:ChunkBytes+6+n]
}

// PutStatusHead writes the head of a reply to BLOCK_STATUS with so many
// entries, which follow.
func PutStatusHead(b []byte, cookie uint64, entries int) []byte {
	b = b[:StatusHeadBytes]
	putChunk(b, chunkBlockStatus, cookie, 4+entries*StatusEntryBytes)
	be.PutUint32(b[ChunkBytes:], AllocationID)
	return b
}

// AppendStatus appends an entry; what is not allocated reads as zeroes.
func AppendStatus(b []byte, bytes uint32, allocated bool) []byte {
	const holeAndZero = 3
	b = be.AppendUint32(b, bytes)
	if allocated {
		return be.AppendUint32(b, 0)
	}
	return be.AppendUint32(b, holeAndZero)
}
