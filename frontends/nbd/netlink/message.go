// Package netlink is the kernel's driver of NBD devices: attaching sockets to
// /dev/nbdN by generic netlink (linux/nbd-netlink.h) and by ioctl
// (linux/nbd.h), and what sysfs tells of devices.
//
// Guarantee: errors name the device, and say when the module, the rights or the
// device are missing.
//
// Concurrency: functions block for as long as the kernel does; they may be called
// from any goroutine, except that all of Attach and Device.Run belong to one
// thread (runtime.LockOSThread): the kernel ties a device to the thread that
// sets it up.
package netlink

import (
	"errors"
	"fmt"
	"syscall"

	"vitastor/frontends/blockdev/genetlink"
)

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

// The family.
const (
	familyNBD  = "nbd"
	nbdVersion = 1
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

// addSockets appends the list of sockets.
func addSockets(m *genetlink.Message, fds []int) {
	var list genetlink.Attrs
	for _, fd := range fds {
		var item genetlink.Attrs
		item.U32(sockFD, uint32(fd))
		list.Nest(sockItem, item)
	}
	m.Nest(attrSockets, list)
}

// connectMessage makes NBD_CMD_CONNECT, or NBD_CMD_RECONFIGURE. index < 0: the
// kernel chooses.
func connectMessage(command byte, index int, fds []int, o Options) *genetlink.Message {
	m := genetlink.New(command, nbdVersion)
	if index >= 0 {
		m.U32(attrIndex, uint32(index))
	}
	m.U64(attrSizeBytes, o.SizeBytes)
	m.U64(attrBlockBytes, o.BlockBytes)
	if command == cmdConnect {
		m.U64(attrServerFlags, o.ServerFlags)
	}
	m.U64(attrClientFlags, o.ClientFlags)
	if o.TimeoutSeconds > 0 {
		m.U64(attrTimeout, o.TimeoutSeconds)
	}
	if o.DeadConnSeconds > 0 {
		m.U64(attrDeadConnTimeout, o.DeadConnSeconds)
	}
	if len(fds) > 0 {
		addSockets(m, fds)
	}
	return m
}

// sizeMessage changes nothing but the size.
func sizeMessage(index int, sizeBytes uint64) *genetlink.Message {
	m := genetlink.New(cmdReconfigure, nbdVersion)
	m.U32(attrIndex, uint32(index))
	m.U64(attrSizeBytes, sizeBytes)
	return m
}

func disconnectMessage(index int) *genetlink.Message {
	m := genetlink.New(cmdDisconnect, nbdVersion)
	m.U32(attrIndex, uint32(index))
	return m
}

// explain says what can be done about an error of the kernel.
func explain(what string, err error) error {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch e {
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%s: %w: run as root", what, err)
	case syscall.EBUSY:
		return fmt.Errorf("%s: %w: the device is in use; see `vitastor-nbd ls`, or let vitastor-nbd choose a free one", what, err)
	case syscall.ENOENT, syscall.ENXIO, syscall.ENODEV:
		return fmt.Errorf("%s: %w: there is no such device, or the kernel module nbd is not loaded", what, err)
	case syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT:
		return fmt.Errorf("%s: %w: this kernel has no generic netlink; use map instead of netlink-map", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
