package nbd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"vitastor/frontends/nbd/netlink"
)

// Kernel is the driver of NBD devices, or a test's.
type Kernel interface {
	// Load loads the module, if it is not there.
	Load(maxDevices, maxPart int) error
	Exists(index int) bool
	PID(index int) int
	SizeBytes(index int) uint64
	CommandLine(pid int) []string
	Processes() []int
	// Mounts is /proc/mounts.
	Mounts() string
	// Attach and the device's Run are called on one thread.
	Attach(index int, fds []int, o netlink.Options) (Device, error)
	Connect(index int, fds []int, o netlink.Options) (int, error)
	Reconfigure(index int, fds []int, o netlink.Options) error
	Resize(index int, sizeBytes uint64) error
	Disconnect(index int) error
	Detach(index int, force bool) error
}

// Device is one that Attach has set up.
type Device interface {
	Run() error
	Resize(sizeBytes uint64) error
	Disconnect() error
}

// Host is the kernel of this host.
type Host struct{ netlink.Sys }

// Load implements Kernel. modprobe knows everything about modules that
// administrators may have configured.
func (h Host) Load(maxDevices, maxPart int) error {
	if h.Loaded() {
		return nil
	}
	args := []string{"nbd", fmt.Sprintf("nbds_max=%d", maxDevices), fmt.Sprintf("max_part=%d", maxPart)}
	out, err := exec.Command("modprobe", args...).CombinedOutput()
	if err == nil {
		return nil
	}
	why := strings.TrimSpace(err.Error() + " " + string(out))
	return fmt.Errorf("the kernel module nbd cannot be loaded (modprobe %s: %s): run as root, on a kernel that has the module; "+
		"`vitastor-nbd serve` works without it", strings.Join(args, " "), why)
}

// Mounts implements Kernel. It may be empty where there is no /proc.
func (Host) Mounts() string {
	text, _ := os.ReadFile("/proc/mounts")
	return string(text)
}

// Attach implements Kernel.
func (Host) Attach(index int, fds []int, o netlink.Options) (Device, error) {
	d, err := netlink.Attach(index, fds, o)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Connect implements Kernel.
func (Host) Connect(index int, fds []int, o netlink.Options) (int, error) {
	return netlink.Connect(index, fds, o)
}

// Reconfigure implements Kernel.
func (Host) Reconfigure(index int, fds []int, o netlink.Options) error {
	return netlink.Reconfigure(index, fds, o)
}

// Resize implements Kernel.
func (Host) Resize(index int, sizeBytes uint64) error { return netlink.Resize(index, sizeBytes) }

// Disconnect implements Kernel.
func (Host) Disconnect(index int) error { return netlink.Disconnect(index) }

// Detach implements Kernel.
func (Host) Detach(index int, force bool) error { return netlink.Detach(index, force) }
