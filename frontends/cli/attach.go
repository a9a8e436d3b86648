package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/clusterview"
)

// frontEnd is a program that gives images to the kernel of this host. All have
// the same verbs: map prints the device, unmap takes it, ls --json lists them.
type frontEnd struct {
	via   string // and its program is vitastor-VIA
	mapAs []string
	why   string // it is a good choice
}

// frontEnds are in the order of preference.
var frontEnds = []frontEnd{
	{"vduse", []string{"map"}, "a virtio disk: the fastest, resized online, taken over by a new server"},
	{"ublk", []string{"map"}, "a new server takes over"},
	// Without a timeout a dead server means I/O errors at once.
	{"nbd", []string{"netlink-map", "--nbd_conn_timeout", "300"}, "every kernel has it; netlink-revive within 300 s replaces a dead server"},
}

var attachOptions = []optionHelp{{"via", "vduse|ublk|nbd", "use this one (default: the first that works)"}, {"readonly", "", "refuse writes"}}

var attachCommands = []command{
	{names: []string{"attach"}, args: "IMAGE [--via vduse|ublk|nbd] [--readonly]", short: "Give this host a block device with an image",
		long: "Tries vitastor-vduse, vitastor-ublk and vitastor-nbd in this order, and prints the device, and on the standard error\n" +
			"output why it is that one. As root. Their own options are for those who call them directly.",
		options: attachOptions, complete: imageNames, run: (*run).attach,
		example: []string{"vitastor-cli attach vm1", "mkfs.ext4 $(vitastor-cli attach data --via nbd)"}},
	{names: []string{"attached"}, short: "List images that are block devices of this host", run: (*run).attachedCommand},
	{names: []string{"detach"}, args: "DEVICE|IMAGE", short: "Take a block device away", complete: imageNames, run: (*run).detach},
}

// path finds the program: where ours is, or in PATH.
func (f *frontEnd) path() (string, error) {
	name := "vitastor-" + f.via
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), name); exists(beside) {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed", name)
	}
	return path, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// do runs the program and returns what it prints. An error is its message.
func (f *frontEnd) do(r *run, args ...string) (string, error) {
	path, err := f.path()
	if err != nil {
		return "", err
	}
	for _, name := range []string{"config_path", "etcd_address", "etcd_prefix"} {
		if r.given(name) {
			args = append(args, "--"+name, r.text(name))
		}
	}
	cmd := exec.Command(path, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		last := strings.TrimPrefix(lines[len(lines)-1], "vitastor-"+f.via+": ")
		if last == "" {
			last = err.Error()
		}
		return "", errors.New(last)
	}
	return strings.TrimSpace(out.String()), nil
}

// attach is the command.
func (r *run) attach() (result, error) {
	image := r.arg(0)
	if image == "" {
		return result{}, fail(syscall.EINVAL, "Image name is missing: use vitastor-cli attach IMAGE")
	}
	chosen, err := r.chosenFrontEnds()
	if err != nil {
		return result{}, err
	}
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	known := false
	if err := c.view(func(v *clusterview.View) { known = v.InodeByName(image) != nil }); err != nil {
		return result{}, err
	}
	if !known {
		return result{}, fail(syscall.ENOENT, "Image %s does not exist", image)
	}
	refused := map[string]any{}
	for _, f := range chosen {
		args := append(slices.Clone(f.mapAs), "--image", image)
		if r.flag("readonly") {
			args = append(args, "--readonly")
		}
		device, err := f.do(r, args...)
		if err != nil {
			r.note("not %s: %v", f.via, err)
			refused[f.via] = err.Error()
			continue
		}
		r.note("by %s: %s", f.via, f.why)
		return result{text: device, data: object{"device": device, "image": image, "via": f.via, "refused": refused}}, nil
	}
	return result{}, &failure{syscall.EOPNOTSUPP, "Image " + image + " cannot be attached here. Servers in user space need no kernel module: vitastor-nbd serve, vitastor-vhost",
		object{"error_code": int(syscall.EOPNOTSUPP), "error_text": "no front end works", "refused": refused}}
}

func (r *run) chosenFrontEnds() ([]frontEnd, error) {
	via := r.text("via")
	if via == "" {
		return frontEnds, nil
	}
	for _, f := range frontEnds {
		if f.via == via {
			return []frontEnd{f}, nil
		}
	}
	return nil, fail(syscall.EINVAL, "--via %s: must be vduse, ublk or nbd", via)
}

// attachment is a device, as `ls --json` of a front end tells it.
type attachment struct {
	frontEnd frontEnd
	facts    map[string]any
}

func (a *attachment) text(key string) string {
	if v, ok := a.facts[key]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

// attachments asks all front ends that are installed.
func (r *run) attachments() (map[string]*attachment, error) {
	all := map[string]*attachment{}
	for _, f := range frontEnds {
		if _, err := f.path(); err != nil {
			continue
		}
		text, err := f.do(r, "ls", "--json")
		if err != nil {
			return nil, fmt.Errorf("vitastor-%s ls: %w", f.via, err)
		}
		var devices map[string]map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&devices); err != nil {
			return nil, fmt.Errorf("vitastor-%s ls --json: %w", f.via, err)
		}
		for device, facts := range devices {
			all[device] = &attachment{f, facts}
		}
	}
	return all, nil
}

// attachedCommand is the command attached.
func (r *run) attachedCommand() (result, error) {
	all, err := r.attachments()
	if err != nil {
		return result{}, err
	}
	t := &table{}
	t.add(column{"device", "DEVICE", false}, column{"image", "IMAGE", false}, column{"via", "VIA", false}, column{"pid", "PID", true})
	data := []any{}
	for _, device := range slices.Sorted(maps.Keys(all)) {
		a := all[device]
		t.rows = append(t.rows, map[string]string{"device": device, "image": a.text("image"), "via": a.frontEnd.via, "pid": a.text("pid")})
		one := object{"device": device, "via": a.frontEnd.via}
		maps.Copy(one, a.facts)
		data = append(data, one)
	}
	return result{text: t.text(r.color), data: data}, nil
}

// detach is the command.
func (r *run) detach() (result, error) {
	what := r.arg(0)
	if what == "" {
		return result{}, fail(syscall.EINVAL, "Device is missing: use vitastor-cli detach DEVICE, or IMAGE")
	}
	all, err := r.attachments()
	if err != nil {
		return result{}, err
	}
	var devices []string
	for device, a := range all {
		if device == what || a.text("image") == what {
			devices = append(devices, device)
		}
	}
	slices.Sort(devices)
	switch len(devices) {
	case 0:
		return result{}, fail(syscall.ENOENT, "%s is not attached: see vitastor-cli attached", what)
	case 1:
	default:
		return result{}, fail(syscall.EINVAL, "%s is attached as %s: say which", what, strings.Join(devices, " and "))
	}
	f := all[devices[0]].frontEnd
	verb := "unmap"
	if all[devices[0]].text("interface") == "netlink" {
		verb = "netlink-unmap"
	}
	if _, err := f.do(r, verb, devices[0]); err != nil {
		return result{}, fail(syscall.EBUSY, "%v", err)
	}
	return result{text: devices[0] + " is detached", data: object{"device": devices[0]}}, nil
}
