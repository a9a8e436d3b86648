package nbd

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"vitastor/frontends/nbd/nbdproto"
)

var be = binary.BigEndian

// raw is a client that can do everything wrong.
type raw struct {
	testing.TB
	net.Conn
}

func dialRaw(t testing.TB, r *rig) *raw {
	t.Helper()
	return dialAt(t, r.path)
}

// dialAt connects to a server on a unix socket.
func dialAt(t testing.TB, path string) *raw {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	k := &raw{t, c}
	k.want(18)
	return k
}

// want reads exactly n bytes.
func (c *raw) want(n int) []byte {
	c.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.Fatal(err)
	}
	return b
}

func (c *raw) send(parts ...[]byte) {
	c.Helper()
	for _, p := range parts {
		if _, err := c.Write(p); err != nil {
			c.Fatal(err)
		}
	}
}

// optionOf makes an option.
func optionOf(kind uint32, data []byte) []byte {
	b := append([]byte("IHAVEOPT"), 0, 0, 0, 0, 0, 0, 0, 0)
	be.PutUint32(b[8:], kind)
	be.PutUint32(b[12:], uint32(len(data)))
	return append(b, data...)
}

// answer reads one answer to an option.
func (c *raw) answer() (kind uint32, data []byte) {
	c.Helper()
	h := c.want(20)
	return be.Uint32(h[12:]), c.want(int(be.Uint32(h[16:])))
}

// goOn ends the handshake.
func (c *raw) goOn(name string, structured bool) {
	c.Helper()
	c.send(be.AppendUint32(nil, 3))
	if structured {
		c.send(optionOf(8, nil))
		if kind, _ := c.answer(); kind != 1 {
			c.Fatalf("structured replies: answer %#x", kind)
		}
	}
	data := append(be.AppendUint32(nil, uint32(len(name))), name...)
	c.send(optionOf(7, be.AppendUint16(data, 0)))
	for {
		kind, text := c.answer()
		if kind == 1 {
			return
		}
		if kind != 3 {
			c.Fatalf("GO: answer %#x %s", kind, text)
		}
	}
}

// request makes a request.
func request(kind nbdproto.Command, cookie, offset uint64, length uint32) []byte {
	q := nbdproto.Request{Type: kind, Cookie: cookie, Offset: offset, Length: length}
	var b [nbdproto.RequestBytes]byte
	q.Put(&b)
	return b[:]
}

// simple reads a simple reply.
func (c *raw) simple() (cookie uint64, e nbdproto.Errno) {
	c.Helper()
	b := c.want(nbdproto.SimpleBytes)
	if be.Uint32(b) != 0x67446698 {
		c.Fatalf("not a simple reply: %x", b)
	}
	return be.Uint64(b[8:]), nbdproto.Errno(be.Uint32(b[4:]))
}
