package store

import "vitastor/internal/env"

// device is one of the up to three disks. On a disk with a volatile cache it
// counts writes, so that everybody can wait for exactly the writes that matter
// to him: a sync makes durable what was complete when it was submitted, and
// nothing else (spec ondisk.md §12, D6 and D7).
type device struct {
	s       *Store
	disk    env.Disk
	cached  bool
	done    uint64 // writes completed
	synced  uint64 // of these, durable
	capture uint64 // what the running sync will make durable
	syncing bool
	op      env.DiskOp
	waiters opQueue // by syncTarget, ascending
}

// wrote counts a completed write.
func (d *device) wrote() {
	if d.cached {
		d.done++
	}
}

// clean tells whether everything completed is durable.
func (d *device) clean() bool { return d.synced >= d.done }

// wait lets op continue (see Store.run) when all writes completed until now
// are durable; false if they are already.
func (d *device) wait(op *Op) bool {
	if d.clean() || d.s.failed != nil {
		return false
	}
	op.syncTarget = d.done
	d.waiters.push(op)
	d.startSync()
	return true
}

func (d *device) startSync() {
	if d.syncing || d.clean() || d.s.failed != nil {
		return
	}
	d.syncing, d.capture = true, d.done
	d.op.Kind = env.DiskSync
	d.s.counters.DiskSyncs++
	d.s.ioStart()
	d.disk.Submit(&d.op)
}

func (d *device) syncDone(op *env.DiskOp) {
	d.syncing = false
	if op.Err != nil {
		d.s.fatal("sync", d, 0, 0, op.Err)
	} else {
		d.synced = d.capture
	}
	for op := d.waiters.first; op != nil && (op.syncTarget <= d.synced || d.s.failed != nil); op = d.waiters.first {
		d.waiters.pop()
		d.s.ready(op)
	}
	if d.waiters.first != nil {
		d.startSync()
	}
	d.s.roundStep()
	d.s.ioEnd()
}
