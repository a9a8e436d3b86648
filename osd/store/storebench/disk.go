package storebench

import "vitastor/internal/env"

// diskCount is what was submitted to a disk.
type diskCount struct {
	reads, writes, syncs, discards int64
	readBytes, writeBytes          int64
}

func (c diskCount) minus(d diskCount) diskCount {
	return diskCount{c.reads - d.reads, c.writes - d.writes, c.syncs - d.syncs, c.discards - d.discards,
		c.readBytes - d.readBytes, c.writeBytes - d.writeBytes}
}

// countedDisk is a disk that counts what it is asked for.
type countedDisk struct {
	env.Disk
	n diskCount
}

// Submit implements env.Disk.
func (d *countedDisk) Submit(op *env.DiskOp) {
	switch op.Kind {
	case env.DiskRead:
		d.n.reads++
		d.n.readBytes += op.Bytes()
	case env.DiskWrite:
		d.n.writes++
		d.n.writeBytes += op.Bytes()
	case env.DiskSync:
		d.n.syncs++
	case env.DiskDiscard:
		d.n.discards++
	}
	d.Disk.Submit(op)
}
