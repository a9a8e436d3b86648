package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/schema/option"
	"vitastor/mon/metrics"
)

// loop runs what is posted, one after the other.
type loop struct {
	env.Exec
	posted chan func()
	dead   atomic.Bool
}

func newLoop(t *testing.T) *loop {
	l := &loop{posted: make(chan func())}
	go func() {
		for f := range l.posted {
			f()
		}
	}()
	t.Cleanup(func() { close(l.posted) })
	return l
}

func (l *loop) Post(f func()) bool {
	if l.dead.Load() {
		return false
	}
	l.posted <- f
	return true
}

// logged collects warnings.
type logged struct{ strings.Builder }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.HTTP.IP, o.HTTP.EnablePrometheus = "127.0.0.1", true
	if o.HTTP.PrometheusPath == "" {
		o.HTTP.PrometheusPath = "/metrics"
	}
	if o.Exec == nil {
		o.Exec = newLoop(t)
	}
	if o.Snapshot == nil {
		o.Snapshot = func() *metrics.Snapshot { return &metrics.Snapshot{} }
	}
	s := Start(o)
	if s == nil {
		t.Fatal("the server has not started")
	}
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string, client *http.Client) (int, string, http.Header) {
	t.Helper()
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body), r.Header
}

func TestPaths(t *testing.T) {
	var master atomic.Bool
	l := newLoop(t)
	s := start(t, Options{Exec: l, HTTP: option.HTTP{PrometheusPath: "/some/path//"}, Snapshot: func() *metrics.Snapshot {
		if !master.Load() {
			return nil
		}
		return &metrics.Snapshot{}
	}})
	url := "http://" + s.Address()
	code, _, _ := get(t, url+"/some/path", http.DefaultClient)
	if code != http.StatusServiceUnavailable {
		t.Errorf("standby: %d", code)
	}
	master.Store(true)
	for path, want := range map[string]int{"/some/path": 200, "/some/path/": 200, "/some/path?x=1": 200, "/": 404, "/metrics": 404, "/some": 404, "/some/path/x": 404} {
		code, body, header := get(t, url+path, http.DefaultClient)
		if code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
		if want == 200 && (header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" || !strings.Contains(body, "# TYPE vitastor_object_bytes gauge")) {
			t.Errorf("%s: %v %s", path, header, body)
		}
	}
	r, err := http.Post(url+"/some/path", "text/plain", strings.NewReader("x"))
	if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v %v", r, err)
	}
	r.Body.Close()
	l.dead.Store(true)
	if code, body, _ := get(t, url+"/some/path", http.DefaultClient); code != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("stopped loop: %d %s", code, body)
	}
}

// TestNotServing: what prevents the server is a warning that names the reason.
func TestNotServing(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := uint16(busy.Addr().(*net.TCPAddr).Port)
	bad := filepath.Join(t.TempDir(), "bad.pem")
	if err := os.WriteFile(bad, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, "server")
	for _, c := range []struct {
		http option.HTTP
		why  string
	}{
		{option.HTTP{IP: "127.0.0.1", Port: port}, "mon_http_port"},
		{option.HTTP{IP: "no such address"}, "mon_http_ip"},
		{option.HTTP{Cert: bad, Key: bad}, "mon_https_cert"},
		{option.HTTP{Cert: "/nonexistent"}, "mon_https_cert"},
		{option.HTTP{Cert: cert, Key: key, ClientAuth: true, CA: bad}, "mon_https_ca"},
		{option.HTTP{Cert: cert, Key: key, ClientAuth: true, CA: "/nonexistent"}, "mon_https_ca"},
	} {
		var log logged
		c.http.EnablePrometheus = true
		if s := Start(Options{HTTP: c.http, Log: log.logger()}); s != nil {
			t.Errorf("%+v: serves", c.http)
			s.Close()
		}
		if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), c.why) {
			t.Errorf("%+v: the log says %q", c.http, log.String())
		}
	}
	var log logged
	s := Start(Options{HTTP: option.HTTP{IP: "127.0.0.1"}, Log: log.logger()})
	if s != nil || log.Len() != 0 {
		t.Errorf("disabled: %v %q", s, log.String())
	}
	s.Close()
	if s.Address() != "" {
		t.Error("no server has an address")
	}
}

func TestHTTPS(t *testing.T) {
	cert, key := certificate(t, "server")
	clientCert, clientKey := certificate(t, "client")
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(cert)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	client := func(certs ...tls.Certificate) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	s := start(t, Options{HTTP: option.HTTP{Cert: cert, Key: key}})
	if code, _, _ := get(t, "https://"+s.Address()+"/metrics", client()); code != 200 {
		t.Errorf("HTTPS: %d", code)
	}
	if code, _, _ := get(t, "http://"+s.Address()+"/metrics", http.DefaultClient); code != 400 {
		t.Errorf("plain HTTP to HTTPS: %d", code)
	}
	s = start(t, Options{HTTP: option.HTTP{Cert: cert, Key: key, ClientAuth: true, CA: clientCert}})
	if code, _, _ := get(t, "https://"+s.Address()+"/metrics", client(pair)); code != 200 {
		t.Errorf("HTTPS with a client certificate: %d", code)
	}
	for _, c := range []*http.Client{client(), client(stranger)} {
		if r, err := c.Get("https://" + s.Address() + "/metrics"); err == nil {
			t.Errorf("HTTPS without the right client certificate: %d", r.StatusCode)
			r.Body.Close()
		}
	}
}

// TestBusyLoop: a loop that does nothing does not hold the server's end, and a
// client that goes away frees its request.
func TestBusyLoop(t *testing.T) {
	l := &loop{posted: make(chan func())} // nobody takes anything
	s := start(t, Options{Exec: l})
	c := &http.Client{Timeout: 50 * time.Millisecond}
	if r, err := c.Get("http://" + s.Address() + "/metrics"); err == nil {
		t.Errorf("answer %d from nobody", r.StatusCode)
		r.Body.Close()
	}
	done := make(chan error, 1)
	go func() {
		_, err := http.Get("http://" + s.Address() + "/metrics")
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	s.Close()
	if err := <-done; err == nil {
		t.Error("a request survived Close")
	}
	for len(l.posted) > 0 {
		<-l.posted
	}
}

// certificate makes a self-signed one.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func Example() {
	s := Start(Options{HTTP: option.HTTP{EnablePrometheus: false}})
	fmt.Println(s.Address() == "")
	// Output: true
}
