package pgs

import (
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
	"vitastor/osd/peering"
)

// lockRequest is one SEC_LOCK to a peer (wire.md §8).
type lockRequest struct {
	msgr.Op
	p       *pg
	osd     meta.OSDNum
	seq     uint64
	release bool
}

// sendLock tells a peer the state of the PG, or 0 to unlock it.
func (p *pg) sendLock(osd meta.OSDNum, seq uint64, state meta.PGState) {
	c := p.m.Msgr.Conn(osd)
	if c == nil { // PeerDisconnected is on its way
		p.m.step(p, peering.LockResult{OSD: osd, Seq: seq})
		return
	}
	r := &lockRequest{p: p, osd: osd, seq: seq, release: state == 0}
	q := wire.SecLock{Flags: wire.LockAcquire, Pool: uint64(p.id.Pool), PG: uint64(p.id.Num), PGState: uint64(state)}
	if r.release {
		q.Flags = wire.LockRelease
	}
	q.Encode(&r.Packet)
	r.Done = r.answered
	c.Submit(&r.Op)
}

func (r *lockRequest) answered(*msgr.Op) {
	ok := !r.Lost && (!r.Retval.Failed() || r.release && r.Retval == wire.ENOENT)
	if !ok && !r.Lost {
		var q wire.SecLockReply
		q.Decode(&r.Reply)
		r.p.m.log.Debug("PG is not locked", "pg", r.p.id.String(), "osd", uint64(r.osd),
			"err", r.Retval.String(), "primary", uint64(q.CurPrimary))
	}
	r.p.m.step(r.p, peering.LockResult{OSD: r.osd, Seq: r.seq, OK: ok})
}
