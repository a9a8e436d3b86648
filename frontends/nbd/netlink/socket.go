package netlink

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"vitastor/frontends/blockdev/genetlink"
)

// patience is how long the kernel may take for an answer.
const patience = 30 * time.Second

// ErrNoFamily means that the kernel does not know NBD over netlink.
var ErrNoFamily = errors.New("the kernel does not offer NBD devices: the module nbd is not loaded or not there (modprobe nbd; " +
	"it is part of the kernel package of distributions, and missing in many containers and cloud kernels)")

// call makes a request; what says what for.
func call(what string, m *genetlink.Message) (genetlink.Answer, error) {
	a, err := genetlink.Call(familyNBD, m, patience)
	switch {
	case errors.Is(err, genetlink.ErrNoFamily):
		return nil, ErrNoFamily
	case err != nil:
		return nil, explain(what, err)
	}
	return a, nil
}

// Connect attaches sockets to device index (< 0: one that the kernel chooses),
// and returns its number.
func Connect(index int, fds []int, o Options) (int, error) {
	what := Path(index)
	if index < 0 {
		what = "a new device"
	}
	a, err := call("connect "+what, connectMessage(cmdConnect, index, fds, o))
	if err != nil {
		return index, err
	}
	if n, ok := a.Number(attrIndex); ok {
		return int(n), nil
	}
	if index < 0 {
		return index, fmt.Errorf("connect %s: %w", what, genetlink.ErrMalformed)
	}
	return index, nil
}

// Reconfigure gives a device new sockets instead of those that are dead.
func Reconfigure(index int, fds []int, o Options) error {
	_, err := call("revive "+Path(index), connectMessage(cmdReconfigure, index, fds, o))
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: either its server lives, or it was not mapped with netlink-map and --nbd_conn_timeout", err)
	}
	return err
}

// Resize tells a device that its size has changed.
func Resize(index int, sizeBytes uint64) error {
	_, err := call("resize "+Path(index), sizeMessage(index, sizeBytes))
	return err
}

// Disconnect detaches a device.
func Disconnect(index int) error {
	_, err := call("disconnect "+Path(index), disconnectMessage(index))
	return err
}
