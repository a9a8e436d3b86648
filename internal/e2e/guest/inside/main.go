// Command inside runs in a machine of package guest: it starts a cluster there
// and then a command, which finds the cluster as it would on any host, by
// /etc/vitastor/vitastor.conf.
//
//	inside -bin DIR -log DIR COMMAND ARGUMENTS...
//
// Guarantee: the exit code is that of the command, or 1 if the cluster does not
// start; all logs are in the folder -log.
// Concurrency: one goroutine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"vitastor/internal/e2e/cluster"
)

// configFile is where all programs look first.
const configFile = "/etc/vitastor/vitastor.conf"

func main() {
	bin := flag.String("bin", "", "folder of the programs")
	log := flag.String("log", "", "folder of logs")
	osds := flag.Int("osds", 3, "number of OSDs")
	flag.Parse()
	code, err := run(*bin, *log, *osds, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "inside:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(bin, log string, osds int, command []string) (code int, err error) {
	c, err := start(bin, log, osds)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, c.Stop(), c.Close()) }()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return max(failed.ExitCode(), 1), nil
	}
	return 0, err
}

// start runs a cluster on a tmpfs, with the pool "testpool".
func start(bin, log string, osds int) (*cluster.Cluster, error) {
	dir := "/run/cluster"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(log, filepath.Join(dir, "log"))); err != nil {
		return nil, err
	}
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: cluster.At(bin), EmbeddedEtcd: true, OSDs: osds, OSDBytes: 1 << 30,
		Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }})
	if err != nil {
		return nil, err
	}
	err = c.Start()
	if err == nil {
		err = c.CreatePool(1, cluster.Replicated("testpool", 2, 8))
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(configFile), 0o755)
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
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
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
