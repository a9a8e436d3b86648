package nbd

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/env"
)

// defaultPort is that of NBD.
const defaultPort = "10809"

// serve is the command: a server until a signal.
func (t *Tool) serve(c *command) error {
	if c.Device != "" {
		return fmt.Errorf("serve does not take %q: to attach an image to a device of this host use map", c.Device)
	}
	wanted, err := chosen(c)
	if err != nil {
		return err
	}
	s := &service{tool: t, images: wanted, config: Config{Catalogue: wanted, ReadOnly: c.Given("readonly")}}
	if err := s.settings(c); err != nil {
		return err
	}
	if s.cluster, err = t.connect(c); err != nil {
		return err
	}
	defer s.cluster.Close()
	if err := s.cluster.MakeDurable(); err != nil { // clients of a server that has died come back
		return err
	}
	if err := s.cluster.Do(func(done func(error)) { done(s.open()) }); err != nil {
		return err
	}
	defer s.server.Free()
	if path := c.Flags["pidfile"]; path != "" {
		if err := daemon.WritePID(path); err != nil {
			return err
		}
		defer os.Remove(path)
	}
	for _, uri := range s.uris() {
		fmt.Fprintln(t.Out, uri)
	}
	<-t.Signals
	return s.cluster.Do(s.close)
}

// service is a running serve.
type service struct {
	tool      *Tool
	cluster   *session.Session
	images    *images
	config    Config
	tls       *tlsFront // nil = none
	addrs     []netip.AddrPort
	paths     []string
	server    *Server
	listeners []env.Listener
}

// settings reads the options.
func (s *service) settings(c *command) error {
	memory, err := c.number("memory", MemoryDefault)
	if err != nil {
		return err
	}
	clients, err := c.number("max_connections", ConnectionsDefault)
	if err != nil {
		return err
	}
	s.config.MemoryBytes, s.config.Connections = int(memory), int(clients)
	for _, path := range c.Names("socket") {
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		s.paths = append(s.paths, path)
	}
	addrs := c.Names("listen")
	if len(addrs) == 0 && len(s.paths) == 0 {
		addrs = []string{"127.0.0.1:" + defaultPort}
	}
	for _, text := range addrs {
		a, err := listenAddr(text)
		if err != nil {
			return err
		}
		s.addrs = append(s.addrs, a)
	}
	s.tls, err = newTLSFront(c)
	if s.tls != nil {
		s.config.TLS, s.config.StartTLS = s.tls.mode, s.startTLS
	}
	return err
}

// listenAddr reads [host][:port].
func listenAddr(text string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, defaultPort
		if _, e := strconv.ParseUint(text, 10, 16); e == nil {
			host, port = "", text
		}
	}
	if host == "" {
		host = "0.0.0.0"
	}
	a, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--listen %s: %w: write an address of this host and a port, such as 0.0.0.0:%s", text, err, defaultPort)
	}
	return a.AddrPort(), nil
}

// open begins to listen. It runs on the loop.
func (s *service) open() error {
	s.config.Env = s.cluster.Env
	s.config.Env.Log = s.tool.log
	s.images.cluster = s.cluster
	if err := s.images.check(); err != nil {
		return err
	}
	var err error
	if s.server, err = NewServer(s.config); err != nil {
		return err
	}
	for i, a := range s.addrs {
		l, err := s.cluster.Loop.Listen(a, s.server.Accept)
		if err != nil {
			return s.cannot(err)
		}
		s.addrs[i] = l.Addr()
		s.listeners = append(s.listeners, l)
	}
	for _, path := range s.paths {
		l, err := s.cluster.Loop.ListenUnix(path, s.server.Accept)
		if err != nil {
			return s.cannot(err)
		}
		s.listeners = append(s.listeners, l)
	}
	return nil
}

func (s *service) cannot(err error) error {
	for _, l := range s.listeners {
		l.Close()
	}
	return err
}

// close ends the server after a flush.
func (s *service) close(done func(error)) {
	for _, l := range s.listeners {
		l.Close()
	}
	s.server.Shutdown(func() { done(nil) })
	if s.tls != nil {
		s.tls.close()
	}
}

// startTLS gives a connection to goroutines that encrypt.
func (s *service) startTLS(stream env.Stream, h *nbdproto.Handshake) { s.tls.start(s, stream, h) }

// uris are where clients find the exports.
func (s *service) uris() (list []string) {
	scheme := "nbd"
	if s.config.TLS == nbdproto.TLSRequired {
		scheme = "nbds"
	}
	names := s.images.names
	if len(names) == 0 || s.images.bare.Inode != 0 {
		names = []string{""}
	}
	for _, name := range names {
		for _, a := range s.addrs {
			u := url.URL{Scheme: scheme, Host: a.String(), Path: "/" + name}
			list = append(list, u.String())
		}
		for _, path := range s.paths {
			u := url.URL{Scheme: scheme + "+unix", Path: "/" + name, RawQuery: "socket=" + (&url.URL{Path: path}).EscapedPath()}
			list = append(list, u.String())
		}
	}
	return list
}
