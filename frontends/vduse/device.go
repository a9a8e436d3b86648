package vduse

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"vitastor/frontends/vduse/uapi"
	"vitastor/internal/guestmem"
	"vitastor/internal/sys"
)

// device is /dev/vduse/NAME of this host.
type device struct {
	fd      int
	path    string
	message [uapi.MessageBytes]byte
}

func (d *device) FD() int { return d.fd }

func (d *device) Close() { sys.Close(d.fd) }

// failed names the device in an error of the kernel.
func (d *device) failed(what string, e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", d.path, what, e)
}

func (d *device) ioctl(what string, request uintptr, arg []byte) error {
	_, e := sys.IoctlBytes(d.fd, request, arg)
	return d.failed(what, e)
}

// Receive implements Device.
func (d *device) Receive() (r uapi.Request, ok bool, err error) {
	n, e := sys.Read(d.fd, d.message[:])
	switch {
	case e == syscall.EAGAIN:
		return r, false, nil
	case e != 0:
		return r, false, d.failed("reading a request", e)
	}
	if r, err = uapi.DecodeRequest(d.message[:n]); err != nil {
		return r, false, fmt.Errorf("%s: %w", d.path, err)
	}
	return r, true, nil
}

// Answer implements Device.
func (d *device) Answer(r uapi.Response) error {
	r.Encode(d.message[:])
	_, e := sys.Write(d.fd, d.message[:])
	return d.failed("answering a request", e)
}

// SetupQueue implements Device.
func (d *device) SetupQueue(index int, sizeMax uint16) error {
	return d.ioctl("setting up a queue", uapi.SetupQueue, uapi.EncodeQueue(uint32(index), sizeMax))
}

// Features implements Device.
func (d *device) Features() (uint64, error) {
	b := make([]byte, 8)
	err := d.ioctl("asking for features", uapi.GetFeatures, b)
	return binary.NativeEndian.Uint64(b), err
}

// Queue implements Device.
func (d *device) Queue(index int, packed bool) (q uapi.QueueInfo, err error) {
	b := uapi.AskQueue(uint32(index))
	if err := d.ioctl("asking for a queue", uapi.GetQueueInfo, b); err != nil {
		return q, err
	}
	return uapi.DecodeQueueInfo(b, packed)
}

// SetKick implements Device.
func (d *device) SetKick(index, fd int) error {
	return d.ioctl("setting an eventfd", uapi.SetupKick, uapi.EncodeKick(uint32(index), int32(fd)))
}

// Interrupt implements Device.
func (d *device) Interrupt(index int) error {
	return d.failed("interrupt", sys.IoctlWord(d.fd, uapi.InjectIRQ, uint32(index)))
}

// SetConfig implements Device. A driver that is not ready reads the configuration
// later.
func (d *device) SetConfig(config []byte) error {
	if err := d.ioctl("changing the configuration", uapi.SetConfig, uapi.EncodeConfigData(0, config)); err != nil {
		return err
	}
	if _, e := sys.IoctlBytes(d.fd, uapi.InjectConfigIRQ, nil); e != syscall.EINVAL {
		return d.failed("telling the driver about the configuration", e)
	}
	return nil
}

// Map implements Device.
func (d *device) Map(start, last uint64) (r uapi.Region, m *guestmem.Mapping, err error) {
	b := uapi.AskRegion(start, last)
	fd, e := sys.IoctlBytes(d.fd, uapi.GetRegion, b)
	switch {
	case e == syscall.EINVAL:
		return r, nil, nil
	case e != 0:
		return r, nil, d.failed("asking for memory", e)
	}
	defer sys.Close(fd)
	if r, err = uapi.DecodeRegion(b); err == nil {
		m, err = guestmem.Map(fd, r.Offset, r.Bytes(), r.Write)
	}
	if err != nil {
		return r, nil, fmt.Errorf("%s: memory at %#x: %w", d.path, r.Start, err)
	}
	return r, m, nil
}
