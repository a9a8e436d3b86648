package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeEtcd(t *testing.T) {
	dir := t.TempDir()
	config, unit := filepath.Join(dir, "conf"), filepath.Join(dir, "vitastor-etcd.service")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var steps []string
	h := host{unit, []string{"10.0.0.2", "192.168.1.1"}, func(args ...string) error {
		steps = append(steps, strings.Join(args, " "))
		if args[0] == "disable" {
			return errors.New("no such unit")
		}
		return nil
	}}
	var out bytes.Buffer
	for text, want := range map[string]string{
		`{}`:                                  "etcd_address is empty",
		`{"etcd_address": ["10.0.0.1:2379"]}`: "no address of this host (10.0.0.2, 192.168.1.1)",
		`{"etcd_address": "http://[fe80::1]:237"}`: "IPv4",
		`{`: config,
	} {
		write(text)
		if err := h.makeEtcd(config, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := h.makeEtcd(config+"x", &out); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	write(`{"etcd_address": ["10.0.0.1:2379", "http://10.0.0.2:2379/v3", "10.0.0.3"], "osd_network": "10.0.0.0/24"}`)
	if err := h.makeEtcd(config, &out); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(unit)
	for _, want := range []string{"--name etcd10_0_0_2 ", "--listen-client-urls http://10.0.0.2:2379",
		"--initial-cluster etcd10_0_0_1=http://10.0.0.1:2380,etcd10_0_0_2=http://10.0.0.2:2380,etcd10_0_0_3=http://10.0.0.3:2380 ",
		"--max-txn-ops=100000", "User=etcd\n"} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%v: no %q in\n%s", err, want, text)
		}
	}
	if got := strings.Join(steps, "; "); got != "daemon-reload; disable --now etcd; enable vitastor-etcd.service; start --no-block vitastor-etcd.service" {
		t.Error(got)
	}
	steps = nil
	if err := h.makeEtcd(config, &out); err == nil || !strings.Contains(err.Error(), "exists") || len(steps) != 0 {
		t.Errorf("a second time: %v, %v", err, steps)
	}
	os.Remove(unit)
	h.systemctl = func(...string) error { return errors.New("boom") }
	if err := h.makeEtcd(config, &out); err == nil || !strings.Contains(err.Error(), "systemctl daemon-reload: boom") {
		t.Error(err)
	}
}
