package ublk

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/ublk/ublkproto"
)

const (
	stopPatience = 5 * time.Second
	// openersPatience is for udev, which looks at devices at any time.
	openersPatience = 2 * time.Second
	openersPause    = 100 * time.Millisecond
)

// unmap is the command.
func (t *Tool) unmap(c *command) error {
	control, err := newControl(t.Kernel)
	if err != nil {
		return err
	}
	device, err := t.toUnmap(c, control)
	if err != nil {
		return err
	}
	i, err := control.info(device)
	if err != nil {
		return err
	}
	control.paths = c.flag("unpriv")
	if !c.flag("force") {
		inUse, err := t.Kernel.InUse(device)
		switch {
		case inUse:
			return errInUse(device)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%w: --force unmaps anyway", err)
		}
	}
	err = t.stop(control, &i, c.flag("force"))
	if err == nil {
		err = control.remove(&i, c.flag("wait"))
	}
	if err != nil && !isAny(err, syscall.ENODEV) { // somebody else has unmapped it meanwhile
		return err
	}
	return daemon.RemoveState(stateKind, stateName(device))
}

func errInUse(device uint32) error {
	return fmt.Errorf("%s is in use: unmount it (look at `findmnt -S %[1]s`, `lsblk %[1]s`), or use --force, with which its users get I/O errors",
		blockPath(device))
}

// toUnmap is the device that the command line names.
func (t *Tool) toUnmap(c *command, control *control) (uint32, error) {
	device, given, err := c.number()
	if given || err != nil {
		return device, err
	}
	target, err := session.TargetOf(c.Command)
	if err != nil {
		return 0, errors.New("which device? Use unmap /dev/ublkbN, or unmap --image NAME (`vitastor-ublk ls` lists them)")
	}
	var found []uint32
	for _, n := range t.Kernel.Devices() {
		if i, err := control.info(n); err == nil && i.Mark == markOf(target) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("%v is not mapped here: `vitastor-ublk ls` lists what is", target)
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("%v is mapped %d times: say which device to unmap, such as %s", target, len(found), blockPath(found[0]))
}

// stop ends a device. Requests in flight are waited for; with force they are
// given up after some time, together with the server. The driver cannot be
// interrupted while it waits: not even the end of this process would come.
func (t *Tool) stop(c *control, i *ublkproto.DevInfo, force bool) error {
	ended := make(chan error, 1)
	go func() { ended <- c.stop(i, force) }()
	for patience := t.Patience; ; patience = time.Hour {
		select {
		case err := <-ended:
			return err
		case <-t.Signals:
		case <-time.After(patience):
		}
		if force {
			if err := t.kill(i); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(t.Err, "%s: waiting for requests in flight of %s, which cannot be interrupted; if the cluster does not answer, "+
			"`vitastor-ublk unmap --force %d` (meanwhile) gives them up\n", programName, blockPath(i.Device), i.Device)
	}
}

// kill ends the server of a device, if it is one of ours.
func (t *Tool) kill(i *ublkproto.DevInfo) error {
	pid := int(i.ServerPID)
	if describe(t.Kernel.CommandLine(pid)) == nil {
		return nil
	}
	if err := t.Kernel.Kill(pid); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d, which serves %s, cannot be killed: %w", pid, blockPath(i.Device), err)
	}
	return nil
}

// stop makes the driver end a device. New drivers refuse while anybody has it
// open, not only those who have it for themselves.
func (c *control) stop(i *ublkproto.DevInfo, force bool) error {
	if force || c.features&ublkproto.SafeStop == 0 {
		return c.do(ublkproto.StopDev, i, 0, nil)
	}
	for began := time.Now(); ; time.Sleep(openersPause) {
		err := c.do(ublkproto.TryStopDev, i, 0, nil)
		if !isAny(err, syscall.EBUSY) {
			return err
		}
		if time.Since(began) > openersPatience {
			return errInUse(i.Device)
		}
	}
}
