package ublk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"vitastor/frontends/ublk/ublkproto"
)

// control speaks to the driver in its words.
type control struct {
	kernel   Kernel
	legacy   bool // it is older than Linux 6.4
	features ublkproto.Features
	paths    bool // name the device in every command, also of privileged devices
}

// newControl asks for the features of the driver.
func newControl(k Kernel) (*control, error) {
	c := &control{kernel: k}
	memory := make([]byte, 8)
	err := k.Do(&Call{Command: ublkproto.GetFeatures, Memory: memory})
	switch {
	case isAny(err, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.ENOTTY):
		// Before 6.5. The old numbers of commands are understood by all kernels
		// that do not know this command.
		c.legacy = true
		c.features = ublkproto.UserRecovery | ublkproto.UserRecoveryReissue
		return c, nil
	case err != nil:
		return nil, explain(ublkproto.GetFeatures, 0, err)
	}
	c.features, err = ublkproto.DecodeFeatures(memory)
	return c, err
}

func isAny(err error, list ...syscall.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// add makes a device; the kernel tells what it has become.
func (c *control) add(i ublkproto.DevInfo) (ublkproto.DevInfo, error) {
	memory := i.Append(nil)
	err := c.kernel.Do(&Call{Command: ublkproto.AddDev, Legacy: c.legacy, Device: i.Device, Memory: memory})
	if err != nil {
		return i, explain(ublkproto.AddDev, i.Device, err)
	}
	return ublkproto.DecodeDevInfo(memory)
}

// info asks about a device. Kernels since 6.3 want its path.
func (c *control) info(device uint32) (i ublkproto.DevInfo, err error) {
	memory := make([]byte, ublkproto.DevInfoBytes)
	err = c.kernel.Do(&Call{Command: ublkproto.GetDevInfo2, Legacy: c.legacy, Device: device, Path: charPath(device), Memory: memory})
	if isAny(err, syscall.EOPNOTSUPP) {
		err = c.kernel.Do(&Call{Command: ublkproto.GetDevInfo, Legacy: c.legacy, Device: device, Memory: memory})
	}
	if err != nil {
		return i, explain(ublkproto.GetDevInfo2, device, err)
	}
	return ublkproto.DecodeDevInfo(memory)
}

// do executes a command on a device.
func (c *control) do(command ublkproto.Control, i *ublkproto.DevInfo, data uint64, memory []byte) error {
	call := &Call{Command: command, Legacy: c.legacy && command.Legacy(), Device: i.Device, Data: data, Memory: memory}
	if c.paths || i.Flags&ublkproto.Unprivileged != 0 {
		call.Path = charPath(i.Device)
	}
	return explain(command, i.Device, c.kernel.Do(call))
}

func (c *control) setParams(i *ublkproto.DevInfo, p ublkproto.Params) error {
	return c.do(ublkproto.SetParams, i, 0, p.Append(nil))
}

func (c *control) params(i *ublkproto.DevInfo) (p ublkproto.Params, err error) {
	memory := make([]byte, ublkproto.ParamsRoom)
	binary.LittleEndian.PutUint32(memory, ublkproto.ParamsRoom)
	if err = c.do(ublkproto.GetParams, i, 0, memory); err != nil {
		return p, err
	}
	return ublkproto.DecodeParams(memory)
}

// remove deletes a device that was stopped. With wait it is gone afterwards;
// otherwise it is when its server has closed it.
func (c *control) remove(i *ublkproto.DevInfo, wait bool) error {
	if !wait {
		err := c.do(ublkproto.DelDevAsync, i, 0, nil)
		if !isAny(err, syscall.EOPNOTSUPP, syscall.EINVAL) { // an old kernel
			return err
		}
	}
	return c.do(ublkproto.DelDev, i, 0, nil)
}

const (
	nodePatience = 5 * time.Second
	nodePause    = 10 * time.Millisecond
)

// node waits until /dev/ublkcN is there and ours: udev may have to do that.
func (c *control) node(device uint32) error {
	for began := time.Now(); ; time.Sleep(nodePause) {
		err := c.kernel.Usable(device)
		switch {
		case err == nil:
			return nil
		case time.Since(began) < nodePatience:
		case errors.Is(err, os.ErrPermission):
			return fmt.Errorf("%w: a udev rule has to give the devices of users to them, see docs/usage/vitastor-ublk.md "+
				"(root removes this one with `vitastor-ublk unmap %d`)", err, device)
		default:
			return fmt.Errorf("%w: the kernel has made the device, but it is not in /dev: is that a devtmpfs, or does udev run?", err)
		}
	}
}

// failure is an error of the driver, in words.
type failure struct {
	text  string
	errno error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.errno }

// explain says what an error of the driver means.
func explain(command ublkproto.Control, device uint32, err error) error {
	var e syscall.Errno
	if err == nil || !errors.As(err, &e) || errors.Is(err, os.ErrInvalid) {
		return err
	}
	var path *os.PathError
	if errors.As(err, &path) { // of a device, not of the driver
		return err
	}
	name := blockPath(device)
	if device == ublkproto.NewDevice {
		name = "a ublk device"
	}
	text := fmt.Sprintf("%s: %s: %v", name, command, err)
	switch {
	case e == syscall.ENODEV || e == syscall.ENOENT:
		text = name + " does not exist: `vitastor-ublk ls` lists devices"
	case e == syscall.EEXIST:
		text = name + " exists already: choose another number, or none"
	case e == syscall.EPERM || e == syscall.EACCES:
		text += ": run as root; other users need a kernel since 6.3, and access to /dev/ublk-control and to devices of their own " +
			"(see docs/usage/vitastor-ublk.md)"
		if command == ublkproto.AddDev {
			text += ", and may have as many as the parameter ublks_max of the module says"
		}
	case command == ublkproto.AddDev && e == syscall.EINVAL:
		text += ": the kernel refuses these parameters (--queue_depth, --max_io_size, --queues)"
	case command == ublkproto.AddDev && (e == syscall.ENOSPC || e == syscall.ENOMEM || e == syscall.EBUSY):
		text += ": too many devices (`vitastor-ublk ls`), or not enough memory"
	case command == ublkproto.StartUserRecovery && e == syscall.EINVAL:
		text = name + " cannot be recovered, because it was made without that: unmap it"
	case command == ublkproto.StartUserRecovery && e == syscall.EBUSY:
		text = name + " still has a server"
	case e == syscall.EOPNOTSUPP:
		text += ": the kernel is too old"
	}
	return &failure{text, err}
}
