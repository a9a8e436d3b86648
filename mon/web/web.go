// Package web is the monitor's HTTP or HTTPS server (spec monitor.md §10): GET
// of prometheus_path answers with metrics on the master and with 503 on a
// standby monitor; every other path is 404.
//
// Guarantee: nothing that happens here stops or delays the monitor beyond the
// time that one snapshot takes: an address that is in use, a certificate that
// cannot be read, slow or hostile clients cost a warning or their own
// connection.
//
// Concurrency: ordinary goroutines of net/http. The snapshot is taken on the
// monitor's loop through env.Exec.Post and not modified afterwards. Start and
// Close may be called from anywhere. The simulator does not run it.
package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema/option"
	"vitastor/mon/metrics"
)

// Options say what to serve.
type Options struct {
	HTTP option.HTTP // as in the file and on the command line
	Exec env.Exec    // of the monitor's loop
	// Snapshot runs on the loop; nil = this monitor is a standby.
	Snapshot func() *metrics.Snapshot
	Log      *slog.Logger // may be nil
}

// Limits for clients.
const (
	headerTimeout   = 10 * time.Second
	answerTimeout   = time.Minute
	snapshotTimeout = 10 * time.Second
	maxHeaderBytes  = 16 << 10
)

// Server is a running server. All methods work on nil, too.
type Server struct {
	http     *http.Server
	listener net.Listener
	ended    chan struct{}
}

// Start serves until Close. It returns nil, and logs why, when there is nothing
// to serve or the server cannot run: the monitor does not need it.
func Start(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !o.HTTP.EnablePrometheus {
		return nil
	}
	s, err := listen(&o)
	if err != nil {
		o.Log.Warn("the monitor runs without HTTP server and metrics", "err", err)
		return nil
	}
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Warn("the HTTP server of the monitor has ended", "err", err)
		}
	}()
	o.Log.Info("metrics are served", "address", s.Address(), "https", o.HTTP.Cert != "", "path", pathOf(&o.HTTP))
	return s
}

// Address is where the server listens, "" = nowhere.
func (s *Server) Address() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Close ends the server and all its connections.
func (s *Server) Close() {
	if s == nil {
		return
	}
	s.http.Close()
	<-s.ended
}

func listen(o *Options) (*Server, error) {
	var secure *tls.Config
	if o.HTTP.Cert != "" {
		var err error
		if secure, err = tlsConfig(&o.HTTP); err != nil {
			return nil, err
		}
	}
	address := net.JoinHostPort(o.HTTP.IP, strconv.Itoa(int(o.HTTP.Port)))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("mon_http_ip and mon_http_port: %w", err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	s := &Server{listener: l, ended: make(chan struct{})}
	s.http = &http.Server{
		Handler:           handler(o),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       answerTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func tlsConfig(o *option.HTTP) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("mon_https_cert %q and mon_https_key %q: %w", o.Cert, o.Key, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if !o.ClientAuth {
		return c, nil
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if o.CA == "" {
		return c, nil // the authorities of the system
	}
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, fmt.Errorf("mon_https_ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("mon_https_ca %q contains no certificate in PEM form", o.CA)
	}
	return c, nil
}

// pathOf ignores slashes at the end.
func pathOf(o *option.HTTP) string { return "/" + strings.Trim(o.PrometheusPath, "/") }

func handler(o *Options) http.Handler {
	path := pathOf(&o.HTTP)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if "/"+strings.Trim(r.URL.Path, "/") != path {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		snap, err := o.take(r.Context())
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case snap == nil:
			http.Error(w, "this monitor is not the master", http.StatusServiceUnavailable)
		default:
			w.Header().Set("Content-Type", metrics.ContentType)
			if err := metrics.Write(w, snap); err != nil {
				o.Log.Debug("a client of the HTTP server went away", "err", err)
			}
		}
	})
}

var errBusy = errors.New("the monitor is too busy to answer or is stopping")

// take gets a snapshot from the loop.
func (o *Options) take(ctx context.Context) (*metrics.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	answer := make(chan *metrics.Snapshot, 1)
	// Post may block while the mailbox is full, and it may accept what a
	// stopping loop does not run any more: neither holds the connection.
	refused := make(chan struct{})
	go func() {
		if !o.Exec.Post(func() { answer <- o.Snapshot() }) {
			close(refused)
		}
	}()
	select {
	case snap := <-answer:
		return snap, nil
	case <-refused:
	case <-ctx.Done():
	}
	return nil, errBusy
}
