package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/pojntfx/go-nbd/pkg/server"

	"vitastor/frontends/nbd/nbdproto"
)

// Peer: go-nbd, with the parts that need no kernel device. Its client package
// does, and depends on a library under the GPL-3.

// TestGoNBDServer: what our tests and our codec send is understood by its server.
func TestGoNBDServer(t *testing.T) {
	memory := make([]byte, mib)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = server.Handle(conn, []*server.Export{{Name: "data", Description: "its", Backend: backend.NewMemoryBackend(memory)}}, nil)
		}
		ended <- err
	}()
	c := dialAt(t, l.Addr().String())
	c.goOn("data", false)
	model, r := make([]byte, mib), rand.New(rand.NewPCG(1, 2))
	for i := range uint64(200) {
		at, n := r.Uint64N(mib-5000), r.IntN(5000)+1
		if i%2 == 0 {
			b := bytes.Repeat([]byte{byte(i + 1)}, n)
			copy(model[at:], b)
			c.send(request(nbdproto.CmdWrite, i, at, uint32(n)), b)
			c.simpleOK(i)
		} else {
			c.send(request(nbdproto.CmdRead, i, at, uint32(n)))
			c.simpleOK(i)
			if !bytes.Equal(c.want(n), model[at:at+uint64(n)]) {
				t.Fatalf("read of %d bytes at %d: other data", n, at)
			}
		}
	}
	c.send(request(nbdproto.CmdDisconnect, 0, 0, 0))
	if err := <-ended; err != nil || !bytes.Equal(memory, model) {
		t.Errorf("its server ended with %v, and what we have written is there: %v", err, bytes.Equal(memory, model))
	}
}

func (c *raw) simpleOK(cookie uint64) {
	c.Helper()
	if got, e := c.simple(); got != cookie || e != 0 {
		c.Fatalf("request %d: answer %d, error %d", cookie, got, e)
	}
}

// goNBD is a client made of its protocol package.
type goNBD struct{ *raw }

func (c goNBD) put(values ...any) {
	c.Helper()
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.BigEndian, v); err != nil {
			c.Fatal(err)
		}
	}
	c.send(b.Bytes())
}

func (c goNBD) get(v any) {
	c.Helper()
	if err := binary.Read(c, binary.BigEndian, v); err != nil {
		c.Fatal(err)
	}
}

func (c goNBD) option(id uint32, data []byte) {
	c.Helper()
	c.put(protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: id, Length: uint32(len(data))}, data)
}

// replies are the answers to an option before the last, which is returned too.
func (c goNBD) replies(id uint32) (list [][]byte, last uint32) {
	c.Helper()
	for {
		var h protocol.NegotiationReplyHeader
		c.get(&h)
		if h.ReplyMagic != protocol.NEGOTIATION_MAGIC_REPLY || h.ID != id {
			c.Fatalf("answer %+v to option %d", h, id)
		}
		data := c.want(int(h.Length))
		if h.Type != protocol.NEGOTIATION_TYPE_REPLY_INFO && h.Type != protocol.NEGOTIATION_TYPE_REPLY_SERVER {
			return list, h.Type
		}
		list = append(list, data)
	}
}

// ask makes a request and returns the error of the answer.
func (c goNBD) ask(kind uint16, handle, offset uint64, data []byte, length int) uint32 {
	c.Helper()
	c.put(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: kind, Handle: handle, Offset: offset,
		Length: uint32(length)}, data)
	var h protocol.TransmissionReplyHeader
	c.get(&h)
	if h.ReplyMagic != protocol.TRANSMISSION_MAGIC_REPLY || h.Handle != handle {
		c.Fatalf("answer %+v to request %d", h, handle)
	}
	return h.Error
}

func dialGoNBD(t *testing.T, r *rig) goNBD {
	t.Helper()
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := goNBD{&raw{t, conn}}
	var h protocol.NegotiationNewstyleHeader
	c.get(&h)
	if h.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE || h.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION ||
		h.HandshakeFlags&protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE == 0 {
		t.Fatalf("greeting %+v", h)
	}
	c.put(uint32(protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE))
	return c
}

// TestGoNBDClient: our server speaks as its protocol package does.
func TestGoNBDClient(t *testing.T) {
	r := newRig(t, nil)
	c := dialGoNBD(t, r)
	c.option(protocol.NEGOTIATION_ID_OPTION_LIST, nil)
	list, last := c.replies(protocol.NEGOTIATION_ID_OPTION_LIST)
	if last != protocol.NEGOTIATION_TYPE_REPLY_ACK || len(list) != 3 || !bytes.HasPrefix(list[0], []byte("\x00\x00\x00\x04data")) {
		t.Errorf("list: %q, %#x", list, last)
	}
	name := []byte("\x00\x00\x00\x07nothing\x00\x00")
	c.option(protocol.NEGOTIATION_ID_OPTION_INFO, name)
	if _, last := c.replies(protocol.NEGOTIATION_ID_OPTION_INFO); last != protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN {
		t.Errorf("unknown export: %#x", last)
	}
	c.option(protocol.NEGOTIATION_ID_OPTION_GO, []byte("\x00\x00\x00\x04data\x00\x01\x00\x03"))
	infos, last := c.replies(protocol.NEGOTIATION_ID_OPTION_GO)
	if last != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		t.Fatalf("GO: %#x", last)
	}
	sizes := 0
	for _, b := range infos {
		switch binary.BigEndian.Uint16(b) {
		case protocol.NEGOTIATION_TYPE_INFO_EXPORT:
			var info protocol.NegotiationReplyInfo
			if binary.Read(bytes.NewReader(b), binary.BigEndian, &info); info.Size != 64*mib ||
				info.TransmissionFlags&protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN == 0 {
				t.Errorf("export: %+v", info)
			}
			sizes++
		case protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE:
			var info protocol.NegotiationReplyBlockSize
			if binary.Read(bytes.NewReader(b), binary.BigEndian, &info); info.PreferredBlockSize != 4096 {
				t.Errorf("block sizes: %+v", info)
			}
			sizes++
		}
	}
	if sizes != 2 {
		t.Errorf("%d answers with sizes in %q", sizes, infos)
	}
	data := bytes.Repeat([]byte("go-nbd! "), 1000)
	if e := c.ask(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, 7, 12345, data, len(data)); e != 0 {
		t.Errorf("write: %d", e)
	}
	if e := c.ask(protocol.TRANSMISSION_TYPE_REQUEST_READ, 8, 12345, nil, len(data)); e != 0 || !bytes.Equal(c.want(len(data)), data) {
		t.Errorf("read: %d", e)
	}
	if e := c.ask(protocol.TRANSMISSION_TYPE_REQUEST_READ, 9, 64*mib, nil, 512); e != protocol.TRANSMISSION_ERROR_EINVAL {
		t.Errorf("read beyond the end: %d", e)
	}
	c.put(protocol.TransmissionRequestHeader{RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: protocol.TRANSMISSION_TYPE_REQUEST_DISC})
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after a disconnect: %v", err)
	}
}

// TestGoNBDReadOnly: a write to a read-only export has the error that it expects.
func TestGoNBDReadOnly(t *testing.T) {
	c := dialGoNBD(t, newRig(t, nil))
	c.option(protocol.NEGOTIATION_ID_OPTION_GO, []byte("\x00\x00\x00\x05fixed\x00\x00"))
	if _, last := c.replies(protocol.NEGOTIATION_ID_OPTION_GO); last != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		t.Fatalf("GO: %#x", last)
	}
	if e := c.ask(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, 1, 0, make([]byte, 512), 512); e != protocol.TRANSMISSION_ERROR_EPERM {
		t.Errorf("write: %d", e)
	}
}

// TestGoNBDWrongLength: its client (v0.3.2) says that the data of GO has no
// bytes, and sends them. It is refused, and others are served.
func TestGoNBDWrongLength(t *testing.T) {
	r := newRig(t, nil)
	c := dialGoNBD(t, r)
	c.put(protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: protocol.NEGOTIATION_ID_OPTION_GO},
		[]byte("\x00\x00\x00\x04data\x00\x00"))
	if _, last := c.replies(protocol.NEGOTIATION_ID_OPTION_GO); last>>31 == 0 {
		t.Errorf("GO without its data: %#x", last)
	}
	dialRaw(t, r).goOn("data", true)
}
