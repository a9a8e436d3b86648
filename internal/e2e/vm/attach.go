package vm

import (
	"errors"
	"fmt"
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
	Env   []string     // more environment of QEMU and its tools
	Close func() error // after all users have ended
}

// ServeNBD attaches through `vitastor-nbd serve` on a unix socket; program is
// its path.
func ServeNBD(c *cluster.Cluster, program string) (*Attach, error) {
	// The path of a unix socket may not be long.
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "nbd")
	p := c.Tool("nbd", program, "serve", "--all", "--config_path", c.ConfigFile(), "--socket", socket)
	if err := p.Start(); err != nil {
		return nil, err
	}
	err = c.Until("vitastor-nbd listens", 10*time.Second, func() error {
		if !p.Running() {
			return fmt.Errorf("vitastor-nbd has ended:\n%s", p.Log(10))
		}
		_, err := os.Stat(socket)
		return err
	})
	a := &Attach{Name: "vitastor-nbd", Drive: func(image string) string { return "nbd+unix:///" + image + "?socket=" + socket }}
	a.Close = func() error {
		defer os.RemoveAll(dir)
		if code, err := p.Terminate(10 * time.Second); err != nil || code != 0 {
			return fmt.Errorf("vitastor-nbd: exit code %d: %w\n%s", code, err, p.Log(10))
		}
		return nil
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Module attaches through our block driver, preloaded into QEMU.
func Module(c *cluster.Cluster, module string) *Attach {
	return &Attach{Name: "driver vitastor", Env: []string{"LD_PRELOAD=" + module}, Close: func() error { return nil },
		Drive: func(image string) string { return "vitastor:config_path=" + c.ConfigFile() + ":image=" + image }}
}
