package kvtest

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between clients and a server, and can be broken.
type Proxy struct {
	addr   string // where clients connect
	target string

	mu       sync.Mutex
	mode     Mode
	listener net.Listener
	conns    map[net.Conn]bool
	wake     chan struct{} // closed when the mode changes
	running  sync.WaitGroup
}

// Mode is what a Proxy does with connections.
type Mode int

// Modes of a Proxy.
const (
	Open   Mode = iota // works
	Refuse             // connections are cut and refused
	Hang               // connections stay, but nothing passes
)

// NewProxy makes a proxy to the endpoint until the end of the test.
func NewProxy(t testing.TB, endpoint string) *Proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{addr: l.Addr().String(), target: strings.TrimPrefix(endpoint, "http://"),
		listener: l, conns: map[net.Conn]bool{}, wake: make(chan struct{})}
	p.running.Go(func() { p.accept(l) })
	t.Cleanup(func() {
		p.Set(t, Refuse)
		p.running.Wait()
	})
	return p
}

// Endpoint is where clients connect.
func (p *Proxy) Endpoint() string { return "http://" + p.addr }

// Set changes what the proxy does.
func (p *Proxy) Set(t testing.TB, m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == m {
		return
	}
	p.mode = m
	close(p.wake)
	p.wake = make(chan struct{})
	if m == Refuse {
		p.listener.Close()
		p.listener = nil
		for c := range p.conns {
			c.Close()
		}
		return
	}
	if p.listener == nil {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		p.listener = l
		p.running.Go(func() { p.accept(l) })
	}
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil || !p.keep(client, server) {
			client.Close()
			if server != nil {
				server.Close()
			}
			continue
		}
		p.running.Go(func() { p.pump(client, server) })
		p.running.Go(func() { p.pump(server, client) })
	}
}

// keep remembers connections that a change of the mode has to close.
func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.mode != Refuse {
			p.conns[c] = true
		}
	}
	return p.mode != Refuse
}

func (p *Proxy) pump(to, from net.Conn) {
	io.Copy(to, gate{p, from})
	to.Close()
	from.Close()
	p.mu.Lock()
	delete(p.conns, to)
	delete(p.conns, from)
	p.mu.Unlock()
}

// gate is a Reader that stands still while the proxy hangs.
type gate struct {
	p *Proxy
	c net.Conn
}

func (g gate) Read(b []byte) (int, error) {
	n, err := g.c.Read(b)
	for {
		g.p.mu.Lock()
		mode, wake := g.p.mode, g.p.wake
		g.p.mu.Unlock()
		if mode != Hang {
			return n, err
		}
		<-wake
	}
}
