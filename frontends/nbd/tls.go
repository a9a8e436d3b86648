package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/sys"
)

// tlsFront encrypts. A connection whose client asks for TLS leaves the loop; two
// goroutines move its data between TLS and a socket pair, the other end of
// which the loop serves like any client. So the loop never encrypts.
type tlsFront struct {
	mode   nbdproto.TLS
	config *tls.Config

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// newTLSFront reads the options; nil = TLS is not wanted.
func newTLSFront(c *command) (*tlsFront, error) {
	cert, key, ca := c.Flags["tls_cert"], c.Flags["tls_key"], c.Flags["tls_ca"]
	if cert == "" && key == "" {
		if ca != "" || c.Given("tls_require") {
			return nil, errors.New("--tls_ca and --tls_require need --tls_cert and --tls_key")
		}
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("TLS needs both --tls_cert and --tls_key (PEM files)")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--tls_cert %s --tls_key %s: %w", cert, key, err)
	}
	f := &tlsFront{mode: nbdproto.TLSOffered, conns: map[net.Conn]struct{}{}}
	f.config = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("--tls_ca: %w", err)
		}
		f.config.ClientCAs, f.config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !f.config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--tls_ca %s: no certificate in it (PEM)", ca)
		}
	}
	if c.Given("tls_require") || ca != "" {
		f.mode = nbdproto.TLSRequired
	}
	return f, nil
}

// start takes a stream over. It runs on the loop.
func (f *tlsFront) start(s *service, stream env.Stream, h *nbdproto.Handshake) {
	from := stream.RemoteAddr().String()
	fd := loop.Detach(stream)
	if fd < 0 {
		return
	}
	plain, err := fileConn(fd)
	if err != nil {
		s.tool.log.Warn("TLS", "from", from, "err", err)
		return
	}
	if !f.add(plain, s.server.config.Connections) {
		s.tool.log.Warn("a client is refused: too many connections with TLS", "from", from)
		plain.Close()
		return
	}
	go func() {
		defer f.remove(plain)
		if err := f.carry(s, tls.Server(plain, f.config), h, from); err != nil && !errors.Is(err, net.ErrClosed) {
			s.tool.log.Warn("connection with TLS ended", "from", from, "err", err)
		}
	}()
}

// carry makes the handshake of TLS, then moves data until one side ends.
func (f *tlsFront) carry(s *service, outside *tls.Conn, h *nbdproto.Handshake, from string) error {
	outside.SetDeadline(time.Now().Add(handshakeMax))
	if err := outside.Handshake(); err != nil {
		return err
	}
	outside.SetDeadline(time.Time{})
	pair, err := sys.SocketPair()
	if err != nil {
		return err
	}
	inside, err := fileConn(pair[1])
	if err != nil {
		sys.Close(pair[0])
		return err
	}
	defer inside.Close()
	err = s.cluster.Do(func(done func(error)) {
		done(s.cluster.Loop.Adopt(pair[0], func(stream env.Stream) env.StreamHandler { return s.server.AcceptTLS(stream, from+" with TLS", h) }))
	})
	if err != nil {
		return err
	}
	go func() {
		io.Copy(inside, outside)
		inside.Close() // the loop sees the end
	}()
	io.Copy(outside, inside)
	return outside.Close()
}

// fileConn makes a connection of a descriptor, which it takes over.
func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

func (f *tlsFront) add(c net.Conn, most int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.conns) >= most {
		return false
	}
	f.conns[c] = struct{}{}
	return true
}

func (f *tlsFront) remove(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// close ends all connections.
func (f *tlsFront) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.conns {
		c.Close()
	}
}
