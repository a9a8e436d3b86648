// Package netlink is the kernel's driver of NBD devices: attaching sockets to
// /dev/nbdN by generic netlink (linux/nbd-netlink.h) and by ioctl
// (linux/nbd.h), and what sysfs tells of devices.
//
//	message    | length 4 | type 2 | flags 2 | sequence 4 | port 4 |    nlmsghdr
//	           | command 1 | version 1 | 0 2 | attributes ...           genlmsghdr
//	attribute  | length 2 | type 2 | value | padding to 4 |             nlattr
//	sockets    | 7 | | 1 | | 1 | fd 4 | ...                             nested twice
//
// Numbers are in the byte order of the host. Guarantee: errors name the device,
// and say when the module, the rights or the device are missing.
//
// Concurrency: functions block for as long as the kernel does; they may be called
// from any goroutine, except that all of Attach and Device.Run belong to one
// thread (runtime.LockOSThread): the kernel ties a device to the thread that
// sets it up.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

var native = binary.NativeEndian

// Commands of the family "nbd".
const (
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
)

// Attributes of the family "nbd".
const (
	attrIndex           = 1
	attrSizeBytes       = 2
	attrBlockBytes      = 3
	attrTimeout         = 4
	attrServerFlags     = 5
	attrClientFlags     = 6
	attrSockets         = 7
	attrDeadConnTimeout = 8
	sockItem            = 1
	sockFD              = 1
)

// Generic netlink.
const (
	headBytes    = 20 // nlmsghdr and genlmsghdr
	controlID    = 0x10
	getFamily    = 3
	familyID     = 1
	familyName   = 2
	nested       = 0x8000
	typeError    = 2
	flagRequest  = 1
	flagAck      = 4
	familyNBD    = "nbd"
	nbdVersion   = 1
	ctrlVersion  = 1
	errorMinimum = 4
)

// Flags of clients (Options.ClientFlags).
const (
	DestroyOnDisconnect uint64 = 1 << 0
	DisconnectOnClose   uint64 = 1 << 1
)

// Options are what the kernel has to know of a device.
type Options struct {
	SizeBytes       uint64
	BlockBytes      uint64
	ServerFlags     uint64 // NBD_FLAG_*
	ClientFlags     uint64
	TimeoutSeconds  uint64 // 0 = requests never time out
	DeadConnSeconds uint64 // how long a device waits for a new server
}

// message builds one request.
type message struct{ b []byte }

func newMessage(family uint16, command, version byte, sequence uint32) *message {
	b := make([]byte, headBytes, 256)
	native.PutUint16(b[4:], family)
	native.PutUint16(b[6:], flagRequest|flagAck)
	native.PutUint32(b[8:], sequence)
	b[16], b[17] = command, version
	return &message{b}
}

// attr appends an attribute.
func (m *message) attr(kind uint16, value []byte) {
	m.b = native.AppendUint16(m.b, uint16(4+len(value)))
	m.b = native.AppendUint16(m.b, kind)
	m.b = append(m.b, value...)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *message) u32(kind uint16, n uint32) { m.attr(kind, native.AppendUint32(nil, n)) }
func (m *message) u64(kind uint16, n uint64) { m.attr(kind, native.AppendUint64(nil, n)) }

// bytes is the finished message.
func (m *message) bytes() []byte {
	native.PutUint32(m.b, uint32(len(m.b)))
	return m.b
}

// sockets appends the list of sockets.
func (m *message) sockets(fds []int) {
	list := &message{}
	for _, fd := range fds {
		item := &message{}
		item.u32(sockFD, uint32(fd))
		list.attr(sockItem|nested, item.b)
	}
	m.attr(attrSockets|nested, list.b)
}

// connectMessage makes NBD_CMD_CONNECT, or NBD_CMD_RECONFIGURE. index < 0: the
// kernel chooses.
func connectMessage(family uint16, command byte, sequence uint32, index int, fds []int, o Options) []byte {
	m := newMessage(family, command, nbdVersion, sequence)
	if index >= 0 {
		m.u32(attrIndex, uint32(index))
	}
	m.u64(attrSizeBytes, o.SizeBytes)
	m.u64(attrBlockBytes, o.BlockBytes)
	if command == cmdConnect {
		m.u64(attrServerFlags, o.ServerFlags)
	}
	m.u64(attrClientFlags, o.ClientFlags)
	if o.TimeoutSeconds > 0 {
		m.u64(attrTimeout, o.TimeoutSeconds)
	}
	if o.DeadConnSeconds > 0 {
		m.u64(attrDeadConnTimeout, o.DeadConnSeconds)
	}
	if len(fds) > 0 {
		m.sockets(fds)
	}
	return m.bytes()
}

// sizeMessage changes nothing but the size.
func sizeMessage(family uint16, sequence uint32, index int, sizeBytes uint64) []byte {
	m := newMessage(family, cmdReconfigure, nbdVersion, sequence)
	m.u32(attrIndex, uint32(index))
	m.u64(attrSizeBytes, sizeBytes)
	return m.bytes()
}

func disconnectMessage(family uint16, sequence uint32, index int) []byte {
	m := newMessage(family, cmdDisconnect, nbdVersion, sequence)
	m.u32(attrIndex, uint32(index))
	return m.bytes()
}

func familyMessage(sequence uint32) []byte {
	m := newMessage(controlID, getFamily, ctrlVersion, sequence)
	m.attr(familyName, append([]byte(familyNBD), 0))
	return m.bytes()
}

// reply is one message of an answer.
type reply struct {
	final bool          // an acknowledgement or an error: the last message
	err   syscall.Errno // 0 = success
	attrs map[uint16][]byte
}

var errMalformed = errors.New("the kernel's answer is malformed")

// parse reads the messages of a datagram that answer a request.
func parse(b []byte, sequence uint32) (list []reply, err error) {
	for len(b) > 0 {
		if len(b) < 16 {
			return nil, errMalformed
		}
		n := int(native.Uint32(b))
		if n < 16 || n > len(b) {
			return nil, errMalformed
		}
		m := b[:n]
		b = b[min(len(b), (n+3)/4*4):]
		if native.Uint32(m[8:]) != sequence {
			continue
		}
		r, err := parseOne(m)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func parseOne(m []byte) (r reply, err error) {
	if native.Uint16(m[4:]) == typeError {
		if len(m) < 16+errorMinimum {
			return r, errMalformed
		}
		return reply{final: true, err: syscall.Errno(-int32(native.Uint32(m[16:])))}, nil
	}
	if len(m) < headBytes {
		return r, errMalformed
	}
	r.attrs = map[uint16][]byte{}
	for a := m[headBytes:]; len(a) >= 4; {
		n := int(native.Uint16(a))
		if n < 4 || n > len(a) {
			return r, errMalformed
		}
		r.attrs[native.Uint16(a[2:])&^nested] = a[4:n]
		a = a[min(len(a), (n+3)/4*4):]
	}
	return r, nil
}

// number reads an attribute of 2 or 4 bytes.
func (r *reply) number(kind uint16) (uint32, bool) {
	switch v := r.attrs[kind]; len(v) {
	case 2:
		return uint32(native.Uint16(v)), true
	case 4:
		return native.Uint32(v), true
	}
	return 0, false
}

// explain says what can be done about an error of the kernel.
func explain(what string, err error) error {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch e {
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%s: %w: run as root", what, e)
	case syscall.EBUSY:
		return fmt.Errorf("%s: %w: the device is in use; see `vitastor-nbd ls`, or let vitastor-nbd choose a free one", what, e)
	case syscall.ENOENT, syscall.ENXIO, syscall.ENODEV:
		return fmt.Errorf("%s: %w: there is no such device, or the kernel module nbd is not loaded", what, e)
	case syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT:
		return fmt.Errorf("%s: %w: this kernel has no generic netlink; use map instead of netlink-map", what, e)
	}
	return fmt.Errorf("%s: %w", what, e)
}
