package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// ErrNoEtcd means that this machine has no etcd program.
var ErrNoEtcd = errors.New("the program etcd is not installed (Debian: etcd-server)")

// freePort finds a port of 127.0.0.1 that nobody uses.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// addEtcd chooses addresses and describes the members.
func (c *Cluster) addEtcd() error {
	if c.EmbeddedEtcd {
		address, err := c.address("mon1")
		if err != nil {
			return err
		}
		port, err := freePort()
		c.endpoints = []string{fmt.Sprintf("%s:%d", address, port)}
		return err
	}
	program, err := exec.LookPath("etcd")
	if err != nil {
		return ErrNoEtcd
	}
	type member struct{ name, client, peer string }
	var members []member
	var initial []string
	for i := range c.EtcdMembers {
		m := member{name: fmt.Sprintf("etcd%d", i+1)}
		address, err := c.address(m.name)
		if err != nil {
			return err
		}
		ports := [2]int{2379, 2380}
		if c.net == nil {
			for j := range ports {
				if ports[j], err = freePort(); err != nil {
					return err
				}
			}
		}
		m.client, m.peer = fmt.Sprintf("%s:%d", address, ports[0]), fmt.Sprintf("%s:%d", address, ports[1])
		members = append(members, m)
		initial = append(initial, m.name+"=http://"+m.peer)
		c.endpoints = append(c.endpoints, m.client)
	}
	for _, m := range members {
		args := []string{program, "--name", m.name, "--data-dir", filepath.Join(c.Dir, m.name),
			"--listen-client-urls", "http://" + m.client, "--advertise-client-urls", "http://" + m.client,
			"--listen-peer-urls", "http://" + m.peer, "--initial-advertise-peer-urls", "http://" + m.peer,
			"--initial-cluster", strings.Join(initial, ","),
			"--auto-compaction-mode", "revision", "--auto-compaction-retention", "10", "--log-level", "warn"}
		if !c.DefaultEtcdLimits {
			args = append(args, "--max-txn-ops", "100000", "--max-request-bytes", "104857600")
		}
		c.etcd = append(c.etcd, c.process(m.name, args...))
	}
	return nil
}

// quick tries again soon when a server does not listen yet.
var quick = grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second,
	Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond}})

// connect opens the client that the test uses itself.
func (c *Cluster) connect() (err error) {
	if c.client == nil {
		c.client, err = clientv3.New(clientv3.Config{Endpoints: c.endpoints, DialTimeout: time.Second,
			MaxCallSendMsgSize: 100 << 20, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{quick}})
		if err != nil {
			return err
		}
	}
	return c.Until("etcd answers", 15*time.Second, func() error {
		_, err := c.Get("/")
		return err
	})
}

// EtcdLeader finds the leader, from 1, and its version.
func (c *Cluster) EtcdLeader() (member int, version string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for i, endpoint := range c.endpoints {
		s, err := c.client.Status(ctx, endpoint)
		if err != nil {
			return 0, "", err
		}
		if s.Header.MemberId == s.Leader {
			return i + 1, s.Version, nil
		}
	}
	return 0, "", errors.New("etcd has no leader")
}

// Get reads a key, nil = there is none.
func (c *Cluster) Get(key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := c.client.Get(ctx, key)
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

// GetDir reads all keys that begin with dir.
func (c *Cluster) GetDir(dir string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := c.client.Get(ctx, dir, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, kv := range r.Kvs {
		all[string(kv.Key)] = kv.Value
	}
	return all, nil
}

// Put writes a key; nil deletes it.
func (c *Cluster) Put(key string, value []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	if value == nil {
		_, err = c.client.Delete(ctx, key)
	} else {
		_, err = c.client.Put(ctx, key, string(value))
	}
	return err
}

// PutJSON writes a value as JSON.
func (c *Cluster) PutJSON(key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return c.Put(key, text)
}

// Until repeats check until it succeeds, or returns its last error.
func (c *Cluster) Until(what string, limit time.Duration, check func() error) error {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return nil
		}
		if errors.Is(err, errGone) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: %w after %v: %w", what, ErrTimeout, limit, err)
}
