package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/kvtest"
)

// identity writes a self-signed certificate for 127.0.0.1 and its key.
func identity(t *testing.T) (certFile, keyFile string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert},
		keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// terminate puts TLS before a server, which asks for client certificates.
func terminate(t *testing.T, endpoint, certFile, keyFile string) (secure string) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	ca := x509.NewCertPool()
	text, _ := os.ReadFile(certFile)
	ca.AppendCertsFromPEM(text)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair},
		NextProtos: []string{"h2"}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "http://"))
			if err != nil {
				c.Close()
				continue
			}
			go func() { io.Copy(s, c); s.Close() }()
			go func() { io.Copy(c, s); c.Close() }()
		}
	}()
	return "https://" + l.Addr().String()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	e := startEmbedded(t, embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	t.Cleanup(e.Stop)
	l := kvtest.NewLoop(t, false)
	certFile, keyFile := identity(t)
	endpoints := []string{terminate(t, e.Endpoint(), certFile, keyFile)}
	put := kvtest.Put("/a", "1")

	good := etcd.Config{Endpoints: endpoints, CAFile: certFile, CertFile: certFile, KeyFile: keyFile}
	if _, err := txn(t, l, kvtest.OpenKV(t, l, good), 5*time.Second, put); err != nil {
		t.Error(err)
	}
	unknownCA := good
	unknownCA.CAFile = ""
	if _, err := txn(t, l, kvtest.OpenKV(t, l, unknownCA), 3*time.Second, put); !errors.Is(err, env.ErrKVUnavailable) ||
		!strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: %v", err)
	}
	noCert := good
	noCert.CertFile, noCert.KeyFile = "", ""
	if _, err := txn(t, l, kvtest.OpenKV(t, l, noCert), 3*time.Second, put); err == nil {
		t.Error("a client without certificate is let in")
	}

	missing := filepath.Join(t.TempDir(), "none.pem")
	for want, c := range map[string]etcd.Config{
		"no etcd endpoints":    {},
		"set together":         {Endpoints: endpoints, User: "u"},
		missing:                {Endpoints: endpoints, CAFile: missing},
		"no PEM certificate":   {Endpoints: endpoints, CAFile: keyFile},
		"client certificate":   {Endpoints: endpoints, CertFile: certFile, KeyFile: missing},
		"begins with https://": {Endpoints: []string{"http://a:1"}, CAFile: certFile},
	} {
		if _, err := etcd.Open(c, l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestAuth uses a server with authentication switched on.
func TestAuth(t *testing.T) {
	t.Parallel()
	e := startEmbedded(t, embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	t.Cleanup(e.Stop)
	enableAuth(t, e.Endpoint())
	l := kvtest.NewLoop(t, false)
	put := kvtest.Put("/a", "1")
	try := func(user, password string, ops ...env.KVOp) (*etcd.KV, error) {
		kv := kvtest.OpenKV(t, l, etcd.Config{Endpoints: []string{e.Endpoint()}, User: user, Password: password})
		_, err := txn(t, l, kv, 30*time.Second, ops...)
		return kv, err
	}
	for name, user := range map[string][2]string{"anonymous": {"", ""}, "wrong password": {"vita", "no"}} {
		if _, err := try(user[0], user[1], put); !errors.Is(err, env.ErrKVInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	kv, err := try("vita", "secret", put)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := txn(t, l, kv, 10*time.Second, kvtest.Put("/forbidden", "")); !errors.Is(err, env.ErrKVInvalid) {
		t.Errorf("forbidden key: %v", err)
	}
	var allowed, forbidden *env.WatchResponse
	kv.Watch(env.WatchRequest{Key: "/a", Start: 1}, func(r *env.WatchResponse) { allowed = r })
	kv.Watch(env.WatchRequest{Key: "/b", Start: 1}, func(r *env.WatchResponse) { forbidden = r })
	l.Until(t, "answers to watches", func() bool { return allowed != nil && forbidden != nil })
	if len(allowed.Events) != 1 || !errors.Is(forbidden.Err, env.ErrKVInvalid) {
		t.Errorf("watches: %+v, %+v", allowed, forbidden)
	}
	ended := false
	kv.Grant(60, 10*time.Second, func(id env.LeaseID, err error) {
		kv.KeepAlive(id, 10*time.Second, func(ttl int64, err error) {
			if ended = true; err != nil || ttl != 60 {
				t.Errorf("keepalive: %d, %v", ttl, err)
			}
		})
	})
	l.Until(t, "a lease", func() bool { return ended })
}

// enableAuth makes a user who may use /a.
func enableAuth(t *testing.T, endpoint string) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "vita", "secret"); return err },
		func() error { _, err := c.RoleAdd(ctx, "vita"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "vita", "/a", "", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, "vita", "vita"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}
