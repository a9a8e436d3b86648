package nbd

import (
	"syscall"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/env"
)

// slot is a request in flight, and its memory.
type slot struct {
	c    *conn
	next *slot // while idle
	q    nbdproto.Request
	r    blockdev.Request
	bufs [][]byte // payload, from the pool

	head   [nbdproto.ErrorChunkBytes]byte
	status []byte
	parts  [][]byte
	reply  env.SendOp
}

// slot takes an idle slot; nil = all are in use.
func (c *conn) slot() *slot {
	sl := c.free
	switch {
	case sl != nil:
		c.free, sl.next = sl.next, nil
	case c.slots == slotsMax:
		return nil
	default:
		c.slots++
		sl = &slot{c: c}
		sl.r.Done = func(*blockdev.Request) { sl.finish() }
		sl.reply.Done = func(*env.SendOp, error) { sl.c.replied(sl) }
	}
	c.inFlight++
	return sl
}

// put makes a slot idle and gives its memory back.
func (c *conn) put(sl *slot) {
	if len(sl.bufs) > 0 {
		for _, b := range sl.bufs {
			c.bytes -= len(b)
		}
		c.s.giveBack(sl.bufs)
		sl.bufs = sl.bufs[:0]
		c.s.freed()
	}
	sl.r.Iov = nil
	sl.next, c.free = c.free, sl
	c.inFlight--
}

// replied runs when a reply was sent, or cannot be.
func (c *conn) replied(sl *slot) {
	c.put(sl)
	c.progress++
	switch {
	case c.phase == dead:
		c.end()
	case c.phase == leaving && c.inFlight == 0:
		c.drop(nil)
	case c.blocked:
		c.s.config.Env.Exec.Defer(&c.retries)
	}
}

// start executes a request that is complete.
func (sl *slot) start() {
	q, r := &sl.q, &sl.r
	r.Flags, r.Offset, r.Bytes, r.Iov = 0, q.Offset, uint64(q.Length), nil
	if q.Flags&nbdproto.FlagFUA != 0 {
		r.Flags |= blockdev.FUA
	}
	switch q.Type {
	case nbdproto.CmdRead:
		r.Kind, r.Iov, r.Flags = blockdev.Read, sl.bufs, 0
	case nbdproto.CmdWrite:
		r.Kind, r.Iov = blockdev.Write, sl.bufs
	case nbdproto.CmdFlush:
		r.Kind, r.Offset, r.Bytes = blockdev.Flush, 0, 0
	case nbdproto.CmdTrim:
		r.Kind = blockdev.Discard
	case nbdproto.CmdWriteZeroes:
		r.Kind = blockdev.WriteZeroes
		if q.Flags&nbdproto.FlagNoHole != 0 {
			r.Flags |= blockdev.NoHole
		}
	case nbdproto.CmdBlockStatus:
		r.Kind = blockdev.Status
		if q.Flags&nbdproto.FlagReqOne != 0 {
			r.Flags |= blockdev.OneExtent
		}
	}
	sl.c.working++
	sl.c.export.disk.Submit(r)
}

// texts say what errors mean, to clients that show it.
var texts = map[syscall.Errno]string{
	syscall.EINVAL: "the range is beyond the end of the image",
	syscall.ENOSPC: "the range is beyond the end of the image, or the cluster is full: see `vitastor-cli df`",
	syscall.EROFS:  "the image is read-only",
	syscall.ENOENT: "the image was removed or renamed",
	syscall.EIO:    "the cluster could not do it: see `vitastor-cli status`",
}

// finish answers a request.
func (sl *slot) finish() {
	sl.c.working--
	if err := sl.r.Err; err != 0 {
		sl.fail(nbdproto.ErrnoOf(err), texts[err])
		return
	}
	q, structured := &sl.q, sl.c.session.Structured
	switch {
	case q.Type == nbdproto.CmdBlockStatus:
		sl.sendStatus()
	case q.Type == nbdproto.CmdRead && structured && q.Length == 0:
		sl.send(nbdproto.PutDone(sl.head[:], q.Cookie), nil)
	case q.Type == nbdproto.CmdRead && structured:
		sl.send(nbdproto.PutData(sl.head[:], q.Cookie, q.Offset, q.Length), sl.bufs)
	case q.Type == nbdproto.CmdRead:
		sl.send(nbdproto.PutSimple(sl.head[:], q.Cookie, 0), sl.bufs)
	default:
		sl.send(nbdproto.PutSimple(sl.head[:], q.Cookie, 0), nil)
	}
}

// fail answers with an error.
func (sl *slot) fail(e nbdproto.Errno, text string) {
	if sl.c.session.Structured {
		sl.send(nbdproto.PutError(sl.head[:], sl.q.Cookie, e, text), nil)
		return
	}
	sl.send(nbdproto.PutSimple(sl.head[:], sl.q.Cookie, e), nil)
}

func (sl *slot) sendStatus() {
	sl.status = sl.status[:0]
	for _, x := range sl.r.Extents {
		sl.status = nbdproto.AppendStatus(sl.status, uint32(x.Bytes), x.Allocated)
	}
	head := nbdproto.PutStatusHead(sl.head[:], sl.q.Cookie, len(sl.r.Extents))
	sl.parts = append(sl.parts[:0], head, sl.status)
	sl.sendParts()
}

func (sl *slot) send(head []byte, payload [][]byte) {
	sl.parts = append(append(sl.parts[:0], head), payload...)
	sl.sendParts()
}

// sendParts sends the reply. On a dead connection it ends soon.
func (sl *slot) sendParts() {
	sl.reply.Parts = sl.parts
	sl.c.stream.Send(&sl.reply)
}
