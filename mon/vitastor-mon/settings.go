package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"vitastor/internal/etcd"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/mon/daemon"
)

const (
	flagEmbed  = "embed_etcd"
	flagListen = "embed_etcd_listen"
)

// tool is the command line.
var tool = option.Tool{
	Name:      "vitastor-mon",
	Summary:   "The monitor of a Vitastor cluster: places data, chooses primaries, sums up statistics.",
	Component: option.Monitor,
	Arguments: "[make-etcd [CONFIG_FILE]]",
	Flags: []option.Flag{
		{Name: flagEmbed, Value: "DIR", Doc: "Run an etcd server inside, with its data in DIR. " +
			"For clusters of one machine: all programs depend on it."},
		{Name: flagListen, Value: "HOST:PORT", Doc: "Where the embedded etcd listens, default 127.0.0.1:2379. " +
			"There is no password: whoever connects, owns the cluster."},
	},
}

type command = option.Command

// settings are all parameters but those in etcd.
type settings struct {
	options daemon.Options
	config  option.MonitorConfig
	missing error // required parameters
}

// readSettings reads the file and merges it with the command line.
func readSettings(c *command, readFile func(string) ([]byte, error)) (*settings, error) {
	if c.Flags[flagListen] != "" && c.Flags[flagEmbed] == "" {
		return nil, errors.New("--embed-etcd-listen is only for --embed-etcd DIR")
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	s := &settings{options: daemon.Options{CommandLine: c.Options, Self: schema.Monitor{IPs: addresses(), Hostname: hostname}}}
	facts := option.Facts{Hostname: hostname}
	set, err := option.Merge(option.Monitor, facts, c.Options)
	if err != nil {
		return nil, err
	}
	path := set.Text("config_path")
	data, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	layer, problem := option.ReadLayer(option.Monitor, option.File, path, data)
	if problem != nil && problem.Fatal {
		return nil, *problem
	}
	s.options.File = layer
	if set, err = option.Merge(option.Monitor, facts, layer, c.Options); err != nil {
		return nil, err
	}
	s.config, s.missing = set.Monitor()
	if s.config.Antietcd.Use {
		return nil, errors.New("use_antietcd is set, but this monitor has no antietcd: run etcd, or use --embed-etcd DIR, " +
			"and remove use_antietcd from " + path + " or the command line")
	}
	return s, nil
}

// useEtcd replaces etcd_address by that of the embedded server.
func (s *settings) useEtcd(endpoint string) {
	s.config.Common.EtcdAddress, s.missing = []string{endpoint}, nil
}

func (s *settings) endpoints() ([]string, error) {
	if s.missing != nil {
		return nil, fmt.Errorf("%w (or use --embed-etcd DIR)", s.missing)
	}
	endpoints, err := etcd.ParseEndpoints(s.config.Common.EtcdAddress...)
	if err != nil {
		return nil, fmt.Errorf("etcd_address: %w", err)
	}
	return endpoints, nil
}

// addresses are the IPv4 addresses of this host but the loopback's: they are
// only shown to people.
func addresses() []string {
	list := []string{}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return list
	}
	for _, a := range all {
		ip, _, err := net.ParseCIDR(a.String())
		if err == nil && ip.To4() != nil && !ip.IsLoopback() && !strings.HasPrefix(ip.String(), "169.254.") {
			list = append(list, ip.String())
		}
	}
	return list
}
