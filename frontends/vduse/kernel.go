package vduse

import (
	"vitastor/frontends/vduse/uapi"
	"vitastor/internal/guestmem"
)

// Kernel is the kernel's side of VDUSE and of the vDPA bus, or a test's.
type Kernel interface {
	// Load loads the modules, those that are not there.
	Load() error
	// Create makes /dev/vduse/NAME, Destroy removes it: nobody may have it open,
	// and it must not be attached.
	Create(c uapi.DeviceConfig) error
	Destroy(name string) error
	// Exists tells whether there is /dev/vduse/NAME.
	Exists(name string) bool
	// Open opens /dev/vduse/NAME. EBUSY: another server has it.
	Open(name string) (Device, error)
	// Attach gives the device to the vDPA bus, and so to the driver of
	// virtio-blk. It returns when the block device is there, for which the
	// device must be served meanwhile. Detach is the reverse.
	Attach(name string) error
	Detach(name string) error
	// Attached tells whether the device is on the vDPA bus.
	Attached(name string) bool
	// BlockDevice is what the driver has made of the device: /dev/vdX, or "".
	BlockDevice(name string) string
	// InUse tells who uses a block device: somebody has mounted it, or a process
	// has opened it; "" = nobody.
	InUse(block string) (string, error)
}

// Device is /dev/vduse/NAME, opened. Everything but Close may be called on a
// loop: nothing blocks.
type Device interface {
	// FD is readable when there is a request.
	FD() int
	// Receive reads a request; false = there is none.
	Receive() (uapi.Request, bool, error)
	// Answer answers it.
	Answer(r uapi.Response) error
	// SetupQueue tells how long a queue may be. All must be told before the
	// device is attached.
	SetupQueue(index int, sizeMax uint16) error
	// Features are those that the driver has accepted.
	Features() (uint64, error)
	// Queue is what the driver has told about a queue.
	Queue(index int, packed bool) (uapi.QueueInfo, error)
	// SetKick makes the driver's kicks of a queue signal an eventfd.
	SetKick(index, fd int) error
	// Interrupt tells the driver to look at a queue.
	Interrupt(index int) error
	// SetConfig changes the configuration space, and tells the driver.
	SetConfig(config []byte) error
	// Map maps the first region that has an address of a range; nil = there is
	// none. The caller is the only user of the mapping.
	Map(start, last uint64) (uapi.Region, *guestmem.Mapping, error)
	Close()
}
