package netlink

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Requests of ioctl(2): _IO(0xab, n).
const (
	ioSetSock      = 0xab00
	ioSetBlockSize = 0xab01
	ioSetSize      = 0xab02
	ioDoIt         = 0xab03
	ioClearSock    = 0xab04
	ioClearQueue   = 0xab05
	ioDisconnect   = 0xab08
	ioSetTimeout   = 0xab09
	ioSetFlags     = 0xab0a
)

// maxSectorsKiB is what one request may have; it is what servers take at most.
const maxSectorsKiB = 32768

// Path is the name of a device.
func Path(index int) string { return "/dev/nbd" + strconv.Itoa(index) }

// Index reads "/dev/nbdN" or "N".
func Index(text string) (int, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "/dev/nbd"), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not an NBD device: write /dev/nbdN or N", text)
	}
	return int(n), nil
}

// Device is one that was set up by ioctl.
type Device struct {
	index int
	file  *os.File
	call  func(request, argument uintptr) error // ioctl, replaced in tests
}

func openDevice(index int) (*Device, error) {
	f, err := os.OpenFile(Path(index), os.O_RDWR, 0)
	if err != nil {
		return nil, explain(Path(index), err)
	}
	d := &Device{index: index, file: f}
	d.call = func(request, argument uintptr) error {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, argument); e != 0 {
			return e
		}
		return nil
	}
	return d, nil
}

// Attach sets a device up; Run then runs it, on the same thread.
func Attach(index int, fds []int, o Options) (*Device, error) {
	d, err := openDevice(index)
	if err != nil {
		return nil, err
	}
	if err := d.setUp(fds, o); err != nil {
		d.file.Close()
		return nil, explain(Path(index), err)
	}
	// Larger requests are faster; a kernel that does not allow them works too.
	_ = os.WriteFile(fmt.Sprintf("/sys/block/nbd%d/queue/max_sectors_kb", index), []byte(strconv.Itoa(maxSectorsKiB)), 0)
	return d, nil
}

// setUp takes back what it did when the kernel refuses something.
func (d *Device) setUp(fds []int, o Options) error {
	for i, fd := range fds {
		if err := d.call(ioSetSock, uintptr(fd)); err != nil {
			if i > 0 {
				d.call(ioClearSock, 0)
			}
			return err
		}
	}
	steps := []struct{ request, argument uintptr }{
		{ioSetBlockSize, uintptr(o.BlockBytes)},
		{ioSetSize, uintptr(o.SizeBytes)},
		{ioSetFlags, uintptr(o.ServerFlags)},
		{ioSetTimeout, uintptr(o.TimeoutSeconds)},
	}
	if o.TimeoutSeconds == 0 {
		steps = steps[:3]
	}
	for _, s := range steps {
		if err := d.call(s.request, s.argument); err != nil {
			d.call(ioClearSock, 0)
			return err
		}
	}
	return nil
}

// Run returns when the device was disconnected, or all sockets were closed.
func (d *Device) Run() error {
	err := d.call(ioDoIt, 0)
	d.call(ioClearQueue, 0)
	d.call(ioClearSock, 0)
	d.file.Close()
	if err != nil {
		return explain(Path(d.index), err)
	}
	return nil
}

// Resize tells the kernel that the size has changed; from any thread.
func (d *Device) Resize(sizeBytes uint64) error {
	if err := d.call(ioSetSize, uintptr(sizeBytes)); err != nil {
		return explain("resize "+Path(d.index), err)
	}
	return nil
}

// Disconnect ends Run; from any thread.
func (d *Device) Disconnect() error { return d.call(ioDisconnect, 0) }

// Detach disconnects a device of another process. With force everything is
// taken from it, in case that process is gone.
func Detach(index int, force bool) error {
	d, err := openDevice(index)
	if err != nil {
		return err
	}
	defer d.file.Close()
	if err := d.call(ioDisconnect, 0); err != nil {
		return explain("disconnect "+Path(index), err)
	}
	if force {
		d.call(ioClearQueue, 0)
		d.call(ioClearSock, 0)
	}
	return nil
}

// Sys finds devices in sysfs and processes in procfs; the zero value is this
// host's.
type Sys struct{ Root string }

func (s Sys) path(format string, args ...any) string {
	return filepath.Join("/", s.Root, fmt.Sprintf(format, args...))
}

// Loaded tells whether the module is there.
func (s Sys) Loaded() bool {
	_, err := os.Stat(s.path("sys/module/nbd"))
	return err == nil
}

// Exists tells whether there is a device with a number.
func (s Sys) Exists(index int) bool {
	_, err := os.Stat(s.path("sys/block/nbd%d", index))
	return err == nil
}

// PID is the process that serves a device; 0 = none.
func (s Sys) PID(index int) int {
	text, err := os.ReadFile(s.path("sys/block/nbd%d/pid", index))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// SizeBytes is that of a device; 0 = it is not served.
func (s Sys) SizeBytes(index int) uint64 {
	text, err := os.ReadFile(s.path("sys/block/nbd%d/size", index))
	if err != nil {
		return 0
	}
	const sector = 512
	sectors, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 54)
	return sectors * sector
}

// CommandLine is that of a process; nil = there is no such process.
func (s Sys) CommandLine(pid int) []string {
	text, err := os.ReadFile(s.path("proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// Processes lists all processes.
func (s Sys) Processes() (pids []int) {
	entries, _ := os.ReadDir(s.path("proc"))
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
