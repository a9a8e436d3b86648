package vhost

import (
	"encoding/binary"
	"fmt"
)

// A message of the vhost-user protocol, in the host's byte order:
//
//	0         4       8      12
//	| request | flags | size | payload of size bytes |
//
// File descriptors come with its first byte.

// request is the type of a message of the front-end (QEMU).
type request uint32

const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	resetOwner          request = 4
	setMemTable         request = 5
	setLogBase          request = 6
	setLogFD            request = 7
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	setVringErr         request = 14
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	setBackendFD        request = 21
	getConfig           request = 24
	setConfig           request = 25
	getInflightFD       request = 31
	setInflightFD       request = 32
	resetDevice         request = 34
	getMaxMemSlots      request = 36
	addMemReg           request = 37
	remMemReg           request = 38
)

// configChange is a message of ours, on the back-end's channel.
const configChange request = 2

// Flags of messages.
const (
	protocolVersion = 1
	versionMask     = 3
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
)

// Feature bits of the protocol itself, in GET_FEATURES.
const (
	featureLogAll           = 1 << 26
	featureProtocolFeatures = 1 << 30
)

// Protocol features.
const (
	protocolMQ         = 1 << 0
	protocolLogShmFD   = 1 << 1
	protocolReplyAck   = 1 << 3
	protocolBackendReq = 1 << 5
	protocolConfig     = 1 << 9
	protocolInflight   = 1 << 12
	protocolReset      = 1 << 13
	protocolMemSlots   = 1 << 15

	protocolOffered = protocolMQ | protocolLogShmFD | protocolReplyAck | protocolBackendReq | protocolConfig |
		protocolInflight | protocolReset | protocolMemSlots
)

// Limits.
const (
	headerBytes   = 12
	payloadMax    = 4096
	regionsMax    = 256 // memory slots
	tableRegions  = 16  // of one SET_MEM_TABLE; the protocol says 8
	regionBytes   = 32
	configDataMax = 256
)

// header is the beginning of a message.
type header struct {
	request request
	flags   uint32
	size    uint32
}

func parseHeader(b []byte) (h header, err error) {
	ne := binary.NativeEndian
	h = header{request(ne.Uint32(b)), ne.Uint32(b[4:]), ne.Uint32(b[8:])}
	switch {
	case h.flags&versionMask != protocolVersion:
		return h, fmt.Errorf("message %d is of version %d of the protocol, not %d", h.request, h.flags&versionMask, protocolVersion)
	case h.flags&flagReply != 0:
		return h, fmt.Errorf("message %d is a reply to a question that nobody asked", h.request)
	case h.size > payloadMax:
		return h, fmt.Errorf("message %d has %d bytes, more than the %d of any", h.request, h.size, payloadMax)
	}
	return h, nil
}

// appendMessage is a message with its header.
func appendMessage(b []byte, r request, flags uint32, payload []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, uint32(r))
	b = ne.AppendUint32(b, protocolVersion|flags)
	b = ne.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// payload reads fields; what is missing makes bad true, once and for all.
type payload struct {
	b   []byte
	bad bool
}

func (p *payload) take(n int) []byte {
	if p.bad || len(p.b) < n {
		p.bad = true
		return make([]byte, n)
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *payload) u16() uint16 { return binary.NativeEndian.Uint16(p.take(2)) }
func (p *payload) u32() uint32 { return binary.NativeEndian.Uint32(p.take(4)) }
func (p *payload) u64() uint64 { return binary.NativeEndian.Uint64(p.take(8)) }

// vringState is {index u32, num u32}.
type vringState struct{ index, num uint32 }

func (p *payload) vringState() vringState { return vringState{p.u32(), p.u32()} }

func (v vringState) append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, v.index)
	return binary.NativeEndian.AppendUint32(b, v.num)
}

// vringAddr is {index u32, flags u32, descriptor u64, used u64, available u64,
// log u64}: addresses in the front-end's process, but log, which is the guest's.
type vringAddr struct {
	index, flags            uint32
	desc, used, driver, log uint64
}

// vringLog is the flag of vringAddr that wants the used ring to be logged.
const vringLog = 1

func (p *payload) vringAddr() vringAddr {
	return vringAddr{p.u32(), p.u32(), p.u64(), p.u64(), p.u64(), p.u64()}
}

// vringFD is u64: bits 0-7 index, bit 8 no descriptor.
type vringFD struct {
	index uint32
	none  bool
}

func (p *payload) vringFD() vringFD {
	v := p.u64()
	return vringFD{uint32(v & 0xff), v&0x100 != 0}
}

// region is {guest address u64, size u64, user address u64, mmap offset u64}.
type region struct{ guest, size, user, offset uint64 }

func (p *payload) region() region { return region{p.u64(), p.u64(), p.u64(), p.u64()} }

// regions is {number u32, padding u32, regions}.
func (p *payload) regions() (list []region) {
	n := p.u32()
	p.u32()
	if n > tableRegions {
		p.bad = true
	}
	for i := uint32(0); i < n && !p.bad; i++ {
		list = append(list, p.region())
	}
	return list
}

// oneRegion is {padding u64, region}.
func (p *payload) oneRegion() region {
	p.u64()
	return p.region()
}

// configSpace is {offset u32, size u32, flags u32, data of size bytes}.
type configSpace struct {
	offset, size, flags uint32
	data                []byte
}

// configMigration is the flag of a write that restores a configuration.
const configMigration = 1

func (p *payload) configSpace() configSpace {
	c := configSpace{offset: p.u32(), size: p.u32(), flags: p.u32()}
	if c.size > configDataMax || c.offset > configDataMax {
		p.bad = true
		return c
	}
	c.data = p.take(int(c.size))
	return c
}

func (c configSpace) append(b []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, c.offset)
	b = ne.AppendUint32(b, c.size)
	b = ne.AppendUint32(b, c.flags)
	return append(b, c.data...)
}

// inflightArea is {size u64, offset u64, queues u16, descriptors of each u16}.
type inflightArea struct {
	size, offset       uint64
	queues, queueDescs uint16
}

func (p *payload) inflightArea() inflightArea {
	return inflightArea{p.u64(), p.u64(), p.u16(), p.u16()}
}

func (a inflightArea) append(b []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint64(b, a.size)
	b = ne.AppendUint64(b, a.offset)
	b = ne.AppendUint16(b, a.queues)
	b = ne.AppendUint16(b, a.queueDescs)
	return append(b, 0, 0, 0, 0) // the compiler's padding
}

// logArea is {size u64, offset u64}.
type logArea struct{ size, offset uint64 }

func (p *payload) logArea() logArea { return logArea{p.u64(), p.u64()} }
