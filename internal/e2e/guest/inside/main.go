// Command inside runs in a machine of package guest: it starts a cluster there
// and then a command, which finds the cluster as it would on any host, by
// /etc/vitastor/vitastor.conf; or the cases of front ends of kernels.
//
//	inside -bin DIR -log DIR COMMAND ARGUMENTS...
//	inside -bin DIR -log DIR -cases nbd,nbd-netlink
//
// Guarantee: the exit code is that of the command, or 1 if the cluster does not
// start or a case fails; all logs are in the folder -log.
// Concurrency: one goroutine, except what runs next to the load of a case.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/guest/boot"
)

// configFile is where all programs look first.
const configFile = "/etc/vitastor/vitastor.conf"

const pool = "testpool"

func main() {
	bin := flag.String("bin", "", "folder of the programs")
	log := flag.String("log", "", "folder of logs")
	osds := flag.Int("osds", 3, "number of OSDs")
	cases := flag.String("cases", "", "front ends whose cases are run instead of a command")
	flag.Parse()
	code, err := run(*bin, *log, *osds, *cases, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "inside:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(bin, log string, osds int, cases string, command []string) (code int, err error) {
	if err := copyPrograms(bin); err != nil {
		return 1, err
	}
	c, err := start(log, osds)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, c.Stop(), c.Close(), c.CheckDisks()) }()
	if cases != "" {
		return runCases(c, log, strings.Split(cases, ","))
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return max(failed.ExitCode(), 1), nil
	}
	return 0, err
}

// copyPrograms makes copies in memory: starting one from the host is ten times
// slower.
func copyPrograms(from string) error {
	files, err := filepath.Glob(filepath.Join(from, "vitastor-*"))
	for _, file := range files {
		err = errors.Join(err, copyFile(filepath.Join(boot.Programs, filepath.Base(file)), file))
	}
	return err
}

// parameters of the cluster: nobody is dead only because he is slow.
var parameters = map[string]any{"etcd_lease_ttl": 30, "etcd_quick_timeout": 10000, "osd_ping_timeout": 30, "etcd_stats_interval": 1}

// start runs a cluster on a tmpfs, with one pool. Its disks have volatile caches:
// flushes matter.
func start(log string, osds int) (*cluster.Cluster, error) {
	dir := "/run/cluster"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(log, filepath.Join(dir, "log"))); err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: cluster.At(boot.Programs), Global: parameters, EmbeddedEtcd: true, Lazy: true, OSDs: osds, OSDBytes: 1 << 30,
		Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }})
	if err != nil {
		return nil, err
	}
	err = c.Start()
	if err == nil {
		err = c.CreatePool(1, cluster.Replicated(pool, 2, 8))
	}
	if err == nil {
		err = copyFile(configFile, c.ConfigFile())
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	return err
}

// uptime is that of the machine.
func uptime() time.Duration {
	var seconds float64
	text, err := os.ReadFile("/proc/uptime")
	if err == nil {
		fmt.Sscan(string(text), &seconds)
	}
	return time.Duration(seconds * float64(time.Second))
}
