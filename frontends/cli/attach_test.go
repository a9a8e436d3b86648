package cli_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// frontEndScript stands in for a front end, whose kernel module this machine may
// not have: devices are files of its folder. The real ones are tested in a
// guest.
const frontEndScript = `#!/bin/sh
dir=$(dirname "$0")/NAME.devices
mkdir -p "$dir"
echo "$@" >> "$dir.calls"
case "$1" in
map|netlink-map)
	[ ! -f "$dir.broken" ] || { echo noise >&2; cat "$dir.broken" >&2; exit 1; }
	while [ "$1" != --image ]; do shift; done
	echo "$2" > "$dir/NAME0"; echo /dev/NAME0 ;;
ls) if [ -f "$dir/NAME0" ]; then echo "{\"/dev/NAME0\":{\"image\":\"$(cat "$dir/NAME0")\",\"pid\":77,\"interface\":\"KIND\"}}"; else echo "{}"; fi ;;
unmap|netlink-unmap) [ "$2" = /dev/NAME0 ] && rm "$dir/NAME0" ;;
esac
`

func TestAttach(t *testing.T) {
	r := theRig(t)
	r.ok(t, "create", "-s", "1M", "-p", "rep", "attached")
	defer r.ok(t, "rm", "attached")
	file := func(name string) string { return filepath.Join(filepath.Dir(r.program), name) }
	write := func(name, text string) {
		if err := os.WriteFile(file(name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", "/usr/bin:/bin")
	r.fails(t, 95, []string{"attach", "attached"}, "not vduse: vitastor-vduse is not installed", "vitastor-vhost")
	for name, kind := range map[string]string{"vduse": "vduse", "ublk": "ublk", "nbd": "netlink"} {
		write("vitastor-"+name, strings.NewReplacer("NAME", name, "KIND", kind).Replace(frontEndScript))
		defer os.Remove(file("vitastor-" + name))
	}
	res := r.run("", "attach", "attached")
	if res.code != 0 || res.out != "/dev/vduse0\n" || !strings.Contains(res.err, "by vduse: ") {
		t.Errorf("%+v", res)
	}
	write("vduse.devices.broken", "vitastor-vduse: no module: load it\n")
	write("ublk.devices.broken", "vitastor-ublk: kernel too old\n")
	var got struct {
		Device, Image, Via string
		Refused            map[string]string
	}
	r.json(t, &got, "attach", "attached", "--readonly")
	if got.Device != "/dev/nbd0" || got.Via != "nbd" || got.Refused["vduse"] != "no module: load it" || got.Refused["ublk"] != "kernel too old" {
		t.Errorf("%+v", got)
	}
	calls, _ := os.ReadFile(file("nbd.devices.calls"))
	if want := "netlink-map --nbd_conn_timeout 300 --image attached --readonly --etcd_address " + strings.Join(r.Endpoints(), ",") + "\n"; string(calls) != want {
		t.Errorf("called with %q, want %q", calls, want)
	}
	r.fails(t, 95, []string{"attach", "attached", "--via", "ublk"}, "kernel too old")
	r.fails(t, 22, []string{"attach", "attached", "--via", "iscsi"}, "vduse, ublk or nbd")
	r.fails(t, 2, []string{"attach", "nothing"}, "does not exist")
	r.fails(t, 22, []string{"attach"}, "missing")

	if lines := strings.Split(r.ok(t, "attached"), "\n"); !strings.HasPrefix(lines[0], "DEVICE") || len(lines) < 3 ||
		strings.Join(strings.Fields(lines[1]), " ") != "/dev/nbd0 attached nbd 77" {
		t.Errorf("%q", lines)
	}
	var all []map[string]any
	r.json(t, &all, "attached")
	if len(all) != 2 || all[1]["device"] != "/dev/vduse0" || all[1]["pid"] != 77.0 {
		t.Errorf("%v", all)
	}
	r.fails(t, 22, []string{"detach", "attached"}, "/dev/nbd0 and /dev/vduse0")
	r.ok(t, "detach", "/dev/nbd0")
	r.ok(t, "detach", "attached")
	r.fails(t, 2, []string{"detach", "attached"}, "not attached")
	calls, _ = os.ReadFile(file("nbd.devices.calls"))
	if !slices.ContainsFunc(strings.Split(string(calls), "\n"), func(l string) bool { return strings.HasPrefix(l, "netlink-unmap /dev/nbd0") }) {
		t.Errorf("calls: %s", calls)
	}
}
