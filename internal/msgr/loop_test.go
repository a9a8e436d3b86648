package msgr_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

// The tests below run real loops, threads and sockets.

// daemon is a messenger on a loop of its own. All fields are the loop's.
type daemon struct {
	t    *testing.T
	l    *loop.Loop
	m    *msgr.Messenger
	addr netip.AddrPort
	log  *lockedBuffer
	data [1 << 20]byte
	up   chan *msgr.Conn
	down chan error
	gone chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startDaemon(t *testing.T, o msgr.Options) *daemon {
	d := &daemon{t: t, log: &lockedBuffer{}, up: make(chan *msgr.Conn, 100), down: make(chan error, 100), gone: make(chan struct{})}
	l, err := loop.New(loop.Options{Log: slog.New(slog.NewTextHandler(d.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	d.l = l
	ctx, stop := context.WithCancel(context.Background())
	go func() { l.Run(ctx); close(d.gone) }()
	t.Cleanup(func() {
		stop()
		<-d.gone
		d.m.Free()
	})
	o.Handler = d
	o.ShowConfig = func(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
		return wire.ConfigReply{OSDNum: o.OSD, ProtocolVersion: 1, BlockBytes: 131072, GranularityBytes: 4096, ImmediateCommit: "all"}
	}
	d.on(func() {
		if d.m, err = msgr.New(l.Env(), o); err == nil && o.OSD != 0 {
			d.addr, err = d.m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// on runs f on the loop and waits for it.
func (d *daemon) on(f func()) {
	done := make(chan struct{})
	d.l.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		d.t.Fatal("the loop does not answer")
	}
}

func (d *daemon) Serve(r *msgr.Request) {
	var rw wire.Rw
	rw.Decode(&r.Packet)
	switch r.Op() {
	case wire.OpWrite:
		at := int(rw.Offset)
		for _, b := range r.Body {
			at += copy(d.data[at:], b)
		}
		(&wire.RwReply{Op: wire.OpWrite, Retval: wire.Retval(rw.Len)}).Encode(&r.Reply)
	case wire.OpRead:
		at := int(rw.Offset)
		for _, b := range r.Body {
			at += copy(b, d.data[at:])
		}
		(&wire.RwReply{Op: wire.OpRead, Retval: wire.Retval(rw.Len), BitmapLen: 4}).Encode(&r.Reply)
		r.ReplyParts = append(append(r.ReplyParts, []byte{1, 2, 3, 4}), r.Body...)
	default:
		r.Fail(wire.OK)
		return
	}
	r.Finish()
}

func (d *daemon) Connected(c *msgr.Conn)               { d.up <- c }
func (d *daemon) ConnectFailed(_ meta.OSDNum, e error) { d.down <- e }
func (d *daemon) Disconnected(_ *msgr.Conn, e error)   { d.down <- e }

func (d *daemon) connect(to *daemon, osd meta.OSDNum) *msgr.Conn {
	d.on(func() {
		d.m.SetAddresses(osd, []netip.AddrPort{to.addr})
		d.m.Want(osd)
	})
	select {
	case c := <-d.up:
		return c
	case e := <-d.down:
		d.t.Fatal(e)
	case <-time.After(20 * time.Second):
		d.t.Fatal("no connection")
	}
	return nil
}

func TestLoopback(t *testing.T) {
	server, client := startDaemon(t, msgr.Options{OSD: 1}), startDaemon(t, msgr.Options{})
	c := client.connect(server, 1)
	const size, chunk = 1 << 20, 1 << 16
	want, got := make([]byte, size), make([]byte, size)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	// 16 chunks are written at once; each is read back when it is written, as
	// often as makes 2000 requests.
	done := make(chan string, 1)
	left := 2000
	finish := func(why string) {
		select {
		case done <- why:
		default:
		}
	}
	client.on(func() {
		for at := 0; at < size; at += chunk {
			read, write := &msgr.Op{Attr: make([]byte, 4), Body: [][]byte{got[at : at+chunk]}}, &msgr.Op{Payload: [][]byte{want[at : at+chunk]}}
			(&wire.Rw{Op: wire.OpRead, Offset: uint64(at), Len: chunk}).Encode(&read.Packet)
			(&wire.Rw{Op: wire.OpWrite, Offset: uint64(at), Len: chunk}).Encode(&write.Packet)
			next := func(op, other *msgr.Op) {
				if op.Retval != chunk {
					finish("retval " + op.Retval.String())
				}
				if left--; left <= 0 {
					finish("")
				} else if left >= 16 { // the last 16 are in flight
					c.Submit(other)
				}
			}
			write.Done = func(op *msgr.Op) { clear(got[at : at+chunk]); next(op, read) }
			read.Done = func(op *msgr.Op) {
				if !bytes.Equal(got[at:at+chunk], want[at:at+chunk]) {
					finish("wrong data")
				}
				next(op, write)
			}
			c.Submit(write)
		}
	})
	select {
	case why := <-done:
		if why != "" {
			t.Fatal(why)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("not finished")
	}
	// A peer that speaks something else is told apart, by name.
	s, err := net.Dial("tcp", server.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	s.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 20))
	s.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("not closed")
	}
	<-server.down
	if text := server.log.String(); !strings.Contains(text, "unknown magic number") || !strings.Contains(text, s.LocalAddr().String()) {
		t.Errorf("log: %s", text)
	}
	server.on(func() { server.m.Close() })
	select {
	case e := <-client.down:
		t.Log(e)
	case <-time.After(20 * time.Second):
		t.Error("the client does not notice the end")
	}
}
