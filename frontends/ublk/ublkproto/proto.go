// Package ublkproto is the interface of the kernel's driver ublk_drv as pure
// functions: numbers of commands, what stands in them, and what the kernel
// answers (linux/ublk_cmd.h). All numbers are little endian, as on every
// machine that we run on.
//
//	control command  | device 4 | queue 2 | length 2 | address 8 | data 8 | path length 2 | 0 (6) |
//	   its memory    | path of /dev/ublkcN, with its zero | DevInfo, Params, features... |
//	request          | operation 1, flags 3 | sectors 4 | first sector 8 | address 8 |      one per tag, in shared memory
//	command of a tag | queue 2 | tag 2 | result 4 | address 8 |
//
// Guarantee: whatever the bytes are, decoding ends with a value or an error,
// never with a panic.
//
// Concurrency: functions are pure.
package ublkproto

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// SectorBytes is the unit of sizes and positions in the kernel.
const SectorBytes = 512

// Limits of the driver.
const (
	QueueDepthMax  = 4096
	QueuesMax      = 4096
	RequestMax     = 32 << 20 // bytes
	pageBytes      = 4096
	ControlBytes   = 32 // of a control command, in its request to the ring
	IOCommandBytes = 16 // of the command of a tag
	DescriptorSize = 24 // bytes of a request in shared memory
)

// Control is a command to /dev/ublk-control.
type Control uint8

// Control commands.
const (
	GetDevInfo        Control = 0x02
	AddDev            Control = 0x04
	DelDev            Control = 0x05
	StartDev          Control = 0x06
	StopDev           Control = 0x07
	SetParams         Control = 0x08
	GetParams         Control = 0x09
	StartUserRecovery Control = 0x10
	EndUserRecovery   Control = 0x11
	GetDevInfo2       Control = 0x12
	GetFeatures       Control = 0x13
	DelDevAsync       Control = 0x14
	UpdateSize        Control = 0x15
	TryStopDev        Control = 0x17
)

// String is the kernel's name.
func (c Control) String() string {
	switch c {
	case GetDevInfo:
		return "GET_DEV_INFO"
	case AddDev:
		return "ADD_DEV"
	case DelDev:
		return "DEL_DEV"
	case StartDev:
		return "START_DEV"
	case StopDev:
		return "STOP_DEV"
	case SetParams:
		return "SET_PARAMS"
	case GetParams:
		return "GET_PARAMS"
	case StartUserRecovery:
		return "START_USER_RECOVERY"
	case EndUserRecovery:
		return "END_USER_RECOVERY"
	case GetDevInfo2:
		return "GET_DEV_INFO2"
	case GetFeatures:
		return "GET_FEATURES"
	case DelDevAsync:
		return "DEL_DEV_ASYNC"
	case UpdateSize:
		return "UPDATE_SIZE"
	case TryStopDev:
		return "TRY_STOP_DEV"
	}
	return fmt.Sprintf("ublk command %#x", uint8(c))
}

// Opcode is what the ring gets: encoded as an ioctl, or, for kernels before
// 6.4, just the number.
func (c Control) Opcode(legacy bool) uint32 {
	if legacy {
		return uint32(c)
	}
	switch c {
	case GetDevInfo, GetParams, GetDevInfo2, GetFeatures, DelDevAsync:
		return ioctl(directionRead, uint8(c), ControlBytes)
	}
	return ioctl(directionRead|directionWrite, uint8(c), ControlBytes)
}

// Legacy tells whether kernels know the command by its number alone.
func (c Control) Legacy() bool { return c <= GetDevInfo2 }

// IO is a command of a tag to /dev/ublkcN.
type IO uint8

// Commands of tags.
const (
	Fetch          IO = 0x20 // wait for a request
	CommitAndFetch IO = 0x21 // here is its result; wait for the next
)

// Opcode is what the ring gets.
func (c IO) Opcode(legacy bool) uint32 {
	if legacy {
		return uint32(c)
	}
	return ioctl(directionRead|directionWrite, uint8(c), IOCommandBytes)
}

const (
	directionWrite = 1
	directionRead  = 2
	ioctlType      = 'u'
)

// ioctl encodes a command as _IOC of the kernel does.
func ioctl(direction uint32, nr uint8, size uint32) uint32 {
	return direction<<30 | size<<16 | ioctlType<<8 | uint32(nr)
}

// Features and flags of devices (UBLK_F_*).
type Features uint64

// Flags that we know.
const (
	UserRecovery        Features = 1 << 3  // the device outlives its server
	UserRecoveryReissue Features = 1 << 4  // and the next one gets what was in flight
	Unprivileged        Features = 1 << 5  // no CAP_SYS_ADMIN is needed
	IoctlEncode         Features = 1 << 6  // commands are encoded as ioctls
	SizeUpdates         Features = 1 << 10 // UpdateSize works
	SafeStop            Features = 1 << 17 // TryStopDev works
)

// State of a device.
type State uint16

// States.
const (
	Dead     State = 0 // not started, or stopped
	Live     State = 1
	Quiesced State = 2 // without a server; requests wait for the next
	FailIO   State = 3 // without a server; requests fail
)

// DevInfo is struct ublksrv_ctrl_dev_info.
type DevInfo struct {
	Queues       uint16
	Depth        uint16 // tags of a queue
	State        State
	RequestBytes uint32 // longest request
	Device       uint32 // NewDevice in AddDev: any
	ServerPID    int32
	Flags        Features
	// Mark is the server's; the kernel keeps it (ublksrv_flags).
	Mark     uint64
	OwnerUID uint32
	OwnerGID uint32
}

// NewDevice asks for any free number.
const NewDevice = ^uint32(0)

// DevInfoBytes is the length of a DevInfo.
const DevInfoBytes = 64

// Append adds the encoding.
func (i *DevInfo) Append(b []byte) []byte {
	b = le.AppendUint16(b, i.Queues)
	b = le.AppendUint16(b, i.Depth)
	b = le.AppendUint32(b, uint32(i.State)) // and 2 bytes of padding
	b = le.AppendUint32(b, i.RequestBytes)
	b = le.AppendUint32(b, i.Device)
	b = le.AppendUint64(b, uint64(uint32(i.ServerPID)))
	b = le.AppendUint64(b, uint64(i.Flags))
	b = le.AppendUint64(b, i.Mark)
	b = le.AppendUint32(b, i.OwnerUID)
	b = le.AppendUint32(b, i.OwnerGID)
	return append(b, make([]byte, 16)...)
}

// DecodeDevInfo reads what the kernel has written.
func DecodeDevInfo(b []byte) (i DevInfo, err error) {
	if len(b) < DevInfoBytes {
		return i, fmt.Errorf("ublk: device information of %d bytes, instead of %d", len(b), DevInfoBytes)
	}
	i = DevInfo{Queues: le.Uint16(b), Depth: le.Uint16(b[2:]), State: State(le.Uint16(b[4:])), RequestBytes: le.Uint32(b[8:]),
		Device: le.Uint32(b[12:]), ServerPID: int32(le.Uint32(b[16:])), Flags: Features(le.Uint64(b[24:])),
		Mark: le.Uint64(b[32:]), OwnerUID: le.Uint32(b[40:]), OwnerGID: le.Uint32(b[44:])}
	if i.Queues == 0 || i.Queues > QueuesMax || i.Depth == 0 || i.Depth > QueueDepthMax ||
		i.RequestBytes < pageBytes || i.RequestBytes > RequestMax {
		return i, fmt.Errorf("ublk: a device with %d queues of %d requests of %d bytes cannot be served", i.Queues, i.Depth, i.RequestBytes)
	}
	return i, nil
}

// Tags is the number of requests that may be in flight.
func (i *DevInfo) Tags() int { return int(i.Queues) * int(i.Depth) }

// DescriptorBytes is the length of the mapping with the requests of a queue.
func (i *DevInfo) DescriptorBytes() int { return pages(int(i.Depth) * DescriptorSize) }

// DescriptorOffset is where the mapping of a queue begins in /dev/ublkcN.
func DescriptorOffset(queue int) int64 {
	return int64(queue) * int64(pages(QueueDepthMax*DescriptorSize))
}

func pages(n int) int { return (n + pageBytes - 1) &^ (pageBytes - 1) }

// Attributes of a device (UBLK_ATTR_*).
type Attributes uint32

// Attributes that we use.
const (
	ReadOnly      Attributes = 1 << 0
	Rotational    Attributes = 1 << 1
	VolatileCache Attributes = 1 << 2 // the kernel flushes
	FUA           Attributes = 1 << 3 // single writes can be made durable
)

// Params is struct ublk_params with its parts basic and discard.
type Params struct {
	Attributes         Attributes
	LogicalShift       uint8 // log2 of bytes
	PhysicalShift      uint8
	OptimalShift       uint8
	MinimalShift       uint8
	MaxSectors         uint32 // of a request
	Sectors            uint64 // of the device
	DiscardGranularity uint32 // bytes; 0 = there is no discard
	MaxDiscardSectors  uint32
	MaxZeroesSectors   uint32
}

// ParamsBytes is what we write of struct ublk_params: up to its part discard.
// ParamsRoom has room for the later parts that kernels add.
const (
	ParamsBytes = 60
	ParamsRoom  = 256

	paramBasic   = 1 << 0
	paramDiscard = 1 << 1
)

// Append adds the encoding.
func (p *Params) Append(b []byte) []byte {
	types := uint32(paramBasic)
	segments := uint16(0)
	if p.DiscardGranularity != 0 {
		types |= paramDiscard
		segments = 1
	}
	b = le.AppendUint32(b, ParamsBytes)
	b = le.AppendUint32(b, types)
	b = le.AppendUint32(b, uint32(p.Attributes))
	b = append(b, p.LogicalShift, p.PhysicalShift, p.OptimalShift, p.MinimalShift)
	b = le.AppendUint32(b, p.MaxSectors)
	b = le.AppendUint32(b, 0) // chunk_sectors
	b = le.AppendUint64(b, p.Sectors)
	b = le.AppendUint64(b, 0) // virt_boundary_mask
	b = le.AppendUint32(b, 0) // discard_alignment
	b = le.AppendUint32(b, p.DiscardGranularity)
	b = le.AppendUint32(b, p.MaxDiscardSectors)
	b = le.AppendUint32(b, p.MaxZeroesSectors)
	b = le.AppendUint16(b, segments)
	return le.AppendUint16(b, 0)
}

// ParamsRequest is the memory of GetParams, which says how much fits.
func ParamsRequest() []byte {
	b := make([]byte, ParamsRoom)
	le.PutUint32(b, ParamsRoom)
	return b
}

// DecodeParams reads what the kernel has written.
func DecodeParams(b []byte) (p Params, err error) {
	if len(b) < ParamsBytes || le.Uint32(b[4:])&paramBasic == 0 {
		return p, fmt.Errorf("ublk: device parameters of %d bytes, instead of %d", len(b), ParamsBytes)
	}
	p = Params{Attributes: Attributes(le.Uint32(b[8:])), LogicalShift: b[12], PhysicalShift: b[13], OptimalShift: b[14],
		MinimalShift: b[15], MaxSectors: le.Uint32(b[16:]), Sectors: le.Uint64(b[24:])}
	if le.Uint32(b[4:])&paramDiscard != 0 {
		p.DiscardGranularity, p.MaxDiscardSectors, p.MaxZeroesSectors = le.Uint32(b[44:]), le.Uint32(b[48:]), le.Uint32(b[52:])
	}
	return p, nil
}
