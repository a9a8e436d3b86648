package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"vitastor/internal/e2e/cluster"
)

// Attach is a way from QEMU to the images of a cluster.
type Attach struct {
	Name string
	// Drive is an image or snapshot as QEMU names it.
	Drive func(image string) string
	Env   []string // more environment of QEMU and its tools

	server *cluster.Process // nil = QEMU needs none
	socket string
}

// ServeNBD attaches through `vitastor-nbd serve` on a unix socket; program is
// its path.
func ServeNBD(c *cluster.Cluster, program string) (*Attach, error) {
	// The path of a unix socket may not be long.
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return nil, err
	}
	a := &Attach{Name: "vitastor-nbd", socket: filepath.Join(dir, "nbd")}
	a.Drive = func(image string) string { return "nbd+unix:///" + image + "?socket=" + a.socket }
	a.server = c.Tool("nbd", program, "serve", "--all", "--config_path", c.ConfigFile(), "--socket", a.socket)
	if err := a.Start(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Module attaches through our block driver, preloaded into QEMU.
func Module(c *cluster.Cluster, module string) *Attach {
	return &Attach{Name: "driver vitastor", Env: []string{"LD_PRELOAD=" + module},
		Drive: func(image string) string { return "vitastor:config_path=" + c.ConfigFile() + ":image=" + image }}
}

// Start runs the server, again after Kill.
func (a *Attach) Start() error {
	if a.server == nil {
		return nil
	}
	if err := a.server.Start(); err != nil {
		return err
	}
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && a.server.Running(); time.Sleep(10 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.Dial("unix", a.socket); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("vitastor-nbd does not listen: %w\n%s", err, a.server.Log(10))
}

// Kill ends the server with kill -9.
func (a *Attach) Kill() error {
	if a.server == nil {
		return nil
	}
	return a.server.Kill()
}

// Close ends the server as an administrator would, after all its users.
func (a *Attach) Close() error {
	if a.server == nil {
		return nil
	}
	defer os.RemoveAll(filepath.Dir(a.socket))
	if !a.server.Running() {
		return nil
	}
	code, err := a.server.Terminate(10 * time.Second)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return fmt.Errorf("vitastor-nbd: %w\n%s", err, a.server.Log(10))
	}
	return nil
}
