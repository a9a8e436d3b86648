package vduse

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/internal/env"
	"vitastor/internal/loop"
)

const (
	endLimit = 60 * time.Second // of a server that was told to end
	endRetry = 20 * time.Millisecond
)

// unmap is the command.
func (t *Tool) unmap(c *command) error {
	name, err := t.chosen(c)
	if err != nil {
		return err
	}
	s, force := t.states()[name], c.Given("force")
	switch {
	case s == nil && !t.Kernel.Exists(name):
		return fmt.Errorf("%s is not mapped: `vitastor-vduse ls` lists what is", name)
	case s == nil && !force:
		return fmt.Errorf("%s is a VDUSE device, but nothing is known of a server of ours (%s): with --force it is removed nevertheless",
			name, journalPath(name))
	}
	if block := t.Kernel.BlockDevice(name); block != "" && !force {
		who, err := t.Kernel.InUse(block)
		if err == nil && who != "" {
			err = fmt.Errorf("%s is in use: %s. Unmount it first; --force takes it away from its users, with errors", block, who)
		}
		if err != nil {
			return err
		}
	}
	if served(name) {
		return t.unmapServed(name, s)
	}
	return t.unmapDead(name)
}

// chosen is the name of the device that a command line means.
func (t *Tool) chosen(c *command) (string, error) {
	image := c.Flags["image"]
	switch {
	case c.Device != "" && image != "":
		return "", errors.New("use either a device or --image")
	case c.Device != "":
		return t.find(c.Device)
	case image == "":
		return "", errors.New("which device? Use unmap NAME, unmap /dev/vdX or unmap --image NAME; `vitastor-vduse ls` lists them")
	}
	var names []string
	for name, s := range t.states() {
		if s.Image == image {
			names = append(names, name)
		}
	}
	switch slices.Sort(names); len(names) {
	case 0:
		return "", fmt.Errorf("image %s is not mapped by vitastor-vduse: `vitastor-vduse ls` lists what is", image)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("image %s is mapped more than once: unmap one of %s", image, strings.Join(names, ", "))
}

// find takes a name, or the path of a device.
func (t *Tool) find(device string) (string, error) {
	if !strings.Contains(device, "/") {
		return device, nil
	}
	if name, ok := strings.CutPrefix(device, "/dev/vduse/"); ok {
		return name, nil
	}
	path := device
	if real, err := filepath.EvalSymlinks(device); err == nil {
		path = real
	}
	for name := range t.states() {
		if block := t.Kernel.BlockDevice(name); block == path || block == device {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s is not mapped by vitastor-vduse: `vitastor-vduse ls` lists what is", device)
}

// unmapServed detaches a device, and lets its server remove it.
func (t *Tool) unmapServed(name string, s *state) error {
	if s == nil {
		return fmt.Errorf("the server of %s is just beginning: try again", name)
	}
	if t.Kernel.Attached(name) {
		if err := t.Kernel.Detach(name); err != nil {
			return err
		}
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("the server of %s, process %d: %w", name, s.PID, err)
	}
	for end := time.Now().Add(endLimit); served(name); time.Sleep(endRetry) {
		if time.Now().After(end) {
			return fmt.Errorf("%s is detached, but its server (process %d) still writes what was cached: see `vitastor-cli status`", name, s.PID)
		}
	}
	if t.Kernel.Exists(name) {
		return fmt.Errorf("%s is detached, but its server could not remove it (see its --logfile): unmap it again", name)
	}
	return nil
}

// unmapDead removes a device without a server. Somebody has to answer the
// driver's last requests: there is an error for each.
func (t *Tool) unmapDead(name string) error {
	j, err := openJournal(name)
	if errors.Is(err, errServed) {
		return fmt.Errorf("the server of %s is just beginning or ending: try again", name)
	}
	if err != nil {
		return err
	}
	if err := t.removeDead(name, j); err != nil {
		if j.memory == nil { // it is not a device of ours
			return errors.Join(err, j.remove(name))
		}
		j.close()
		return err
	}
	return j.remove(name)
}

func (t *Tool) removeDead(name string, j *journal) error {
	if t.Kernel.Attached(name) {
		if err := t.detachDead(name, j); err != nil {
			return err
		}
	}
	if t.Kernel.Exists(name) {
		return t.Kernel.Destroy(name)
	}
	return nil
}

func (t *Tool) detachDead(name string, j *journal) error {
	device, err := t.Kernel.Open(name)
	if err != nil {
		return err
	}
	if err := j.load(); err != nil {
		t.log.Warn("requests that the dead server had cannot be answered; if there are some, this waits for ever", "err", err)
		if err := j.create(1, queueSizeDefault); err != nil {
			device.Close()
			return err
		}
	}
	l, err := loop.New(loop.Options{Log: t.log})
	if err != nil {
		device.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	defer func() { cancel(); <-ended }()

	var s *server
	err = onLoop(l, func(done func(error)) {
		var err error
		e := l.Env()
		s, err = newServer(serverConfig{loop: l, env: e, log: t.log, disk: &noDisk{exec: e.Exec}, journal: j,
			ended: func(err error) { t.log.Error("the device cannot be served", "err", err) }})
		if err != nil {
			device.Close()
		} else if err = s.resume(device); err != nil {
			s.stopQueues(s.close)
		}
		done(err)
	})
	if err != nil {
		return err
	}
	err = t.Kernel.Detach(name)
	return errors.Join(err, onLoop(l, s.end))
}

// onLoop runs f on a loop and waits until it calls done.
func onLoop(l *loop.Loop, f func(done func(error))) error {
	result := make(chan error, 1)
	if !l.Post(func() { f(func(err error) { result <- err }) }) {
		return loop.ErrStopped
	}
	return <-result
}

// noDisk is what is left of an image when its server is dead: errors.
type noDisk struct {
	exec  env.Exec
	task  env.Task
	queue []*blockdev.Request
}

// Info implements blockdev.Disk.
func (d *noDisk) Info() blockdev.Info { return blockdev.Info{Name: "a device without a server"} }

// Submit implements blockdev.Disk.
func (d *noDisk) Submit(r *blockdev.Request) {
	d.queue = append(d.queue, r)
	d.task.Run = d.fail
	d.exec.Defer(&d.task)
}

func (d *noDisk) fail() {
	failed := d.queue
	d.queue = nil
	for _, r := range failed {
		r.Err = syscall.EIO
		r.Done(r)
	}
}

// Close implements blockdev.Disk.
func (d *noDisk) Close() {}

var _ blockdev.Disk = (*noDisk)(nil)
