// Package sentinel ends the etcd lease of an OSD at once when its process dies,
// so that others take over its placement groups in a fraction of a second
// instead of after the lease (docs/decisions/0005-failover.md).
//
//	vitastor-osd ---pipe: leases, as lines of JSON---> vitastor-watch
//	  (the only writer)                    end of file = the kernel says it is dead
//	                                       -> revoke the lease in etcd
//
// The sentinel is a child process: the same executable under another name, in a
// session of its own, which survives signals meant for the OSD. It guarantees
// that a lease is revoked only after the last thread of the OSD is gone: the
// write end of the pipe exists nowhere else. If the sentinel is killed with the
// OSD, the lease runs out by itself, which only takes longer.
//
// Concurrency: Sentinel belongs to the loop of the OSD, writes do not block: a
// line fits into the pipe. Main runs alone in the child.
package sentinel

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/etcd"
	"vitastor/internal/meta"
)

// Name is what the child is called in lists of processes. It has nothing in
// common with the name of the OSD, so that "pkill vitastor-osd" does not find it.
const Name = "vitastor-watch"

// Etcd says how etcd is reached.
type Etcd struct {
	Endpoints                                 []string
	CAFile, CertFile, KeyFile, User, Password string
}

func (e *Etcd) config() etcd.Config {
	return etcd.Config{Endpoints: e.Endpoints, CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile,
		User: e.User, Password: e.Password}
}

// order is one line to the child. The last one counts.
type order struct {
	OSD   meta.OSDNum
	Lease env.LeaseID // 0 = nothing to do
	Etcd  Etcd
}

// Sentinel is the OSD's end of the pipe.
type Sentinel struct {
	osd   meta.OSDNum
	etcd  Etcd
	pipe  *os.File
	child *exec.Cmd
}

// Start starts the child. Without it an OSD works as well, only that its death
// is noticed later: an error is a warning.
func Start(osd meta.OSDNum, e Etcd) (*Sentinel, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	return start(exe, osd, e)
}

func start(exe string, osd meta.OSDNum, e Etcd) (*Sentinel, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: exe, Args: []string{Name, fmt.Sprintf("osd.%d", osd)},
		Env:   append(os.Environ(), marker+"=1"),
		Stdin: r, Stderr: os.Stderr, Dir: "/",
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("sentinel %s: %w", exe, err)
	}
	go cmd.Wait() // if it dies before us it shall not stay a zombie
	return &Sentinel{osd, e, w, cmd}, nil
}

// Guard names the lease to revoke when this process dies; it has to be called
// before the first key is put with the lease. 0 = none.
func (s *Sentinel) Guard(lease env.LeaseID) error {
	line, err := json.Marshal(order{s.osd, lease, s.etcd})
	if err == nil {
		_, err = s.pipe.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("sentinel: %w: the death of this process will be noticed by its lease only", err)
	}
	return nil
}

// Close ends the child. The lease, if it still exists, is revoked.
func (s *Sentinel) Close() { s.pipe.Close() }
