package primary

import (
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// TestExhumeInterrupted: whenever the OSD that came back is lost again while an
// empty object is being deleted, what it had stays deleted.
func TestExhumeInterrupted(t *testing.T) {
	for _, c := range []struct {
		name   string
		scheme meta.Scheme
		parity int
		commit meta.CommitMode
	}{
		{"replicated", meta.Replicated, 0, meta.CommitAll},
		{"replicated, lazy", meta.Replicated, 0, meta.CommitNone},
		{"EC 2+1", meta.EC, 1, meta.CommitAll},
	} {
		t.Run(c.name, func(t *testing.T) {
			for delay := time.Duration(0); delay < 2*time.Millisecond; delay += 80 * time.Microsecond {
				interruptExhume(t, c.scheme, c.parity, c.commit, delay)
			}
		})
	}
}

func interruptExhume(t *testing.T, scheme meta.Scheme, parity int, commit meta.CommitMode, delay time.Duration) {
	t.Helper()
	const last = meta.OSDNum(3)
	r := newRig(t, 1, commit, int(last))
	p := r.pool(1, scheme, parity, 1, 2, last)
	u := r.user(1)
	u.write(1, 0, pattern(4096, 7))
	u.sync()
	r.crash(last)
	r.peer(p)
	u.want(wire.OK, u.beginDelete(1, 0, 0))
	u.sync()
	r.restart(last)
	r.peer(p)
	o := r.osds[p.primary]
	id, rec := o.pri.Objects(p.id).Next(meta.ObjectID{}, meta.ObjectDegraded|meta.ObjectMisplaced)
	if rec == nil {
		t.Fatal("there is nothing to recover")
	}
	done := false
	q := &Recovery{PG: p.id, OID: id, Done: func(*Recovery) { done = true }}
	o.node.Do(func(*env.Env) { o.pri.Recover(q) })
	r.w.RunFor(delay)
	r.crash(last)
	r.peer(p)
	if !r.w.RunUntil(func() bool { return done }, time.Minute) {
		t.Fatal("the recovery does not end")
	}
	r.restart(last)
	r.peer(p)
	u.read(1, 0, make([]byte, 4096))
	r.recoverAll(p)
	u.read(1, 0, make([]byte, 4096))
	if t.Failed() {
		t.Fatalf("OSD %d was lost %v after the beginning of the recovery", last, delay)
	}
}
