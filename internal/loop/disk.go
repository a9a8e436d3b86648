package loop

import (
	"cmp"
	"fmt"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/sys"
)

// disk implements env.Disk on a file or block device.
type disk struct {
	l        *Loop
	fd       int
	index    uint32 // in Loop.io.disks
	info     env.DiskInfo
	unit     int64 // alignment that requests must have; 1 = none
	whole    int64 // writes up to here are never torn, without asking for it
	block    bool  // block device
	memory   bool  // a file in memory: see diskIO.copyNow
	readOnly bool
	closed   bool
	inFlight int // requests submitted whose Done is still to come
}

// OpenDisk implements env.Storage.
func (l *Loop) OpenDisk(path string, o env.DiskOptions) (env.Disk, error) {
	d := &disk{l: l, readOnly: o.ReadOnly}
	if err := d.open(path, o); err != nil {
		return nil, fmt.Errorf("cannot open disk %s: %w", path, err)
	}
	l.io.addDisk(d)
	return d, nil
}

func (d *disk) open(path string, o env.DiskOptions) (err error) {
	direct := o.Mode != env.DiskCached
	fd, e := sys.OpenDisk(path, sys.OpenDiskFlags{ReadOnly: o.ReadOnly, Direct: direct, Sync: o.Mode == env.DiskDirectSync})
	switch {
	case e == syscall.EINVAL && direct:
		return fmt.Errorf("%w: its file system has no direct I/O, use cached I/O for it", e)
	case e != 0:
		return e
	}
	defer func() {
		if err != nil {
			sys.Close(fd)
		}
	}()
	if !o.NoLock {
		if err := lock(fd); err != nil {
			return err
		}
	}
	f, err := sys.ProbeDisk(fd)
	if err != nil {
		return err
	}
	d.fd, d.block, d.memory = fd, f.BlockDevice, f.Memory
	d.unit, d.whole = int64(f.BlockBytes), int64(f.PhysicalBytes)
	if !direct {
		d.unit = 1
	}
	if o.ReadOnly {
		f.DiscardGranularity = 0
	}
	d.info = env.DiskInfo{
		Path: path, SizeBytes: f.SizeBytes, BlockBytes: f.BlockBytes,
		AtomicWriteBytes:        max(f.BlockBytes, f.PhysicalBytes, f.AtomicBytes),
		DiscardGranularityBytes: f.DiscardGranularity,
		Rotational:              f.Rotational, DeviceID: f.DeviceID,
	}
	return nil
}

// lockPatience is how long a lock may outlive its process. Requests in flight
// keep a killed process's file open until the kernel is done with them; so who
// gets the lock also knows that none of them will still change the disk.
const lockPatience = 10 * time.Second

func lock(fd int) error {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		e := sys.LockExclusive(fd)
		if e == 0 {
			return nil
		}
		if e != syscall.EWOULDBLOCK {
			return fmt.Errorf("cannot lock it: %w", e)
		}
		who, alive := sys.LockHolder(fd)
		switch {
		case alive:
			return fmt.Errorf("it is in use by %s: %w", who, e)
		case time.Now().After(deadline):
			return fmt.Errorf("it is locked by a process that cannot be found (%s): "+
				"stop whatever uses it, also in other containers: %w", cmp.Or(who, "not in /proc/locks"), e)
		}
	}
}

// Info implements env.Disk.
func (d *disk) Info() env.DiskInfo { return d.info }

// Submit implements env.Disk.
func (d *disk) Submit(op *env.DiskOp) {
	invariant.Must(op.Slot&slotBusy == 0, "loop: a disk request was submitted twice")
	op.Err = d.check(op)
	d.inFlight++
	op.Slot = d.index | slotBusy
	if op.Err != nil {
		d.l.io.finished.push(op)
		return
	}
	d.l.io.waiting.push(op)
}

// check refuses what must not reach the kernel.
func (d *disk) check(op *env.DiskOp) error {
	if d.closed {
		return env.ErrDiskClosed
	}
	n := op.Bytes()
	switch {
	case op.Kind == env.DiskSync:
		return nil
	case op.Kind > env.DiskDiscard, op.Offset < 0, n < 0, n > d.info.SizeBytes, op.Offset > d.info.SizeBytes-n,
		op.Offset%d.unit != 0, n%d.unit != 0, len(op.Iov) > env.DiskIovMax:
		return syscall.EINVAL
	case d.readOnly && op.Kind != env.DiskRead:
		return syscall.EROFS
	case op.Kind == env.DiskDiscard && d.info.DiscardGranularityBytes == 0:
		return syscall.EOPNOTSUPP
	}
	return nil
}

// rwFlags are the kernel's flags for a write. Small writes are whole anyway, and
// not every kernel and file system knows the flag.
func (d *disk) rwFlags(op *env.DiskOp) (flags uint32) {
	if op.Flags&env.DiskFUA != 0 {
		flags |= sys.WriteDurable
	}
	if op.Flags&env.DiskAtomic != 0 && op.Bytes() > d.whole {
		flags |= sys.WriteAtomic
	}
	return flags
}

// Close implements env.Disk. It blocks the loop until the kernel has finished
// the requests in flight; their Done runs afterwards.
func (d *disk) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	d.l.io.drain(d)
	sys.Close(d.fd) // gives up the lock
	return nil
}

// errShort is the result of a transfer that ends before the disk does.
var errShort = syscall.EIO
