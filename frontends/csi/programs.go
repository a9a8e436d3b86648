package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// program is an Attacher by one of our programs, which all have the same
// commands: map, unmap, ls --json.
type program struct {
	run    Runner
	method string
	name   string
	logs   string // file for what serving processes say; "" = nowhere
	sys    string // "/sys", or a test's
	dev    string // "/dev", or a test's
	// modules of the kernel, and a file below sys or dev that shows that they are
	// there.
	modules []string
	shows   string

	attach, revive, detach func(a *Attachment) []string
	// dead finds devices that are there although ls does not tell: those without a
	// serving process. nil = ls tells all.
	dead func(p *program, a *Attachment) bool
	max  func(p *program) int64
}

// orphanSeconds is how long the kernel keeps requests of an NBD device whose
// process has died, until the next one.
const orphanSeconds = "86400"

// Programs are all ways to attach, best first. With VDUSE and ublk, a device
// does not notice that its process was restarted; with NBD its requests wait.
func Programs(run Runner, stateDir string) []Attacher {
	logs := filepath.Join(stateDir, "attach.log")
	base := program{run: run, logs: logs, sys: "/sys", dev: "/dev"}
	vduse, ublk, nbd := base, base, base

	vduse.method, vduse.name = "vduse", "vitastor-vduse"
	vduse.modules, vduse.shows = []string{"vduse", "virtio_vdpa"}, "dev/vduse/control"
	vduse.attach = func(a *Attachment) []string {
		a.ID = deviceID(a.ConfigPath, a.Image)
		return append([]string{"map", "--name", a.ID}, options(a)...)
	}
	vduse.revive = func(a *Attachment) []string { return append([]string{"map", "--name", a.ID}, options(a)...) }
	vduse.detach = func(a *Attachment) []string {
		if a.Foreign {
			return []string{"unmap", "--force", a.ID}
		}
		return []string{"unmap", a.ID}
	}
	vduse.dead = func(p *program, a *Attachment) bool {
		_, err := os.Stat(filepath.Join(p.sys, "bus/vdpa/devices", a.ID))
		a.Foreign = err == nil && a.ID != ""
		return a.Foreign
	}

	ublk.method, ublk.name = "ublk", "vitastor-ublk"
	ublk.modules, ublk.shows = []string{"ublk_drv"}, "dev/ublk-control"
	ublk.attach = func(a *Attachment) []string { return append([]string{"map"}, options(a)...) }
	ublk.revive = func(a *Attachment) []string { return append([]string{"map", "--recover", a.Device}, options(a)...) }
	ublk.detach = func(a *Attachment) []string { return []string{"unmap", a.Device, "--wait", "1"} }
	ublk.max = func(p *program) int64 {
		return numberIn(filepath.Join(p.sys, "module/ublk_drv/parameters/ublks_max"))
	}

	nbd.method, nbd.name = "nbd", "vitastor-nbd"
	nbd.modules, nbd.shows = []string{"nbd"}, "sys/block/nbd0"
	timeouts := []string{"--nbd_conn_timeout", orphanSeconds}
	nbd.attach = func(a *Attachment) []string {
		return slices.Concat([]string{"netlink-map"}, timeouts, options(a))
	}
	nbd.revive = func(a *Attachment) []string {
		return slices.Concat([]string{"netlink-revive", a.Device}, timeouts, options(a))
	}
	nbd.detach = func(a *Attachment) []string { return []string{"netlink-unmap", a.Device} }
	nbd.dead = func(p *program, a *Attachment) bool {
		pid := numberIn(filepath.Join(p.sys, "block", filepath.Base(a.Device), "pid"))
		if pid == 0 {
			return false // not connected
		}
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return err != nil
	}
	nbd.max = func(p *program) int64 {
		found, _ := filepath.Glob(filepath.Join(p.sys, "block/nbd*"))
		return int64(len(found))
	}
	return []Attacher{&vduse, &ublk, &nbd}
}

// options name the image.
func options(a *Attachment) []string {
	o := []string{"--image", a.Image, "--config_path", a.ConfigPath}
	if a.ReadOnly {
		o = append(o, "--readonly")
	}
	return o
}

// numberIn is the number in a file, 0 if there is none.
func numberIn(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// Method implements Attacher.
func (p *program) Method() string { return p.method }

// Max implements Attacher.
func (p *program) Max() int64 {
	if p.max == nil {
		return 0
	}
	return p.max(p)
}

// Usable implements Attacher.
func (p *program) Usable(ctx context.Context) error {
	if p.loaded() {
		return p.installed(ctx)
	}
	if err := p.installed(ctx); err != nil {
		return err
	}
	if _, err := try(ctx, p.run, "modprobe", append([]string{"-a"}, p.modules...)...); err != nil {
		return err
	}
	if !p.loaded() {
		return fmt.Errorf("the kernel modules %s are loaded, but /%s does not exist", strings.Join(p.modules, ", "), p.shows)
	}
	return nil
}

func (p *program) loaded() bool {
	root, below, _ := strings.Cut(p.shows, "/")
	_, err := os.Stat(filepath.Join(map[string]string{"sys": p.sys, "dev": p.dev}[root], below))
	return err == nil
}

// installed asks the program for something harmless.
func (p *program) installed(ctx context.Context) error {
	_, err := p.run.Run(ctx, Command{p.name, []string{"--help"}})
	return err
}

// logMax is the size from which the file of serving processes begins anew.
const logMax = mib

func (p *program) log() []string {
	if p.logs == "" {
		return nil
	}
	if i, err := os.Stat(p.logs); err == nil && i.Size() > logMax {
		os.Truncate(p.logs, 0)
	}
	if os.MkdirAll(filepath.Dir(p.logs), 0o755) != nil {
		return nil
	}
	return []string{"--logfile", p.logs}
}

// Attach implements Attacher.
func (p *program) Attach(ctx context.Context, want Attachment) (Attachment, error) {
	out, err := try(ctx, p.run, p.name, append(p.attach(&want), p.log()...)...)
	if err != nil {
		return want, err
	}
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, p.dev+"/") {
			want.Device, want.Method = line, p.method
			return want, nil
		}
	}
	return want, fmt.Errorf("%s has not said which device it made: %q", p.name, out)
}

// rows are what ls tells.
func (p *program) rows(ctx context.Context) (map[string]map[string]any, error) {
	out, err := try(ctx, p.run, p.name, "ls", "--json")
	if err != nil {
		return nil, err
	}
	var rows map[string]map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		return nil, fmt.Errorf("%s ls --json: %w", p.name, err)
	}
	return rows, nil
}

// List implements Attacher.
func (p *program) List(ctx context.Context, known []Attachment) ([]Attachment, error) {
	if len(known) == 0 && !p.loaded() {
		return nil, nil
	}
	rows, err := p.rows(ctx)
	if errors.Is(err, exec.ErrNotFound) && len(known) == 0 {
		return nil, nil // not what anything is attached with
	}
	if err != nil {
		return nil, err
	}
	var list []Attachment
	for _, device := range slices.Sorted(maps.Keys(rows)) {
		a := attachmentOf(device, rows[device])
		for i := range known {
			if k := &known[i]; k.Device == device && (a.Image == "" || a.Image == k.Image) {
				a.Image, a.ConfigPath, a.ReadOnly, a.ID, a.PIDFile = k.Image, k.ConfigPath, k.ReadOnly, k.ID, k.PIDFile
			}
		}
		if a.Image != "" {
			list = append(list, a)
		}
	}
	for _, k := range known {
		if p.dead != nil && rows[k.Device] == nil && p.dead(p, &k) {
			k.Dead = true
			list = append(list, k)
		}
	}
	return list, nil
}

// attachmentOf reads a row. A dead device does not tell its image, or not in the
// same place, so that those who look for images of running processes do not find
// it.
func attachmentOf(device string, row map[string]any) Attachment {
	a := Attachment{Device: device, Image: text(row["image"]), ConfigPath: text(row["config_path"]), ID: text(row["name"])}
	a.ReadOnly = isOn(text(row["readonly"]))
	if a.Dead = isOn(text(row["dead"])); a.Dead && a.Image == "" {
		a.Image = text(row["last_image"])
	}
	return a
}

// text is a value of a row.
func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func isOn(text string) bool { return !slices.Contains([]string{"", "0", "false", "no"}, text) }

// Revive implements Attacher.
func (p *program) Revive(ctx context.Context, dead Attachment) error {
	_, err := try(ctx, p.run, p.name, append(p.revive(&dead), p.log()...)...)
	return err
}

// Detach implements Attacher.
func (p *program) Detach(ctx context.Context, a Attachment) error {
	_, err := try(ctx, p.run, p.name, p.detach(&a)...)
	return err
}
