package ublk

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/ublk/ublkproto"
	"vitastor/internal/invariant"
	"vitastor/internal/pinned"
	"vitastor/internal/sys"
	"vitastor/internal/uring"
)

// Kernel is the driver ublk_drv of a host, and what else of it is needed, or a
// test's.
type Kernel interface {
	// Load loads the module, if it is not there.
	Load() error
	// Do executes a control command and waits for its end, from any goroutine.
	// The error of the driver is a syscall.Errno.
	Do(c *Call) error
	// Devices are the numbers of all /dev/ublkcN, in order.
	Devices() []uint32
	// Usable tells whether /dev/ublkcN can be opened.
	Usable(device uint32) error
	// Open opens /dev/ublkcN for a server on the calling thread.
	Open(i ublkproto.DevInfo, legacy bool) (Channel, error)
	// InUse tells whether somebody holds /dev/ublkbN, or a partition of it.
	InUse(device uint32) (bool, error)
	// LookAt makes the driver look at requests that have taken so long: it notices
	// only then that a server is dead which had requests of all tags.
	LookAt(device uint32, after time.Duration) error
	Alive(pid int) bool
	CommandLine(pid int) []string
	Kill(pid int) error
	// Privileged tells whether we are root.
	Privileged() bool
}

// Call is a control command.
type Call struct {
	Command ublkproto.Control
	Legacy  bool // without the encoding of ioctls
	Device  uint32
	Data    uint64
	Path    string // of /dev/ublkcN; only for devices without privileges, and GetDevInfo2
	Memory  []byte // what the command reads, and writes
}

const (
	controlPath = "/dev/ublk-control"
	// callBytes is the memory of a call: a path and a structure.
	callBytes = 4096
)

// charPath is where a device meets its server, blockPath where it meets its
// users.
func charPath(device uint32) string  { return "/dev/ublkc" + strconv.FormatUint(uint64(device), 10) }
func blockPath(device uint32) string { return "/dev/ublkb" + strconv.FormatUint(uint64(device), 10) }

// deviceNumber reads /dev/ublkbN, /dev/ublkcN or N.
func deviceNumber(text string) (uint32, error) {
	digits := strings.TrimPrefix(text, "/dev/")
	digits = strings.TrimPrefix(strings.TrimPrefix(digits, "ublkb"), "ublkc")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a ublk device: write /dev/ublkbN, or N", text)
	}
	return uint32(n), nil
}

// Host is the kernel of this host.
type Host struct{}

// Load implements Kernel. modprobe knows everything about modules that
// administrators may have configured.
func (Host) Load() error {
	if _, err := os.Stat("/sys/module/ublk_drv"); err == nil {
		return nil
	}
	if _, err := os.Stat(controlPath); err == nil { // of a container, for example
		return nil
	}
	out, err := exec.Command("modprobe", "ublk_drv").CombinedOutput()
	if err == nil {
		return nil
	}
	why := strings.TrimSpace(err.Error() + " " + string(out))
	return fmt.Errorf("the kernel module ublk_drv cannot be loaded (modprobe ublk_drv: %s): run as root, on Linux 6.1 or newer with the module; "+
		"vitastor-nbd works with other kernels", why)
}

// Do implements Kernel. The driver never blocks whoever submits a command, so
// the thread waits for its completion.
func (Host) Do(c *Call) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := sys.OpenDevice(controlPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: is the kernel module ublk_drv loaded? (modprobe ublk_drv)", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: run as root, or let a udev rule give you the device, see docs/usage/vitastor-ublk.md", err)
	case err != nil:
		return err
	}
	defer sys.Close(fd)
	ring, err := uring.New(uring.Options{Entries: 1, SQE128: true})
	if err != nil {
		return fmt.Errorf("ublk needs io_uring: %w (look at sysctl kernel.io_uring_disabled)", err)
	}
	defer ring.Close()
	memory, err := pinned.AlignedBuffer(callBytes)
	if err != nil {
		return err
	}
	defer pinned.Free(memory)
	return call(ring, fd, c, memory)
}

// call sends a command and copies its memory there and back.
func call(ring *uring.Ring, fd int, c *Call, memory []byte) error {
	var path uint16
	if c.Path != "" {
		path = uint16(len(c.Path) + 1)
		copy(memory, c.Path)
	}
	n := int(path) + len(c.Memory)
	invariant.Must(n <= len(memory), "ublk: too much memory for one command")
	copy(memory[path:], c.Memory)
	sqe := ring.SQE()
	sqe.PrepCommand(fd, c.Command.Opcode(c.Legacy))
	command := ublkproto.ControlCommand{Device: c.Device, Data: c.Data, Path: path}
	if n > 0 {
		command.Address, command.Length = sys.Address(memory), uint16(n)
	}
	command.Put(ring.Command(sqe))
	if e := ring.Wait(1); e != 0 {
		return fmt.Errorf("io_uring: %w", e)
	}
	var done [1]uring.CQE
	ring.Drain(done[:])
	if done[0].Res < 0 {
		return syscall.Errno(-done[0].Res)
	}
	copy(c.Memory, memory[path:])
	return nil
}

// Devices implements Kernel.
func (Host) Devices() (list []uint32) {
	paths, _ := filepath.Glob("/dev/ublkc*")
	for _, path := range paths {
		if n, err := deviceNumber(path); err == nil {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// Usable implements Kernel.
func (Host) Usable(device uint32) error { return sys.MayReadWrite(charPath(device)) }

// InUse implements Kernel.
func (Host) InUse(device uint32) (bool, error) { return sys.BlockInUse(blockPath(device)) }

// LookAt implements Kernel. What the kernel calls a timeout is none here: requests
// go on.
func (Host) LookAt(device uint32, after time.Duration) error {
	path := fmt.Sprintf("/sys/block/%s/queue/io_timeout", filepath.Base(blockPath(device)))
	return os.WriteFile(path, strconv.AppendInt(nil, after.Milliseconds(), 10), 0)
}

// Alive implements Kernel.
func (Host) Alive(pid int) bool { return sys.Alive(pid) }

// CommandLine implements Kernel.
func (Host) CommandLine(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// Kill implements Kernel.
func (Host) Kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// Privileged implements Kernel.
func (Host) Privileged() bool { return os.Geteuid() == 0 }

// channel is a Channel to the real driver.
type channel struct {
	fd            int
	ring          *uring.Ring
	descriptors   [][]byte
	fetch, commit uint32 // opcodes
}

// Open implements Kernel.
func (Host) Open(i ublkproto.DevInfo, legacy bool) (Channel, error) {
	fd, err := sys.OpenDevice(charPath(i.Device))
	if err != nil {
		return nil, err
	}
	c := &channel{fd: fd, fetch: ublkproto.Fetch.Opcode(legacy), commit: ublkproto.CommitAndFetch.Opcode(legacy)}
	for q := range int(i.Queues) {
		m, err := sys.MapShared(fd, ublkproto.DescriptorOffset(q), i.DescriptorBytes(), true, false)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("%s: the requests of queue %d cannot be mapped: %w", charPath(i.Device), q, err)
		}
		c.descriptors = append(c.descriptors, m)
	}
	if c.ring, err = uring.New(uring.Options{Entries: 1 << bits.Len(uint(i.Tags()-1))}); err != nil {
		c.Close()
		return nil, fmt.Errorf("ublk needs io_uring: %w (look at sysctl kernel.io_uring_disabled)", err)
	}
	if err = c.ring.RegisterFiles([]int32{int32(fd)}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// FD implements Channel.
func (c *channel) FD() int { return c.ring.Fd() }

// Descriptors implements Channel.
func (c *channel) Descriptors(queue int) []byte { return c.descriptors[queue] }

// Fetch implements Channel.
func (c *channel) Fetch(queue, tag uint16, user uint64, buf []byte) {
	c.put(c.fetch, queue, tag, user, 0, buf)
}

// Commit implements Channel.
func (c *channel) Commit(queue, tag uint16, user uint64, result int32, buf []byte) {
	c.put(c.commit, queue, tag, user, result, buf)
}

func (c *channel) put(opcode uint32, queue, tag uint16, user uint64, result int32, buf []byte) {
	sqe := c.ring.SQE()
	invariant.Must(sqe != nil, "ublk: more commands than tags")
	sqe.PrepCommand(0, opcode) // the first registered file
	sqe.Flags, sqe.UserData = uring.SQEFixedFile, user
	ublkproto.PutIOCommand(c.ring.Command(sqe), queue, tag, result, sys.Address(buf))
}

// Submit implements Channel.
func (c *channel) Submit() syscall.Errno { return c.ring.Submit() }

// Drain implements Channel.
func (c *channel) Drain(out []uring.CQE) int { return c.ring.Drain(out) }

// Close implements Channel. DEL_DEV waits for it: the driver knows nothing of a
// server that only stops to ask.
func (c *channel) Close() {
	for _, m := range c.descriptors {
		sys.Unmap(m)
	}
	if c.ring != nil {
		c.ring.Close()
	}
	sys.Close(c.fd)
}
