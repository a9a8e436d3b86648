package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakePrograms stands in for vitastor-vduse, vitastor-ublk and vitastor-nbd on a
// kernel that has their drivers: command lines, and what ls prints, are theirs
// (docs/usage has a page for each).
type fakePrograms struct {
	t       *testing.T
	root    string                    // sys and dev
	devices map[string]map[string]any // by path
	calls   []string
	next    int
}

func (f *fakePrograms) Run(_ context.Context, c Command) (Result, error) {
	f.calls = append(f.calls, c.String())
	switch {
	case c.Program == "modprobe" || slices.Contains(c.Args, "--help"):
		return Result{}, nil
	case c.Program == "vitastor-nbd" && os.Getenv("FAKE_NO_NBD") != "":
		return Result{}, fmt.Errorf("vitastor-nbd: %w", exec.ErrNotFound)
	}
	method := strings.TrimPrefix(c.Program, "vitastor-")
	switch verb := c.Args[0]; verb {
	case "ls":
		own := map[string]map[string]any{}
		for device, row := range f.devices {
			if row["method"] == method {
				own[device] = row
			}
		}
		text, _ := json.Marshal(own)
		return Result{Out: string(text) + "\n"}, nil
	case "map", "netlink-map":
		return f.attach(method, c.Args)
	case "netlink-revive":
		if !f.isDead(c.Args[1]) {
			return Result{Err: "it is alive", Code: 1}, nil
		}
		f.devices[c.Args[1]] = f.row(method, c.Args)
		f.write("sys/block/"+filepath.Base(c.Args[1])+"/pid", fmt.Sprint(os.Getpid()))
	case "unmap", "netlink-unmap":
		for device, row := range f.devices {
			if slices.Contains(c.Args, device) || row["name"] != nil && slices.Contains(c.Args, row["name"].(string)) {
				delete(f.devices, device)
				return Result{}, nil
			}
		}
		return Result{Err: "not mapped", Code: 1}, nil
	}
	return Result{}, nil
}

func option(args []string, name string) string {
	if i := slices.Index(args, "--"+name); i >= 0 {
		return args[i+1]
	}
	return ""
}

func (f *fakePrograms) row(method string, args []string) map[string]any {
	row := map[string]any{"method": method, "image": option(args, "image"), "pid": os.Getpid()}
	if slices.Contains(args, "--readonly") {
		row["readonly"] = true
	}
	if method == "vduse" {
		row["name"] = option(args, "name")
	} else {
		row["config_path"] = option(args, "config_path")
	}
	return row
}

// attach makes a device, or takes a dead one over.
func (f *fakePrograms) attach(method string, args []string) (Result, error) {
	device := ""
	for path, row := range f.devices {
		if method == "vduse" && row["name"] == option(args, "name") || method == "ublk" && slices.Contains(args, path) {
			if !f.isDead(path) {
				return Result{Err: "the name is taken", Code: 1}, nil
			}
			device = path
		}
	}
	if slices.Contains(args, "--recover") && device == "" {
		return Result{Err: "there is no such device", Code: 1}, nil
	}
	if device == "" {
		device = f.root + map[string]string{"vduse": "/dev/vd", "ublk": "/dev/ublkb", "nbd": "/dev/nbd"}[method] + fmt.Sprint(f.next)
		f.next++
	}
	f.devices[device] = f.row(method, args)
	if method == "nbd" {
		f.write("sys/block/"+filepath.Base(device)+"/pid", fmt.Sprint(os.Getpid()))
	}
	return Result{Out: device + "\n"}, nil
}

func (f *fakePrograms) isDead(device string) bool {
	return f.devices[device] == nil || f.devices[device]["dead"] != nil
}

// die is what ls tells when the process of a device has died.
func (f *fakePrograms) die(device string) {
	row := f.devices[device]
	switch row["method"] {
	case "vduse":
		row["dead"] = true
		delete(row, "pid")
	case "ublk":
		f.devices[device] = map[string]any{"method": "ublk", "dead": true, "last_image": row["image"]}
	case "nbd":
		delete(f.devices, device)
		f.write("sys/block/"+filepath.Base(device)+"/pid", "4194305") // more than there can be
	}
}

func (f *fakePrograms) write(path, text string) {
	path = filepath.Join(f.root, path)
	os.MkdirAll(filepath.Dir(path), 0o755)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// fakeNode is a node with them.
func fakeNode(t *testing.T) (*fakePrograms, *node) {
	f := &fakePrograms{t: t, root: t.TempDir(), devices: map[string]map[string]any{}}
	dir := t.TempDir()
	n := &node{log: quietLog, config: "/c", run: f, guard: newGuard(quietLog), attachers: Programs(f, dir), states: states{dir, quietLog}}
	for _, a := range n.attachers {
		p := a.(*program)
		p.sys, p.dev = f.root+"/sys", f.root+"/dev"
	}
	return f, n
}

// TestPrograms attaches with each program; the process dies, is replaced, and
// the image is detached again.
func TestPrograms(t *testing.T) {
	for _, method := range []string{"vduse", "ublk", "nbd"} {
		t.Run(method, func(t *testing.T) {
			f, n := fakeNode(t)
			for _, path := range []string{"dev/vduse/control", "dev/ublk-control", "sys/block/nbd0/size", "sys/block/nbd1/size"} {
				f.write(path, "0")
			}
			f.write("sys/module/ublk_drv/parameters/ublks_max", "64\n")
			ctx := context.Background()
			n.method = method
			a, err := n.attacher(ctx)
			if err != nil || a.Method() != method {
				t.Fatal(a, err)
			}
			if want := map[string]int64{"vduse": 0, "ublk": 64, "nbd": 2}[method]; a.Max() != want {
				t.Errorf("max %d", a.Max())
			}
			for _, config := range []string{"/c", "/d"} { // two clusters have an image of this name
				for _, readOnly := range []bool{false, true} {
					lifeOfDevice(t, f, n, a, Attachment{ConfigPath: config, Image: fmt.Sprint("image-", readOnly), ReadOnly: readOnly})
				}
			}
			for device := range f.devices {
				t.Errorf("%s stays", device)
			}
			if left := n.states.load(); len(left) > 0 {
				t.Errorf("%v", left)
			}
		})
	}
}

func lifeOfDevice(t *testing.T, f *fakePrograms, n *node, by Attacher, want Attachment) {
	t.Helper()
	ctx := context.Background()
	h := handleOf(want.ConfigPath, want.Image)
	other := handleOf("/other", want.Image)
	made, err := by.Attach(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	// Before anything is remembered, as after being killed here.
	own, err := n.attachments(ctx, h)
	if err != nil || len(own) != 1 || own[0].Device != made.Device || own[0].ReadOnly != want.ReadOnly || own[0].Dead {
		t.Fatalf("%+v, %v", own, err)
	}
	made = own[0]
	if wrong, err := n.attachments(ctx, other); err != nil || len(wrong) != 0 {
		t.Errorf("another cluster has %+v, %v", wrong, err)
	}
	made.ConfigPath = want.ConfigPath
	device := made.Device
	made.Device = strings.Replace(made.Device, f.root, "", 1) // state files only know /dev
	saved := made
	if err := n.states.save(&saved); err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) {
		f.devices[to] = f.devices[from]
		delete(f.devices, from)
	}
	rename(device, saved.Device)
	f.die(saved.Device)
	own, err = n.attachments(ctx, h)
	if err != nil || len(own) != 1 || !own[0].Dead || own[0].ConfigPath != want.ConfigPath || own[0].ReadOnly != want.ReadOnly {
		t.Fatalf("dead: %+v, %v", own, err)
	}
	n.restore(ctx)
	own, err = n.attachments(ctx, h)
	if err != nil || len(own) != 1 || own[0].Dead {
		t.Fatalf("restored: %+v, %v\n%s", own, err, strings.Join(f.calls, "\n"))
	}
	calls := len(f.calls)
	n.restore(ctx) // there is nothing to do
	for _, c := range f.calls[calls:] {
		if !strings.Contains(c, " ls ") {
			t.Errorf("restored again: %s", c)
		}
	}
	if err := n.detach(ctx, &own[0]); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(f.root, "sys/block", filepath.Base(saved.Device), "pid"))
}

// TestNoMethod: every way that this host does not have, with its reason.
func TestNoMethod(t *testing.T) {
	_, n := fakeNode(t)
	_, err := n.attacher(context.Background())
	for _, word := range []string{"cannot attach", "vduse: the kernel modules vduse, virtio_vdpa are loaded, but /dev/vduse/control does not exist", "ublk: ", "nbd: "} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is missing: %v", word, err)
		}
	}
	n.method = "iscsi"
	if _, err = n.attacher(context.Background()); err == nil || !strings.Contains(err.Error(), "iscsi") {
		t.Error(err)
	}
	// A program that is not installed is no reason not to list the others.
	t.Setenv("FAKE_NO_NBD", "1")
	f, n := fakeNode(t)
	f.write("sys/block/nbd0/size", "0")
	if all, err := n.attached(context.Background()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestGone: what is remembered of a device that is not there any more, such as
// after a reboot, is forgotten; a device that the reference's driver has made,
// and whose process is dead, is kept until it is unstaged.
func TestGone(t *testing.T) {
	f, n := fakeNode(t)
	for _, a := range []Attachment{{Method: "nbd", Device: "/dev/nbd3", ConfigPath: "/c", Image: "a"}, {Method: "ublk", Device: "/dev/ublkb3", ConfigPath: "/c", Image: "b"},
		{Method: "vduse", Device: "/dev/vda", ConfigPath: "/c", Image: "c", ID: "vitastor-vduse-1"}} {
		if err := n.states.save(&a); err != nil {
			t.Fatal(err)
		}
	}
	f.write("sys/bus/vdpa/devices/vitastor-vduse-1/x", "")
	n.restore(context.Background())
	left := n.states.load()
	if len(left) != 1 || left[0].Image != "c" {
		t.Fatalf("%+v", left)
	}
	own, err := n.attachments(context.Background(), handleOf("/c", "c"))
	if err != nil || len(own) != 1 || !own[0].Foreign {
		t.Fatalf("%+v, %v", own, err)
	}
	f.devices["/dev/vda"] = map[string]any{"method": "other", "name": "vitastor-vduse-1"}
	if err := n.detach(context.Background(), &own[0]); err != nil {
		t.Error(err)
	}
	if last := f.calls[len(f.calls)-1]; last != "vitastor-vduse unmap --force vitastor-vduse-1" {
		t.Error(last)
	}
}
