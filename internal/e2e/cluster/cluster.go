package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Config says what a cluster consists of. The zero value of most fields is
// useful.
type Config struct {
	Dir string // for everything; must exist
	Bin Bin    // programs of this tree

	EtcdMembers int // 0 = one; ignored with EmbeddedEtcd
	// DefaultEtcdLimits starts etcd without the limits that clusters need.
	DefaultEtcdLimits bool
	// EmbeddedEtcd: the (only) monitor runs etcd.
	EmbeddedEtcd bool
	Monitors     int // 0 = one, -1 = none
	OSDs         int // 0 = three, -1 = none
	// OSDBytes is the size of each disk; 0 = 1 GiB. The file is sparse.
	OSDBytes int64
	// DisksIn is the folder of disks; "" = Dir.
	DisksIn string
	// Lazy: disks have volatile caches, commits are not immediate.
	Lazy    bool
	Prepare []string // more arguments of vitastor-disk prepare
	OSDArgs []string // more arguments of OSDs
	MonArgs []string // more arguments of monitors
	// Global is config/global, set before anything starts.
	Global map[string]any
	// Namespaces gives each OSD, monitor and etcd member a network namespace.
	Namespaces bool
	// Mark names the cluster in the environment of its processes; "" = a new
	// name. With Detached they survive us, until StopMarked.
	Mark     string
	Detached bool
	// Program replaces programs by name, such as "osd2" or "mon1": peers of
	// another implementation.
	Program map[string]string
	Log     func(format string, args ...any) // nil = nothing
}

// Cluster is a running cluster.
type Cluster struct {
	Config
	Keys schema.Keys

	mark string
	net  *network
	etcd []*Process
	mons []*Process
	http []string // addresses of monitors
	osds map[meta.OSDNum]*Process

	endpoints []string
	client    *clientv3.Client
}

// New prepares folders, addresses and disks; nothing runs after it.
func New(c Config) (*Cluster, error) {
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	setDefault(&c.EtcdMembers, 1)
	setDefault(&c.Monitors, 1)
	setDefault(&c.OSDs, 3)
	setDefault(&c.OSDBytes, 1<<30)
	if c.DisksIn == "" {
		c.DisksIn = c.Dir
	}
	if c.Lazy {
		c.Global = maps.Clone(c.Global)
		if c.Global == nil {
			c.Global = map[string]any{}
		}
		c.Global["immediate_commit"] = "none"
	}
	cl := &Cluster{Config: c, Keys: schema.NewKeys(""), osds: map[meta.OSDNum]*Process{}}
	if cl.mark = c.Mark; cl.mark == "" {
		cl.mark = fmt.Sprintf("%d-%s", os.Getpid(), filepath.Base(c.Dir))
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "log"), 0o755); err != nil {
		return nil, err
	}
	if c.Namespaces {
		n, err := newNetwork()
		if err != nil {
			return nil, err
		}
		cl.net = n
	}
	if err := cl.addAll(); err != nil {
		cl.Close()
		return nil, err
	}
	return cl, nil
}

// setDefault replaces 0; negative numbers mean none.
func setDefault[T int | int64](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

func (c *Cluster) addAll() error {
	if err := c.addEtcd(); err != nil {
		return err
	}
	if err := os.WriteFile(c.ConfigFile(), c.fileConfig(), 0o644); err != nil {
		return err
	}
	for i := range max(c.Monitors, 0) {
		if err := c.addMonitor(i + 1); err != nil {
			return err
		}
	}
	for i := range max(c.OSDs, 0) {
		if err := c.AddOSD(meta.OSDNum(i+1), c.OSDBytes); err != nil {
			return err
		}
	}
	return nil
}

// ConfigFile is what clients and OSDs use as config_path.
func (c *Cluster) ConfigFile() string { return filepath.Join(c.Dir, "vitastor.conf") }

func (c *Cluster) fileConfig() []byte {
	text, _ := json.Marshal(map[string]any{"etcd_address": c.endpoints})
	return append(text, '\n')
}

// Endpoints are the addresses of etcd.
func (c *Cluster) Endpoints() []string { return c.endpoints }

// process describes one, in the namespace of that name if there are some.
func (c *Cluster) process(name string, args ...string) *Process {
	if other := c.Program[name]; other != "" {
		args[0] = other
	}
	if c.net != nil {
		args = append([]string{"ip", "netns", "exec", c.net.namespace(name)}, args...)
	}
	return &Process{Name: name, args: args, log: filepath.Join(c.Dir, "log", name), mark: c.mark, detached: c.Detached}
}

// address gives a name an IP address, in its own namespace if there are some.
func (c *Cluster) address(name string) (string, error) {
	if c.net == nil {
		return "127.0.0.1", nil
	}
	return c.net.add(name)
}

func (c *Cluster) addMonitor(i int) error {
	name := fmt.Sprintf("mon%d", i)
	address, err := c.address(name)
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	c.http = append(c.http, fmt.Sprintf("http://%s:%d/metrics", address, port))
	args := []string{c.Bin.Program("vitastor-mon"), "--etcd_address", strings.Join(c.endpoints, ","),
		"--mon_http_port", strconv.Itoa(port)}
	if c.EmbeddedEtcd {
		args = append(args, "--embed-etcd", filepath.Join(c.Dir, "etcd"), "--embed-etcd-listen", c.endpoints[0])
	}
	c.mons = append(c.mons, c.process(name, append(args, c.MonArgs...)...))
	return nil
}

// Disk is the file of an OSD.
func (c *Cluster) Disk(n meta.OSDNum) string {
	return filepath.Join(c.DisksIn, fmt.Sprintf("osd%d.img", n))
}

// AddOSD prepares a disk and an OSD on it, which does not run yet. An existing
// disk is used as it is.
func (c *Cluster) AddOSD(n meta.OSDNum, bytes int64) error {
	if _, err := os.Stat(c.Disk(n)); errors.Is(err, os.ErrNotExist) {
		if err := c.prepare(n, bytes); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("osd%d", n)
	address, err := c.address(name)
	if err != nil {
		return err
	}
	p, err := c.OSDOn(name, c.Disk(n), "--bind_address", address)
	if err != nil {
		return err
	}
	c.osds[n] = p
	return nil
}

func (c *Cluster) prepare(n meta.OSDNum, bytes int64) error {
	fsync := "1"
	if c.Lazy {
		fsync = "0"
	}
	return c.PrepareDisk(n, c.Disk(n), bytes, append([]string{"--disable_data_fsync", fsync}, c.Prepare...)...)
}

// PrepareDisk makes a file that is the disk of an OSD; more are arguments of
// vitastor-disk prepare.
func (c *Cluster) PrepareDisk(n meta.OSDNum, file string, bytes int64, more ...string) error {
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(file, bytes); err != nil {
		return err
	}
	args := []string{c.Bin.Program("vitastor-disk"), "prepare", "--osd_num", strconv.Itoa(int(n)), "--data_device", file,
		"--meta_reserve", "2x,16M", "--data_csum_type", "crc32c"}
	_, err := run(c.Dir, append(args, more...)...)
	return err
}

// Superblock is that of a prepared disk, as JSON.
func (c *Cluster) Superblock(disk string) ([]byte, error) {
	out, err := run(c.Dir, c.Bin.Program("vitastor-disk"), "read-sb", disk)
	return []byte(out), err
}

// OSDOn is an OSD process on a prepared disk, with the parameters of its
// superblock on the command line as vitastor-disk exec-osd gives them. It is
// none of the cluster's OSDs.
func (c *Cluster) OSDOn(name, disk string, more ...string) (*Process, error) {
	out, err := c.Superblock(disk)
	if err != nil {
		return nil, err
	}
	var sb map[string]any
	numbers := json.NewDecoder(bytes.NewReader(out))
	numbers.UseNumber() // offsets exactly as they are
	if err := numbers.Decode(&sb); err != nil {
		return nil, fmt.Errorf("vitastor-disk read-sb %s: %w", disk, err)
	}
	args := []string{c.Bin.Program("vitastor-osd"), "--config_path", c.ConfigFile()}
	for _, k := range slices.Sorted(maps.Keys(sb)) {
		args = append(args, "--"+k, fmt.Sprint(sb[k]))
	}
	args = append(args, more...)
	return c.process(name, append(args, c.OSDArgs...)...), nil
}

// Tool is one more process of the cluster, such as a server on a host with
// virtual machines: it dies with us, and must be ended before Close.
func (c *Cluster) Tool(name string, args ...string) *Process { return c.process(name, args...) }

// OSD is the process of an OSD.
func (c *Cluster) OSD(n meta.OSDNum) *Process { return c.osds[n] }

// OSDNumbers lists the OSDs, ascending.
func (c *Cluster) OSDNumbers() []meta.OSDNum { return slices.Sorted(maps.Keys(c.osds)) }

// Mon is the process of a monitor, from 1.
func (c *Cluster) Mon(i int) *Process { return c.mons[i-1] }

// MetricsURL is where a monitor, from 1, serves metrics.
func (c *Cluster) MetricsURL(i int) string { return c.http[i-1] }

// Etcd is the process of a member of etcd, from 1.
func (c *Cluster) Etcd(i int) *Process { return c.etcd[i-1] }

// Start runs everything and waits until all OSDs are registered.
func (c *Cluster) Start() error {
	began := time.Now()
	first := c.etcd
	if c.EmbeddedEtcd {
		first = c.mons
	}
	for _, p := range first {
		if err := p.Start(); err != nil {
			return err
		}
	}
	if err := c.connect(); err != nil {
		return fmt.Errorf("etcd does not answer: %w\n%s", err, first[0].Log(20))
	}
	if c.Global != nil {
		if err := c.PutJSON(c.Keys.Global(), c.Global); err != nil {
			return err
		}
	}
	for _, p := range c.mons {
		if !c.EmbeddedEtcd {
			if err := p.Start(); err != nil {
				return err
			}
		}
	}
	for _, n := range c.OSDNumbers() {
		if err := c.osds[n].Start(); err != nil {
			return err
		}
	}
	for _, n := range c.OSDNumbers() {
		if err := c.WaitUp(n, 20*time.Second); err != nil {
			return err
		}
	}
	c.Log("etcd, %d monitors and %d OSDs run after %v", len(c.mons), len(c.osds), time.Since(began).Round(time.Millisecond))
	return nil
}

// Stop ends everything as an administrator would: OSDs first, then monitors and
// etcd.
func (c *Cluster) Stop() error {
	var errs []error
	for _, group := range [][]*Process{slices.Collect(maps.Values(c.osds)), c.mons, c.etcd} {
		for _, p := range group {
			if !p.Running() {
				continue
			}
			if code, err := p.Terminate(20 * time.Second); err != nil || code != 0 {
				errs = append(errs, fmt.Errorf("%s: exit code %d: %w", p.Name, code, errors.Join(err, errors.New(p.Log(10)))))
			}
		}
	}
	return errors.Join(errs...)
}

// StopMarked ends the processes of a detached cluster, and tells how many there
// were.
func StopMarked(mark string) (int, error) {
	count := len(marked(mark))
	for _, kind := range []string{"vitastor-osd", "vitastor-mon", ""} {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			left := 0
			for pid, line := range marked(mark) {
				program, _, _ := strings.Cut(line, " ")
				if strings.HasSuffix(program, kind) {
					syscall.Kill(pid, syscall.SIGTERM)
					left++
				}
			}
			if left == 0 {
				break
			}
			if time.Now().After(end) {
				return count, fmt.Errorf("processes do not end: %v", marked(mark))
			}
		}
	}
	return count, nil
}

// Close ends all processes and returns an error if one was left that none of
// ours should have left. Files stay.
func (c *Cluster) Close() error {
	all := append(append(slices.Collect(maps.Values(c.osds)), c.mons...), c.etcd...)
	for _, p := range all {
		if p.Running() {
			p.Kill()
		}
	}
	if c.client != nil {
		c.client.Close()
	}
	var left map[int]string
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		// A sentinel tries to revoke its lease for a while after its OSD.
		left = marked(c.mark)
		maps.DeleteFunc(left, func(_ int, line string) bool { return strings.HasPrefix(line, "vitastor-watch") })
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	for pid := range marked(c.mark) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if c.net != nil {
		c.net.remove()
	}
	if len(left) > 0 {
		return fmt.Errorf("processes were left: %v", left)
	}
	return nil
}

// CheckDisks verifies the stores of all OSDs, which must not run.
func (c *Cluster) CheckDisks() error {
	var errs []error
	for _, n := range c.OSDNumbers() {
		if _, err := run(c.Dir, c.Bin.Program("vitastor-disk"), "check", c.Disk(n)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Logs is the end of the log of every process: for failed tests.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*"))
	for _, file := range files {
		fmt.Fprintf(&b, "=== %s\n%s\n", filepath.Base(file), (&Process{log: file}).Log(lines))
	}
	return b.String()
}
