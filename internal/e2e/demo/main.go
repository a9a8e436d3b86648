// Command demo starts a cluster on this machine — vitastor-mon with etcd inside
// and three vitastor-osd on files — makes a pool and an image, imports a disk,
// serves it over NBD, and shows that all that works. It is what `make demo` runs.
//
//	go run ./internal/e2e/demo [-dir DIR] [-bin DIR]   runs until Ctrl-C if it is on a terminal
//	go run ./internal/e2e/demo -up                     leaves the cluster running
//	go run ./internal/e2e/demo -down                   stops what -up has left
//
// Guarantee: without -up no process is left. Data stays in the folder: the next
// start goes on with it.
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
	diskName   = "disk"
	readyFile  = "ready" // exists when the first start has done everything
	imageBytes = 256 << 20
)

func main() {
	dir := flag.String("dir", "tmp/demo/cluster", "folder of the cluster; what is in it is used again")
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
	_, missing := os.Stat(filepath.Join(dir, readyFile))
	if missing != nil { // new, or an attempt that did not get far
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
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
	nbd, err := run(c, dir, missing != nil)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, c.Logs(10))
		end(c, nbd)
		return err
	}
	commands(c, dir, bin)
	switch {
	case up:
		say("  make demo-down     # stops everything; the data stays, make demo finds it again")
		return nil
	case terminal():
		say("Ctrl-C stops everything; the data stays, the next start finds it again")
		<-interrupted
	}
	began := time.Now()
	err = end(c, nbd)
	say("everything stopped after %v; the data is in %s", time.Since(began).Round(time.Millisecond), dir)
	return err
}

// end stops everything in order.
func end(c *cluster.Cluster, nbd *cluster.Process) error {
	if nbd != nil && nbd.Running() {
		nbd.Terminate(5 * time.Second)
	}
	err := c.Stop()
	if left := c.Close(); err == nil {
		err = left
	}
	return err
}

// terminal tells whether somebody can press Ctrl-C.
func terminal() bool {
	file, err := os.Readlink("/proc/self/fd/0")
	return err == nil && (strings.HasPrefix(file, "/dev/pts/") || strings.HasPrefix(file, "/dev/tty"))
}

// run does what an administrator and a user would do. fresh: for the first time.
func run(c *cluster.Cluster, dir string, fresh bool) (nbd *cluster.Process, err error) {
	if err := c.Start(); err != nil {
		return nil, err
	}
	steps := []func(*cluster.Cluster, string) error{create, kill}
	if !fresh {
		steps = []func(*cluster.Cluster, string) error{found}
	}
	for _, step := range steps {
		if err := step(c, dir); err != nil {
			return nil, err
		}
	}
	nbd, err = serve(c, dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, readyFile), nil, 0o644)
	}
	return nbd, err
}

// create makes a pool and two images: one for the example, one from a file.
func create(c *cluster.Cluster, dir string) error {
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
	file := filepath.Join(dir, diskName+".raw")
	if err := makeDisk(file); err != nil {
		return err
	}
	fmt.Printf("a disk with an ext4 file system is imported as image %s:\n", diskName)
	return cli(c, "dd", "if="+file, "oimg="+diskName, "--pool", "testpool")
}

// makeDisk makes a file system with README.md in it.
func makeDisk(file string) error {
	content := filepath.Join(filepath.Dir(file), "content")
	if err := os.MkdirAll(content, 0o755); err != nil {
		return err
	}
	readme, err := os.ReadFile("README.md")
	if err == nil {
		err = os.WriteFile(filepath.Join(content, "README.md"), readme, 0o644)
	}
	if err == nil {
		err = os.WriteFile(file, nil, 0o644)
	}
	if err == nil {
		err = os.Truncate(file, imageBytes)
	}
	if err != nil {
		return err
	}
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-d", content, file).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 (Debian: e2fsprogs): %w: %s", err, out)
	}
	return nil
}

// kill shows what the death of an OSD means.
func kill(c *cluster.Cluster, dir string) error {
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

// found shows that the data of an earlier start is there.
func found(c *cluster.Cluster, dir string) error {
	if err := c.WaitState(1, "active", 30*time.Second); err != nil {
		return err
	}
	fmt.Println("the cluster of an earlier start runs again, with its images:")
	return cli(c, "ls", "-l")
}

// serve starts an NBD server for all images and looks at one of them.
func serve(c *cluster.Cluster, dir string) (*cluster.Process, error) {
	socket := filepath.Join(dir, "nbd.sock")
	nbd := c.Tool("vitastor-nbd", c.Bin.Program("vitastor-nbd"), "--config_path", c.ConfigFile(), "--all", "--socket", socket, "serve")
	os.Remove(socket) // of an earlier start
	if err := nbd.Start(); err != nil {
		return nbd, err
	}
	return nbd, c.Until("the NBD server", 10*time.Second, func() error {
		if !nbd.Running() {
			return fmt.Errorf("vitastor-nbd has ended: %s", nbd.Log(3))
		}
		_, err := os.Stat(socket)
		return err
	})
}

// cli runs vitastor-cli.
func cli(c *cluster.Cluster, args ...string) error {
	cmd := exec.Command(c.Bin.Program("vitastor-cli"), append([]string{"--config_path", c.ConfigFile()}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
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

func commands(c *cluster.Cluster, dir, bin string) {
	if err := cli(c, "status"); err != nil {
		fmt.Println(err)
	}
	fmt.Printf(`
The cluster runs, with logs in %[1]s/log. Try, in another terminal:
  %[7]s/vitastor-cli --config_path %[6]s ls -l     # or status, df, osd-tree, pgs, top
  qemu-img info 'nbd+unix:///%[8]s?socket=%[1]s/nbd.sock'     # Debian: qemu-utils
  qemu-img convert -p -O qcow2 'nbd+unix:///%[8]s?socket=%[1]s/nbd.sock' copy.qcow2
  %[2]s
  curl -s %[3]s | grep vitastor_pg_count | grep -v ' 0$'
  etcdctl --endpoints %[4]s get --prefix /vitastor/pg/state/     # etcd-client
  kill -9 %[5]d     # OSD 2; clients go on
`, dir, strings.Join(exampleArgs(c), " "), c.MetricsURL(1), c.Endpoints()[0], c.OSD(2).PID(), c.ConfigFile(), bin, diskName)
}
