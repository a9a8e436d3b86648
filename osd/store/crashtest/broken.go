package crashtest

import (
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
)

// Lie is a way in which a device, or an engine that uses it carelessly, breaks
// its contract. A harness under which an engine passes on such devices would
// not notice an engine that makes the same mistake.
type Lie uint8

// The lies.
const (
	DropsSyncs      Lie = iota // syncs do nothing
	IgnoresFUA                 // writes with FUA are like others
	AnswersSync                // syncs are answered before they are done
	AnswersEarly               // writes are answered before they are done
	AnswersBigEarly            // ... those larger than a metadata block: data before metadata is lost
	LosesWrites                // some writes never happen
	SwapsSectors               // some writes of several sectors are done in two halves
)

// brokenDisk is a device that lies.
type brokenDisk struct {
	env.Disk
	e    *env.Env
	lie  Lie
	meta int // size of metadata blocks
	seen int // requests
}

// honestRequests is how many requests a device serves well before it lies:
// start-up is not what is to fail.
const honestRequests = 30

// BrokenDisks returns a Harness.Wrap.
func BrokenDisks(lie Lie, metaBlockBytes int) func(*env.Env, env.Disk) env.Disk {
	return func(e *env.Env, d env.Disk) env.Disk {
		return &brokenDisk{Disk: d, e: e, lie: lie, meta: metaBlockBytes}
	}
}

// Submit implements env.Disk.
func (d *brokenDisk) Submit(op *env.DiskOp) {
	d.seen++
	switch {
	case d.seen <= honestRequests:
		d.Disk.Submit(op)
	case op.Kind == env.DiskSync && d.lie == DropsSyncs:
		d.answer(op)
	case op.Flags&env.DiskFUA != 0 && d.lie == IgnoresFUA:
		op.Flags &^= env.DiskFUA
		d.Disk.Submit(op)
	case op.Kind == env.DiskSync && d.lie == AnswersSync:
		d.Disk.Submit(&env.DiskOp{Kind: env.DiskSync, Done: func(*env.DiskOp) {}})
		d.answer(op)
	case op.Kind == env.DiskWrite && (d.lie == AnswersEarly || d.lie == AnswersBigEarly && op.Bytes() > int64(d.meta)):
		d.later(op, op.Offset, flat(op))
		d.answer(op)
	case op.Kind == env.DiskWrite && d.lie == LosesWrites && d.e.Rand.Uint64()%8 == 0:
		d.answer(op)
	case op.Kind == env.DiskWrite && d.lie == SwapsSectors && op.Bytes() > int64(d.Info().BlockBytes):
		b := flat(op)
		half := len(b) / 2 / d.Info().BlockBytes * d.Info().BlockBytes
		d.later(op, op.Offset+int64(half), b[half:])
		d.Disk.Submit(&env.DiskOp{Kind: env.DiskWrite, Flags: op.Flags, Offset: op.Offset, Buf: aligned(b[:half]), Done: func(w *env.DiskOp) {
			pinned.Free(w.Buf)
			op.Err = w.Err
			op.Done(op)
		}})
	default:
		d.Disk.Submit(op)
	}
}

func (d *brokenDisk) answer(op *env.DiskOp) {
	op.Err = nil
	d.e.Exec.Defer(&env.Task{Run: func() { op.Done(op) }})
}

// later writes without telling anybody.
func (d *brokenDisk) later(op *env.DiskOp, off int64, b []byte) {
	d.Disk.Submit(&env.DiskOp{Kind: env.DiskWrite, Flags: op.Flags, Offset: off, Buf: aligned(b), Done: func(w *env.DiskOp) { pinned.Free(w.Buf) }})
}

func flat(op *env.DiskOp) []byte {
	if len(op.Iov) == 0 {
		return op.Buf
	}
	return slices.Concat(op.Iov...)
}

func aligned(b []byte) []byte {
	m, err := pinned.AlignedBuffer(len(b))
	if err != nil {
		panic(err)
	}
	copy(m, b)
	return m
}
