package daemon

import (
	"fmt"
	"net/netip"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

// client talks to primaries without any of the intelligence of a real one.
type client struct {
	c      *cluster
	node   *sim.Node
	m      *msgr.Messenger
	lost   int
	memory []byte
}

func (c *cluster) newClient() *client {
	l := &client{c: c, node: c.w.NewNode("client")}
	l.memory, _ = pinned.AlignedBuffer(128 << 10)
	l.node.Do(func(e *env.Env) {
		var err error
		if l.m, err = msgr.New(e, msgr.Options{Handler: l}); err != nil {
			c.t.Fatal(err)
		}
	})
	c.t.Cleanup(func() {
		l.node.Crash()
		l.m.Free()
		pinned.Free(l.memory)
	})
	return l
}

func (l *client) Serve(r *msgr.Request)            { r.Fail(wire.EINVAL) }
func (l *client) Connected(*msgr.Conn)             {}
func (l *client) ConnectFailed(meta.OSDNum, error) {}
func (l *client) Disconnected(*msgr.Conn, error)   { l.lost++ }

// do executes a READ or WRITE of n bytes on the primary, and returns the result.
func (l *client) do(osd meta.OSDNum, op wire.Op, inode meta.Inode, offset uint64, n uint32) wire.Retval {
	c := l.c
	c.t.Helper()
	state, err := schema.DecodeOSDState("osd", c.get(c.keys.OSDState(osd)))
	if err != nil || !state.Up() {
		c.t.Fatalf("OSD %d: %+v %v", osd, state, err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr(state.Addresses[0]), state.Port)
	l.node.Do(func(*env.Env) { l.m.SetAddresses(osd, []netip.AddrPort{addr}); l.m.Want(osd) })
	c.wait(fmt.Sprintf("connection to OSD %d", osd), func() bool { return l.m.Conn(osd) != nil }, 10*time.Second)
	request, done := l.send(osd, op, inode, offset, n)
	c.wait(fmt.Sprintf("%v", op), func() bool { return *done }, 20*time.Second)
	return request.Retval
}

// send submits a request and does not wait.
func (l *client) send(osd meta.OSDNum, op wire.Op, inode meta.Inode, offset uint64, n uint32) (*msgr.Op, *bool) {
	request, done := &msgr.Op{}, new(bool)
	request.Done = func(*msgr.Op) { *done = true }
	(&wire.Rw{Op: op, Inode: inode, Offset: offset, Len: n}).Encode(&request.Packet)
	if op == wire.OpWrite {
		request.Payload = [][]byte{l.memory[:n]}
	} else {
		request.Attr = make([]byte, 4096)
		request.Body = [][]byte{l.memory[:n]}
	}
	l.node.Do(func(*env.Env) { l.m.Conn(osd).Submit(request) })
	return request, done
}
