package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"vitastor/internal/etcd"
	"vitastor/internal/schema/option"
)

const defaultConfigPath = "/etc/vitastor/vitastor.conf"

// etcdUnitPath is the unit that make-etcd writes.
const etcdUnitPath = "/etc/systemd/system/vitastor-etcd.service"

// etcdUnit is the member of this host. The limits are those that the keys of a
// large cluster need (spec cli.md §4); the data is in one folder of its own.
const etcdUnit = `[Unit]
Description=etcd of Vitastor
After=network-online.target local-fs.target time-sync.target
Wants=network-online.target local-fs.target time-sync.target

[Service]
Restart=always
ExecStart=/usr/bin/etcd --name %[1]s --data-dir /var/lib/etcd/vitastor \
    --snapshot-count 10000 --advertise-client-urls http://%[2]s:2379 --listen-client-urls http://%[2]s:2379 \
    --initial-advertise-peer-urls http://%[2]s:2380 --listen-peer-urls http://%[2]s:2380 \
    --initial-cluster-token vitastor-etcd-1 --initial-cluster %[3]s \
    --initial-cluster-state new --max-txn-ops=100000 --max-request-bytes=104857600 \
    --auto-compaction-retention=10 --auto-compaction-mode=revision
WorkingDirectory=/
ExecStartPre=+/usr/bin/install -d -m 700 -o etcd -g etcd /var/lib/etcd/vitastor
User=etcd
PrivateTmp=false
TasksMax=infinity
RestartSec=10

[Install]
WantedBy=multi-user.target
`

// etcdMember is the unit of the host that has one of the addresses of etcd.
func etcdMember(endpoints, ours []string) (string, error) {
	var self string
	var members []string
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || strings.Contains(u.Hostname(), ":") {
			return "", fmt.Errorf("etcd_address %s: make-etcd knows IPv4 addresses and host names only", e)
		}
		host := u.Hostname()
		members = append(members, fmt.Sprintf("%s=http://%s:2380", memberName(host), host))
		if self == "" && slices.Contains(ours, host) {
			self = host
		}
	}
	if self == "" {
		return "", fmt.Errorf("no address of this host (%s) is in etcd_address (%s): run make-etcd on the hosts of etcd",
			strings.Join(ours, ", "), strings.Join(endpoints, ", "))
	}
	return fmt.Sprintf(etcdUnit, memberName(self), self, strings.Join(members, ",")), nil
}

// memberName has no characters that etcd gives a meaning.
func memberName(host string) string {
	return "etcd" + strings.NewReplacer(".", "_", "-", "_").Replace(host)
}

// host is what make-etcd changes; tests have another.
type host struct {
	unitPath  string
	addresses []string
	systemctl func(args ...string) error
}

func thisHost(out io.Writer) host {
	return host{etcdUnitPath, addresses(), func(args ...string) error {
		cmd := exec.Command("systemctl", args...)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd.Run()
	}}
}

// makeEtcd is the command: it makes a member of the etcd cluster of this host.
func (h host) makeEtcd(configPath string, out io.Writer) error {
	data, err := os.ReadFile(configPath)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	layer, problem := option.ReadLayer(option.Monitor, option.File, configPath, data)
	if problem != nil {
		return *problem
	}
	set, err := option.Merge(option.Monitor, option.Facts{}, layer)
	if err != nil {
		return err
	}
	config, _ := set.Monitor() // etcd_address may be missing
	endpoints, err := etcd.ParseEndpoints(config.Common.EtcdAddress...)
	if err != nil {
		return fmt.Errorf("%s: %w", configPath, err)
	}
	unit, err := etcdMember(endpoints, h.addresses)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(h.unitPath, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: etcd was made already; to make it anew remove the file, and the data in /var/lib/etcd/vitastor", h.unitPath)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(unit)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(h.unitPath)
		return err
	}
	fmt.Fprintln(out, "wrote", h.unitPath)
	return h.start(out)
}

// start replaces the distribution's etcd, which has the same ports.
func (h host) start(out io.Writer) error {
	unit := filepath.Base(h.unitPath)
	for _, step := range [][]string{{"daemon-reload"}, {"disable", "--now", "etcd"}, {"enable", unit}, {"start", "--no-block", unit}} {
		if err := h.systemctl(step...); err != nil && step[0] != "disable" { // there may be no such unit
			return fmt.Errorf("systemctl %s: %w", strings.Join(step, " "), err)
		}
	}
	fmt.Fprintf(out, "%s is started; it waits until most of the hosts of etcd have done the same\n", unit)
	return nil
}
