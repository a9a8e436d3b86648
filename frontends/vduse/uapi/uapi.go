// Package uapi is the coding of linux/vduse.h: what is said to
// /dev/vduse/control and /dev/vduse/NAME. Numbers are in the byte order of the
// host.
//
//	DeviceConfig  name[256] | vendor 4 | device 4 | features 8 | queues 4 | align 4 | 0[52] | config size 4 | config
//	Region        offset 8 | start 8 | last 8 | perm 1 | 0[7]
//	ConfigData    offset 4 | length 4 | bytes
//	QueueConfig   index 4 | max size 2 | 0[26]
//	QueueInfo     index 4 | size 4 | desc 8 | driver 8 | device 8 | state 8 | ready 1 | 0[7]
//	QueueKick     index 4 | fd 4
//	state         avail 2 | 0[6]                                              split
//	              avail wrap 2 | avail 2 | used wrap 2 | used 2               packed
//	Request       type 4 | id 4 | 0[16] | index 4, or status 1, or start 8 last 8 | up to 152
//	Response      id 4 | result 4 | 0[16] | index 4 state 8 | up to 152
//
// Guarantee: what is decoded was long enough and of a known type; decoding never
// panics.
//
// Concurrency: pure functions.
package uapi

import (
	"encoding/binary"
	"fmt"
	"strings"

	"vitastor/frontends/virtio"
)

var native = binary.NativeEndian

// Requests of ioctl(2): _IO...(0x81, n). The first four are for the control
// device.
const (
	GetAPIVersion   = 0x80088100
	SetAPIVersion   = 0x40088101
	CreateDevice    = 0x41508102
	DestroyDevice   = 0x41008103
	GetRegion       = 0xc0208110 // returns a descriptor
	GetFeatures     = 0x80088111
	SetConfig       = 0x40088112
	InjectConfigIRQ = 0x00008113
	SetupQueue      = 0x40208114
	GetQueueInfo    = 0xc0308115
	SetupKick       = 0x40088116
	InjectIRQ       = 0x40048117
)

const (
	// APIVersion is what this package speaks.
	APIVersion = 0
	// NameMax is the longest name of a device.
	NameMax = 255
	// MessageBytes is the size of a Request and of a Response.
	MessageBytes = 152

	nameBytes     = 256
	configBytes   = 336
	regionBytes   = 32
	queueBytes    = 32
	infoBytes     = 48
	infoStateAt   = 32
	infoReadyAt   = 40
	messageBodyAt = 24
)

// DeviceConfig is what a device is created with.
type DeviceConfig struct {
	Name     string
	VendorID uint32
	DeviceID uint32 // of virtio: 2 = block
	Features uint64
	Queues   uint32
	Align    uint32 // of the parts of the rings, in bytes
	Config   []byte // configuration space
}

// Encode is for CreateDevice.
func (c *DeviceConfig) Encode() []byte {
	b := make([]byte, configBytes, configBytes+len(c.Config))
	copy(b[:NameMax], c.Name)
	native.PutUint32(b[256:], c.VendorID)
	native.PutUint32(b[260:], c.DeviceID)
	native.PutUint64(b[264:], c.Features)
	native.PutUint32(b[272:], c.Queues)
	native.PutUint32(b[276:], c.Align)
	native.PutUint32(b[332:], uint32(len(c.Config)))
	return append(b, c.Config...)
}

// CheckName tells what is wrong with a name: it becomes that of a file.
func CheckName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool { return !nameRune(r) })
	switch {
	case name == "" || len(name) > NameMax:
		return fmt.Errorf("a name of a device has 1 to %d characters", NameMax)
	case bad >= 0 || name == "." || name == ".." || name == "control":
		return fmt.Errorf("%q cannot be the name of a device: letters, digits and . _ - are possible, and not \"control\"", name)
	}
	return nil
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// MakeName makes a name of a device from any text.
func MakeName(text string) string {
	name := strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '_'
	}, text)
	name = name[:min(len(name), NameMax)]
	if CheckName(name) != nil {
		name = "_" + name[:min(len(name), NameMax-1)]
	}
	return name
}

// EncodeName is for DestroyDevice.
func EncodeName(name string) []byte {
	b := make([]byte, nameBytes)
	copy(b[:NameMax], name)
	return b
}

// Region is a range of I/O virtual addresses, and where it is in the file that
// GetRegion returns.
type Region struct {
	Offset      uint64
	Start, Last uint64 // both included
	Read, Write bool   // what a device may do there
}

const (
	accessRead  = 1
	accessWrite = 2
)

// Bytes is the length of the region.
func (r *Region) Bytes() uint64 { return r.Last - r.Start + 1 }

// AskRegion asks for the first region that has an address of a range.
func AskRegion(start, last uint64) []byte {
	b := make([]byte, regionBytes)
	native.PutUint64(b[8:], start)
	native.PutUint64(b[16:], last)
	return b
}

// DecodeRegion reads what the kernel made of AskRegion.
func DecodeRegion(b []byte) (r Region, err error) {
	if len(b) != regionBytes {
		return r, fmt.Errorf("an entry of the IOTLB has %d bytes", len(b))
	}
	r = Region{Offset: native.Uint64(b), Start: native.Uint64(b[8:]), Last: native.Uint64(b[16:]),
		Read: b[24]&accessRead != 0, Write: b[24]&accessWrite != 0}
	if r.Last < r.Start || r.Last-r.Start >= 1<<62 || r.Offset >= 1<<62 {
		return r, fmt.Errorf("an entry of the IOTLB is from %#x to %#x at %#x", r.Start, r.Last, r.Offset)
	}
	return r, nil
}

// EncodeConfigData is for SetConfig.
func EncodeConfigData(offset uint32, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	native.PutUint32(b, offset)
	native.PutUint32(b[4:], uint32(len(data)))
	return append(b, data...)
}

// EncodeQueue is for SetupQueue.
func EncodeQueue(index uint32, maxSize uint16) []byte {
	b := make([]byte, queueBytes)
	native.PutUint32(b, index)
	native.PutUint16(b[4:], maxSize)
	return b
}

// EncodeKick is for SetupKick; fd -1 takes it away.
func EncodeKick(index uint32, fd int32) []byte {
	b := make([]byte, 8)
	native.PutUint32(b, index)
	native.PutUint32(b[4:], uint32(fd))
	return b
}

// QueueInfo is what the driver has told about a queue.
type QueueInfo struct {
	Size                 uint32
	Desc, Driver, Device uint64 // I/O virtual addresses
	State                virtio.State
	Ready                bool
}

// AskQueue asks for a QueueInfo.
func AskQueue(index uint32) []byte {
	b := make([]byte, infoBytes)
	native.PutUint32(b, index)
	return b
}

// DecodeQueueInfo reads what the kernel made of AskQueue.
func DecodeQueueInfo(b []byte, packed bool) (q QueueInfo, err error) {
	if len(b) != infoBytes {
		return q, fmt.Errorf("information about a queue has %d bytes", len(b))
	}
	return QueueInfo{Size: native.Uint32(b[4:]), Desc: native.Uint64(b[8:]), Driver: native.Uint64(b[16:]), Device: native.Uint64(b[24:]),
		State: decodeState(b[infoStateAt:], packed), Ready: b[infoReadyAt] != 0}, nil
}

func decodeState(b []byte, packed bool) virtio.State {
	if !packed {
		avail := native.Uint16(b)
		return virtio.State{Avail: avail, Used: avail}
	}
	return virtio.State{AvailWrap: native.Uint16(b) != 0, Avail: native.Uint16(b[2:]),
		UsedWrap: native.Uint16(b[4:]) != 0, Used: native.Uint16(b[6:])}
}

func encodeState(b []byte, s virtio.State, packed bool) {
	if !packed {
		native.PutUint16(b, s.Avail)
		return
	}
	native.PutUint16(b, flag(s.AvailWrap))
	native.PutUint16(b[2:], s.Avail)
	native.PutUint16(b[4:], flag(s.UsedWrap))
	native.PutUint16(b[6:], s.Used)
}

func flag(b bool) uint16 {
	if b {
		return 1
	}
	return 0
}

// RequestType is what the kernel wants.
type RequestType uint32

// The types of requests.
const (
	GetQueueState RequestType = iota // where is queue Index?
	SetStatus                        // the driver has set Status
	UpdateIOTLB                      // addresses from Start to Last mean something else now
)

func (t RequestType) String() string {
	if t > UpdateIOTLB {
		return fmt.Sprintf("request type %d", uint32(t))
	}
	return [...]string{"get queue state", "set status", "update IOTLB"}[t]
}

// Request is a message of the kernel.
type Request struct {
	Type        RequestType
	ID          uint32
	Index       uint32
	Status      byte
	Start, Last uint64
}

// DecodeRequest reads a message. Unknown types are returned as they are: they
// must be answered with a failure.
func DecodeRequest(b []byte) (r Request, err error) {
	if len(b) != MessageBytes {
		return r, fmt.Errorf("a message of the kernel has %d bytes, not %d", len(b), MessageBytes)
	}
	r.Type, r.ID = RequestType(native.Uint32(b)), native.Uint32(b[4:])
	body := b[messageBodyAt:]
	switch r.Type {
	case GetQueueState:
		r.Index = native.Uint32(body)
	case SetStatus:
		r.Status = body[0]
	case UpdateIOTLB:
		r.Start, r.Last = native.Uint64(body), native.Uint64(body[8:])
	}
	return r, nil
}

// Response answers a Request.
type Response struct {
	ID     uint32
	Failed bool
	// For GetQueueState.
	Index  uint32
	State  virtio.State
	Packed bool
}

// Encode writes the response into b, which has MessageBytes.
func (r *Response) Encode(b []byte) {
	clear(b)
	native.PutUint32(b, r.ID)
	if r.Failed {
		native.PutUint32(b[4:], 1)
	}
	native.PutUint32(b[messageBodyAt:], r.Index)
	encodeState(b[messageBodyAt+4:], r.State, r.Packed)
}
