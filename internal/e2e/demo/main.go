// Command demo starts a cluster on this machine — vitastor-mon with etcd inside
// and three vitastor-osd on files — makes a pool and an image, and shows that
// they work. It is what `make demo` runs.
//
//	go run ./internal/e2e/demo [-dir DIR] [-bin DIR]        and stop everything
//	go run ./internal/e2e/demo -up                          and leave it running
//	go run ./internal/e2e/demo -down                        stop what -up has left
//
// Guarantee: without -up no process is left. The cluster of an earlier run in the
// same folder is stopped and removed first.
// Concurrency: one goroutine.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/cluster"
)

const (
	imageName  = "testimg"
	imageBytes = 256 << 20
)

func main() {
	dir := flag.String("dir", "tmp/demo/cluster", "folder of the cluster; it is replaced")
	bin := flag.String("bin", "bin", "folder of the programs")
	up := flag.Bool("up", false, "leave the cluster running")
	down := flag.Bool("down", false, "stop a cluster that was left running")
	flag.Parse()
	path, err := filepath.Abs(*dir)
	if err == nil && *down {
		err = stop(path)
	} else if err == nil {
		err = demo(path, *bin, *up)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// mark finds the processes of the cluster in a folder.
func mark(dir string) string { return "demo:" + dir }

func stop(dir string) error {
	n, err := cluster.StopMarked(mark(dir))
	if n > 0 {
		fmt.Printf("stopped %d processes\n", n)
	}
	return err
}

func demo(dir, bin string, up bool) error {
	if err := stop(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	programs, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	c, err := cluster.New(cluster.Config{Dir: dir, Bin: cluster.At(programs), EmbeddedEtcd: true, Log: say,
		Mark: mark(dir), Detached: up})
	if err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		c.Close()
		os.Exit(1)
	}()
	if err := run(c, dir, bin); err != nil {
		c.Close()
		return fmt.Errorf("%w\n%s", err, c.Logs(10))
	}
	if up {
		commands(c, dir)
		return nil
	}
	began := time.Now()
	err = c.Stop()
	say("everything stopped after %v; `make demo-up` leaves it running", time.Since(began).Round(time.Millisecond))
	if left := c.Close(); err == nil {
		err = left
	}
	return err
}

// run does what an administrator and a user would do.
func run(c *cluster.Cluster, dir, bin string) error {
	if err := c.Start(); err != nil {
		return err
	}
	if err := c.CreatePool(1, cluster.Replicated("testpool", 2, 16)); err != nil {
		return err
	}
	if err := c.CreateImage(1, 1, imageName, imageBytes); err != nil {
		return err
	}
	fmt.Printf("image %s of %d MiB exists; the example writes and reads it:\n", imageName, imageBytes>>20)
	if err := example(c); err != nil {
		return err
	}
	fmt.Println("now OSD 1 is killed with -9, and the example runs again:")
	if err := c.OSD(1).Kill(); err != nil {
		return err
	}
	if err := example(c); err != nil {
		return err
	}
	if err := c.OSD(1).Start(); err != nil {
		return err
	}
	if err := c.WaitState(1, "active", 20*time.Second); err != nil {
		return err
	}
	fmt.Println("OSD 1 runs again, all placement groups are active and clean")
	return nil
}

// exampleArgs runs the Go example on the image.
func exampleArgs(c *cluster.Cluster) []string {
	return []string{"go", "run", "./libclient/examples/hello", "-etcd_address", strings.Join(c.Endpoints(), ","), "-image", imageName}
}

func example(c *cluster.Cluster) error {
	args := exampleArgs(c)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func commands(c *cluster.Cluster, dir string) {
	fmt.Printf(`
The cluster runs, with logs in %[1]s/log. Try:
  %[2]s
  curl -s %[3]s | grep vitastor_pg_count | grep -v ' 0$'
  etcdctl --endpoints %[4]s get --prefix /vitastor/pg/state/   # Debian: etcd-client
  kill -9 %[5]d      # OSD 2; clients go on
  make demo-down     # stops everything
`, dir, strings.Join(exampleArgs(c), " "), c.MetricsURL(1), c.Endpoints()[0], c.OSD(2).PID())
}
