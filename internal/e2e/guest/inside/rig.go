package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/guest/boot"
	"vitastor/internal/schema"
)

// rig is what the cases of one front end work with. Its methods end the case
// that runs when something is wrong.
type rig struct {
	c    *cluster.Cluster
	name string // of the front end
	log  string // folder
	bad  int    // failed cases
}

// wrong ends a case.
type wrong struct{ error }

// step runs one case, unless an earlier one has failed: they build on each
// other.
func (r *rig) step(name string, do func()) {
	if r.bad > 0 {
		return
	}
	began := uptime()
	err := r.attempt(do)
	word := boot.CaseOK
	if err != nil {
		r.bad++
		word = boot.CaseFailed
		fmt.Printf("%s/%s: %v\n", r.name, name, err)
	}
	fmt.Println(boot.CaseLine(word, r.name+"/"+name, uptime(), uptime()-began))
}

func (r *rig) attempt(do func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w, ours := p.(wrong)
			if !ours {
				panic(p)
			}
			err = w.error
		}
	}()
	do()
	return nil
}

func (r *rig) must(err error) {
	if err != nil {
		panic(wrong{err})
	}
}

func (r *rig) fail(format string, args ...any) { r.must(fmt.Errorf(format, args...)) }

// command makes one with a limit of its own, so that a request which hangs is
// seen as such.
func command(args ...string) *exec.Cmd {
	return exec.Command("timeout", append([]string{"--signal=KILL", "120"}, args...)...)
}

// run executes a command that must succeed and returns its standard output.
func (r *rig) run(args ...string) string {
	cmd := command(args...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		r.fail("%s: %w\n%s%s", strings.Join(args, " "), err, out, problems.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// exits executes a command that must fail with this exit code, and print
// something that has all the words.
func (r *rig) exits(code int, words string, args ...string) {
	out, err := command(args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		r.fail("%s: %v instead of exit code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	for word := range strings.FieldsSeq(words) {
		if !strings.Contains(string(out), word) {
			r.fail("%s: the error does not have the word %q: %s", strings.Join(args, " "), word, out)
		}
	}
}

// until repeats check until it succeeds.
func (r *rig) until(what string, check func() error) {
	r.must(r.c.Until(what, time.Minute, check))
}

func (r *rig) cli(args ...string) string {
	return r.run(append([]string{"vitastor-cli", "--progress", "0"}, args...)...)
}

// create makes an image.
func (r *rig) create(image string, mib int) {
	r.cli("create", "-s", strconv.Itoa(mib)+"M", "-p", pool, image)
}

// used is how many bytes an image has on all OSDs, as of a second ago.
func (r *rig) used(image string) uint64 {
	key := r.c.Keys.ImageIndex(image)
	text, err := r.c.Get(key)
	r.must(err)
	id, err := schema.DecodeImageIndex(key, text)
	r.must(err)
	key = r.c.Keys.InodeStats(id)
	if text, err = r.c.Get(key); text == nil {
		r.must(err)
		return 0 // not counted yet
	}
	stats, err := schema.DecodeInodeStats(key, text)
	r.must(err)
	return stats.RawUsedBytes
}

// write makes a file of so many blocks of 64 KiB, or overwrites it.
func (r *rig) write(file string, blocks int) {
	r.run("dd", "if=/dev/urandom", "of="+file, "bs=64k", "count="+strconv.Itoa(blocks), "conv=notrunc,fsync", "status=none")
}

// sysfs reads an attribute of a block device.
func (r *rig) sysfs(device, name string) string {
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), name))
	r.must(err)
	return strings.TrimSpace(string(text))
}

// sizeMiB is that of a device.
func (r *rig) sizeMiB(device string) int {
	sectors, err := strconv.Atoi(r.sysfs(device, "size"))
	r.must(err)
	return sectors >> 11
}

// mounted mounts a device on a folder of the front end.
func (r *rig) mount(device string) (at string) {
	at = filepath.Join("/mnt", r.name)
	r.must(os.MkdirAll(at, 0o755))
	r.run("mount", device, at)
	return at
}

// fio writes a file, reads it back and compares.
func (r *rig) fio(file string, mib int, more ...string) { r.load(file, mib, more...)() }

// load begins what fio does; end waits for it.
func (r *rig) load(file string, mib int, more ...string) (end func()) {
	args := []string{"fio", "--name=load", "--filename=" + file, "--size=" + strconv.Itoa(mib) + "M", "--rw=randwrite", "--bsrange=4k-64k",
		"--ioengine=io_uring", "--iodepth=16", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randrepeat=0"}
	cmd := command(append(args, more...)...)
	cmd.Dir = "/tmp"
	out := filepath.Join(r.log, r.name+"-fio")
	f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	r.must(err)
	cmd.Stdout, cmd.Stderr = f, f
	r.must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	f.Close()
	return func() {
		if err := <-ended; err != nil {
			text, _ := os.ReadFile(out)
			r.fail("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text)
		}
	}
}

// hash is that of a file, read from its device.
func (r *rig) hash(file string) string {
	r.run("dd", "if="+file, "iflag=nocache", "count=0", "status=none")
	hash, _, _ := strings.Cut(r.run("sha256sum", file), " ")
	return hash
}

// killOSD kills an OSD and starts it again.
func (r *rig) killOSD(while func()) {
	p := r.c.OSD(2)
	r.must(p.Kill())
	while()
	r.must(p.Start())
}
