package crashtest

import (
	"fmt"

	"vitastor/internal/env"
)

// gate stands between an engine and a device. It counts what happens on the
// device, finds overlapping writes in flight, and closes when the process is
// killed: from then on nothing reaches the device, but everything is answered,
// so that the dead engine can be closed and gives back its memory.
type gate struct {
	rig    *rig
	number int
	disk   env.Disk
	env    *env.Env
	killed bool

	writing []*gateOp
	free    []*gateOp
}

type gateOp struct {
	g    *gate
	op   env.DiskOp
	orig *env.DiskOp
	task env.Task
}

// Info implements env.Disk.
func (g *gate) Info() env.DiskInfo { return g.disk.Info() }

// Close implements env.Disk.
func (g *gate) Close() error { return nil }

// Submit implements env.Disk.
func (g *gate) Submit(op *env.DiskOp) {
	w := g.get()
	w.orig = op
	w.op.Kind, w.op.Flags, w.op.Offset, w.op.Length, w.op.Buf, w.op.Iov = op.Kind, op.Flags, op.Offset, op.Length, op.Buf, op.Iov
	if op.Kind != env.DiskRead {
		if g.killed {
			g.env.Exec.Defer(&w.task)
			return
		}
		g.rig.activity++
	}
	if op.Kind == env.DiskWrite {
		g.noteWrite(w)
	}
	g.rig.tracef("disk %d submit %s", g.number, diskOpText(op))
	g.disk.Submit(&w.op)
}

func (g *gate) get() *gateOp {
	if n := len(g.free); n > 0 {
		w := g.free[n-1]
		g.free = g.free[:n-1]
		return w
	}
	w := &gateOp{g: g}
	w.op.Done = func(*env.DiskOp) { w.done(w.op.Err) }
	w.task.Run = func() { w.done(nil) }
	return w
}

func (g *gate) noteWrite(w *gateOp) {
	lo, hi := w.op.Offset, w.op.Offset+w.op.Bytes()
	for _, o := range g.writing {
		if o.op.Offset < hi && lo < o.op.Offset+o.op.Bytes() {
			g.rig.fail(fmt.Errorf("disk %d: %s submitted while %s is in flight: nothing orders them (ondisk.md §3.5)",
				g.number, diskOpText(&w.op), diskOpText(&o.op)))
		}
	}
	g.writing = append(g.writing, w)
}

func (w *gateOp) done(err error) {
	g, orig := w.g, w.orig
	for i, o := range g.writing {
		if o == w {
			g.writing = append(g.writing[:i], g.writing[i+1:]...)
			break
		}
	}
	if w.op.Kind != env.DiskRead {
		g.rig.activity++
	}
	if g.rig.h.log != nil && !g.killed {
		g.rig.tracef("disk %d done   %s %v", g.number, diskOpText(orig), err)
	}
	w.orig = nil
	g.free = append(g.free, w)
	orig.Err = err
	orig.Done(orig)
}

func diskOpText(op *env.DiskOp) string {
	kind := [...]string{"read", "write", "sync", "discard"}[op.Kind]
	if op.Kind == env.DiskSync {
		return kind
	}
	if op.Flags&env.DiskFUA != 0 {
		kind += " fua"
	}
	return fmt.Sprintf("%s %d+%d", kind, op.Offset, op.Bytes())
}
