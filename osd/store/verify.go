package store

import (
	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store/layout"
)

// verifier checks the newest entries of one object at a time: entries are
// written in parallel with their data, so after a crash some may be without.
// Those are dropped with everything newer (spec ondisk.md §7.1 steps 6-8), and
// what is on top then is checked again.
type verifier struct {
	l     *loader
	id    meta.ObjectID
	chain layout.Chain
	refs  []ref
	n     int // suspects
	at    int // the one being read
	bad   int // oldest one that does not match, -1 = none
	buf   []byte
	op    env.DiskOp
}

// startVerify begins to verify the suspects; they stay in the list.
func (l *loader) startVerify() {
	s := l.s
	n := max(1, min(s.cfg.VerifyDepth, (64<<20)/int(s.geo.BlockBytes), l.suspects.len()))
	for range n {
		buf, err := pinned.AlignedBuffer(int(s.geo.BlockBytes))
		if err != nil {
			l.fail(err)
			l.finish()
			return
		}
		v := &verifier{l: l, buf: buf}
		v.op.Done = v.done
		l.verifiers = append(l.verifiers, v)
	}
	l.pending = len(l.verifiers)
	for _, v := range l.verifiers {
		v.next()
	}
}

// next takes the next object that needs data to be read.
func (v *verifier) next() {
	l := v.l
	for l.err == nil && l.checked < l.suspects.len() {
		v.id = *l.suspects.at(l.checked)
		l.checked++
		l.progress("verify", int64(l.checked), int64(l.suspects.len()))
		if v.start() {
			return
		}
	}
	if l.pending--; l.pending > 0 {
		return
	}
	if l.err != nil {
		l.finish()
		return
	}
	l.verified()
}

// start looks at the chain; false if nothing has to be read.
func (v *verifier) start() bool {
	s := v.l.s
	v.chain, v.refs = v.chain[:0], v.refs[:0]
	for r := s.index.head(v.id); r != 0; r = s.recs.older(r) {
		v.chain, v.refs = append(v.chain, s.recs.entry(r)), append(v.refs, r)
	}
	v.n = v.chain.Suspects(v.l.completed)
	if s.cached && v.n > 0 && v.chain.SuspectRedirect(v.l.completed) >= 0 {
		v.n++
	}
	v.at, v.bad = -1, -1
	return v.read()
}

// read reads the data of the next suspect; false if there is none.
func (v *verifier) read() bool {
	s := v.l.s
	for v.at++; v.at < v.n; v.at++ {
		e := v.chain[v.at]
		offset, n := e.Range()
		if n == 0 {
			continue
		}
		if v.redirect() {
			offset, n = 0, s.geo.BlockBytes
		}
		if e.Type() == layout.IntentWrite && v.chain.Base(v.at) == nil {
			return false // the rules of chains will say so
		}
		dev, at := s.locate(v.refs[v.at], offset)
		v.op.Kind, v.op.Offset, v.op.Buf = env.DiskRead, at, v.buf[:n]
		dev.disk.Submit(&v.op)
		return true
	}
	return false
}

// redirect tells whether the current suspect is under a run of small writes.
func (v *verifier) redirect() bool { return v.at > 0 && v.chain[v.at].Type() == layout.BigIntent }

func (v *verifier) done(op *env.DiskOp) {
	l, g := v.l, &v.l.s.geo
	e := v.chain[v.at]
	match := true
	switch {
	case op.Err != nil:
		// Not known to be unfinished: it stays, and reads report the error.
		if l.s.env.Log != nil {
			l.s.env.Log.Error("data of a write cannot be read: the device is damaged", "entry", e.String(), "offset", op.Offset, "err", op.Err)
		}
	case v.redirect():
		match = g.RedirectMatches(v.chain, v.at, op.Buf)
	default:
		match = g.VerifyWrite(e, op.Buf)
	}
	if !match {
		v.bad = v.at
	}
	if v.read() {
		return
	}
	if v.bad >= 0 && !v.chain.KeepsMismatch(g, !l.s.cached) {
		v.drop()
		if v.start() { // what is on top now may have to be verified, too
			return
		}
	}
	v.next()
}

// drop takes the oldest entry that does not match and all newer ones out of
// the chain. They leave the disk in two passes: the newer ones first, so that
// a crash in between cannot bring them back without it (spec §7.3, D8).
func (v *verifier) drop() {
	l, s := v.l, v.l.s
	invariant.Sometimes("store: an unfinished write is dropped at start-up")
	if v.bad > 0 {
		invariant.Sometimes("store: several entries of an object are dropped at start-up")
	}
	if s.env.Log != nil {
		s.env.Log.Info("unfinished write is dropped", "entry", v.chain[v.bad].String(), "newer", v.bad)
	}
	if v.bad+1 == len(v.refs) {
		s.index.remove(v.id)
	} else {
		slot := s.index.find(v.id)
		*slot = *slot&^(1<<32-1) | uint64(v.refs[v.bad+1])
	}
	for i := range v.bad {
		l.pass[0][s.recs.block(v.refs[i])] = true
		l.forget(v.refs[i])
	}
	last := v.refs[v.bad]
	s.recs.set(last, flagDead)
	l.pass[1][s.recs.block(last)] = true
	l.oldest = append(l.oldest, last)
}
