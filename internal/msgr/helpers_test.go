package msgr

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// node is an owner of a messenger that remembers what it is told.
type node struct {
	t      testing.TB
	m      *Messenger
	addr   netip.AddrPort
	serve  func(r *Request)
	events []string
	up     map[meta.OSDNum]*Conn
	last   *Conn // disconnected last
	reason error
}

func (n *node) Serve(r *Request) {
	if n.serve == nil {
		n.t.Errorf("unexpected %v", r.Op())
		r.Fail(wire.EINVAL)
		return
	}
	n.serve(r)
}

func (n *node) Connected(c *Conn) {
	n.up[c.OSD()] = c
	n.events = append(n.events, fmt.Sprintf("up %d", c.OSD()))
}

func (n *node) ConnectFailed(osd meta.OSDNum, reason error) {
	n.events = append(n.events, fmt.Sprintf("failed %d", osd))
	n.reason = reason
}

func (n *node) Disconnected(c *Conn, reason error) {
	if c.ops != 0 {
		n.t.Errorf("Disconnected before %d ops completed", c.ops)
	}
	n.last, n.reason = c, reason
	if !c.Incoming() {
		delete(n.up, c.OSD())
		n.events = append(n.events, fmt.Sprintf("down %d", c.OSD()))
	}
}

// newNode makes a messenger; OSDs listen. At the end all memory must be back.
func newNode(t testing.TB, e *env.Env, o Options) *node {
	n := &node{t: t, up: map[meta.OSDNum]*Conn{}}
	o.Handler = n
	if o.ShowConfig == nil {
		o.ShowConfig = func(c *Conn, _ wire.ConfigRequest) wire.ConfigReply { return goodConfig(o.OSD) }
	}
	var err error
	if n.m, err = New(e, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.m.Free)
	if o.OSD != 0 {
		n.listen(localhost)
	}
	return n
}

func (n *node) listen(ip netip.Addr) {
	var err error
	if n.addr, err = n.m.Listen(netip.AddrPortFrom(ip, 0)); err != nil {
		n.t.Fatal(err)
	}
}

func goodConfig(osd meta.OSDNum) wire.ConfigReply {
	return wire.ConfigReply{OSDNum: osd, ProtocolVersion: 1, BlockBytes: 131072, GranularityBytes: 4096,
		ImmediateCommit: "all", PGLocks: true}
}

// usedBytes is the memory of payloads in use.
func (n *node) usedBytes() int64 {
	used := int64(0)
	for _, p := range n.m.Pools() {
		used += p.Stats().UsedBytes
	}
	return used
}

// connect makes client want server as OSD 1.
func connect(t testing.TB, w *fakeWorld, client, server *node) *Conn {
	client.m.SetAddresses(server.m.osd, []netip.AddrPort{server.addr})
	client.m.Want(server.m.osd)
	w.advance(10)
	c := client.m.Conn(server.m.osd)
	if c == nil {
		t.Fatalf("not connected: %v %v", client.events, client.reason)
	}
	return c
}

// pairOf makes an OSD that serves and a client connected to it.
func pairOf(t testing.TB, w *fakeWorld, serve func(*Request)) (client, server *node, c *Conn) {
	server = newNode(t, &w.env, Options{OSD: 1})
	server.serve = serve
	client = newNode(t, &w.env, Options{})
	return client, server, connect(t, w, client, server)
}

func packet(m wire.Message) []byte {
	var p wire.Packet
	m.Encode(&p)
	return p[:]
}

func showConfig(id uint64, text string) []byte {
	return append(packet(&wire.ShowConfig{ID: id, JSONLen: uint64(len(text))}), text...)
}

const checkSequencing = `{"features": {"check_sequencing": true}}`

func must(t testing.TB, ok bool, format string, args ...any) {
	t.Helper()
	if !ok {
		t.Fatalf(format, args...)
	}
}

func wantReason(t *testing.T, reason error, text string) {
	t.Helper()
	if reason == nil || !strings.Contains(reason.Error(), text) {
		t.Errorf("reason %v, want one with %q", reason, text)
	}
}

// violation returns the text of the invariant that f breaks.
func violation(t *testing.T, f func()) string {
	t.Helper()
	var text string
	func() {
		defer func() {
			if v, ok := recover().(invariant.Violation); ok {
				text = v.Text
			}
		}()
		f()
	}()
	if text == "" {
		t.Error("no invariant was violated")
	}
	return text
}
