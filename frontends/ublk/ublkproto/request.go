package ublkproto

import "fmt"

// Op is the operation of a request.
type Op uint8

// Operations.
const (
	OpRead        Op = 0
	OpWrite       Op = 1
	OpFlush       Op = 2
	OpDiscard     Op = 3
	OpWriteSame   Op = 4
	OpWriteZeroes Op = 5
)

// Flags of requests. They stand in the same number as the operation.
const (
	RequestFUA     uint32 = 1 << 13 // durable on completion
	RequestNoUnmap uint32 = 1 << 15 // write zeroes, do not free
)

// Results of the command of a tag.
const (
	ResultOK     = 0   // there is a request
	ResultNoMore = -19 // ENODEV: there will be none
)

// Request is struct ublksrv_io_desc.
type Request struct {
	Op     Op
	Flags  uint32
	Offset uint64 // bytes
	Bytes  uint64
}

// DecodeRequest reads a request from the shared memory. Requests up to
// requestBytes have data; ranges of others are limited by the device only.
func DecodeRequest(b []byte, requestBytes uint32) (r Request, err error) {
	if len(b) < DescriptorSize {
		return r, fmt.Errorf("ublk: a request of %d bytes, instead of %d", len(b), DescriptorSize)
	}
	word, sectors, first := le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:])
	r = Request{Op: Op(word), Flags: word &^ 0xff, Bytes: uint64(sectors) * SectorBytes}
	if r.Op == OpFlush { // is about everything; its sector is -1 when the kernel makes it by itself
		r.Bytes = 0
		return r, nil
	}
	const lastSector = 1<<63/SectorBytes - 1
	if first > lastSector || first+uint64(sectors) > lastSector {
		return r, fmt.Errorf("ublk: a request for sector %d", first)
	}
	r.Offset = first * SectorBytes
	if r.HasData() && r.Bytes > uint64(requestBytes) {
		return r, fmt.Errorf("ublk: a request with %d bytes of data, more than the %d of the device", r.Bytes, requestBytes)
	}
	return r, nil
}

// HasData tells whether the request is about memory.
func (r *Request) HasData() bool { return r.Op == OpRead || r.Op == OpWrite }

// Append adds the encoding: what the kernel does.
func (r *Request) Append(b []byte) []byte {
	b = le.AppendUint32(b, uint32(r.Op)|r.Flags)
	b = le.AppendUint32(b, uint32(r.Bytes/SectorBytes))
	b = le.AppendUint64(b, r.Offset/SectorBytes)
	return le.AppendUint64(b, 0)
}

// PutIOCommand fills in the command of a tag: result of the last request,
// address of the memory for the next one.
func PutIOCommand(b []byte, queue, tag uint16, result int32, address uint64) {
	_ = b[IOCommandBytes-1]
	le.PutUint16(b, queue)
	le.PutUint16(b[2:], tag)
	le.PutUint32(b[4:], uint32(result))
	le.PutUint64(b[8:], address)
}

// ControlCommand is what stands in the request to the ring for a Control.
type ControlCommand struct {
	Device  uint32
	Address uint64 // of its memory
	Length  uint16 // of that memory, with the path
	Data    uint64
	Path    uint16 // length of the path at the beginning of the memory; 0 = none
}

// noQueue: no command is for one queue.
const noQueue = 0xffff

// Put fills in the command.
func (c *ControlCommand) Put(b []byte) {
	_ = b[ControlBytes-1]
	le.PutUint32(b, c.Device)
	le.PutUint16(b[4:], noQueue)
	le.PutUint16(b[6:], c.Length)
	le.PutUint64(b[8:], c.Address)
	le.PutUint64(b[16:], c.Data)
	le.PutUint16(b[24:], c.Path)
}

// DecodeFeatures reads the answer of GetFeatures.
func DecodeFeatures(b []byte) (Features, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("ublk: features of %d bytes, instead of 8", len(b))
	}
	return Features(le.Uint64(b)), nil
}
