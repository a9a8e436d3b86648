package primary

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

// user is a client connected to one OSD.
type user struct {
	r    *rig
	t    testing.TB
	to   *osd
	node *sim.Node
	m    *msgr.Messenger
	up   *msgr.Conn
	lost int
}

func (u *user) Serve(q *msgr.Request)                     { u.t.Errorf("unexpected %v", q.Op()); q.Fail(wire.EINVAL) }
func (u *user) Connected(c *msgr.Conn)                    { u.up = c }
func (u *user) ConnectFailed(_ meta.OSDNum, reason error) {}
func (u *user) Disconnected(c *msgr.Conn, reason error)   { u.up = nil; u.lost++ }

var users int

func (r *rig) user(osd meta.OSDNum) *user {
	r.t.Helper()
	users++
	u := &user{r: r, t: r.t, to: r.osds[osd], node: r.w.NewNode(fmt.Sprintf("client%d", users))}
	u.node.Do(func(e *env.Env) {
		var err error
		if u.m, err = msgr.New(e, msgr.Options{Handler: u, Timeouts: msgr.Timeouts{ConnectInterval: time.Second}}); err != nil {
			r.t.Fatal(err)
		}
		u.m.SetAddresses(osd, []netip.AddrPort{u.to.addr})
		u.m.Want(osd)
	})
	r.t.Cleanup(u.m.Free)
	u.connected()
	return u
}

func (u *user) connected() {
	u.t.Helper()
	if !u.r.w.RunUntil(func() bool { return u.up != nil }, time.Minute) {
		u.t.Fatal("client does not connect")
	}
}

// call is one operation of a client.
type call struct {
	msgr.Op
	done bool
	data []byte
}

func (c *call) version() meta.Version {
	if c.Packet.Op() == wire.OpDelete {
		var re wire.DeleteReply
		re.Decode(&c.Reply)
		return re.Version
	}
	var re wire.RwReply
	re.Decode(&c.Reply)
	return re.Version
}

// begin sends a request. without a connection it fails at once.
func (u *user) begin(q wire.Message, bodyBytes int, payload ...[]byte) *call {
	c := &call{data: make([]byte, bodyBytes)}
	for i := range c.data {
		c.data[i] = 0xee
	}
	c.Payload, c.Attr, c.Body = payload, make([]byte, 4096), [][]byte{c.data}
	q.Encode(&c.Packet)
	c.Done = func(*msgr.Op) { c.done = true }
	if u.up == nil {
		c.done, c.Retval, c.Lost = true, wire.EPIPE, true
		return c
	}
	u.node.Do(func(*env.Env) { u.up.Submit(&c.Op) })
	return c
}

func (u *user) wait(calls ...*call) {
	u.t.Helper()
	for _, c := range calls {
		if !u.r.w.RunUntil(func() bool { return c.done }, time.Minute) {
			u.t.Fatalf("no reply to %v", c.Packet.String())
		}
	}
}

func (u *user) want(ret wire.Retval, c *call) *call {
	u.t.Helper()
	u.wait(c)
	if c.Retval != ret {
		u.t.Fatalf("%v: %v (lost %v), want %v", c.Packet.String(), c.Retval, c.Lost, ret)
	}
	return c
}

func inode(pool meta.PoolID) meta.Inode { return meta.MakeInode(pool, 7) }

func (u *user) beginWrite(pool meta.PoolID, offset uint64, data []byte, cas meta.Version) *call {
	return u.begin(&wire.Rw{Op: wire.OpWrite, Inode: inode(pool), Offset: offset, Len: uint32(len(data)), Version: cas}, 0, data)
}

func (u *user) beginRead(pool meta.PoolID, offset uint64, n int) *call {
	return u.begin(&wire.Rw{Op: wire.OpRead, Inode: inode(pool), Offset: offset, Len: uint32(n)}, n)
}

func (u *user) beginDelete(pool meta.PoolID, offset uint64, cas meta.Version) *call {
	return u.begin(&wire.Rw{Op: wire.OpDelete, Inode: inode(pool), Offset: offset, Version: cas}, 0)
}

func (u *user) write(pool meta.PoolID, offset uint64, data []byte) meta.Version {
	u.t.Helper()
	return u.want(wire.Retval(len(data)), u.beginWrite(pool, offset, data, 0)).version()
}

func (u *user) read(pool meta.PoolID, offset uint64, want []byte) meta.Version {
	u.t.Helper()
	c := u.want(wire.Retval(len(want)), u.beginRead(pool, offset, len(want)))
	if !bytes.Equal(c.data, want) {
		u.t.Fatalf("read of %x+%x returns wrong data: %s", offset, len(want), differ(c.data, want))
	}
	return c.version()
}

func (u *user) sync() {
	u.t.Helper()
	u.want(wire.OK, u.begin(&wire.HeaderOnly{Op: wire.OpSync}, 0))
}

// differ says where two contents differ.
func differ(got, want []byte) string {
	for i := range want {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %x is %02x, want %02x", i, got[i], want[i])
		}
	}
	return "equal"
}

// pattern is data that differs by seed and place.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}
