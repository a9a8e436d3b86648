package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/e2e/cluster"
)

// frontEnd is a way of images to block devices of this kernel. All have the
// same verbs.
type frontEnd struct {
	name    string
	program string
	files   string   // file system: "ext4" or "xfs"
	maps    []string // map and its options
	unmap   string
	// taken are options of map that ask for what a device has already.
	taken func(device string) []string
	// revive is the command that goes on for a killed server; nil = the device is
	// gone with its server.
	revive func(image, device string) []string
	// prepare makes revival faster.
	prepare func(r *rig, device string)
	// fixedSize: with this kernel, a device does not follow the size of its image.
	fixedSize bool
	// attributes are what the kernel shall know of a device.
	attributes map[string]string
	more       func(r *rig, f *frontEnd) // cases of its own
}

// number is that of /dev/nbd7.
func number(device string) string {
	return strings.TrimLeft(filepath.Base(device), "abcdefghijklmnopqrstuvwxyz")
}

func takenNumber(device string) []string { return []string{"--dev_num", number(device)} }

var nbdAttributes = map[string]string{"fua": "1", "rotational": "0", "logical_block_size": "4096"}

// frontEnds are all that have cases.
var frontEnds = []frontEnd{
	{name: "nbd", program: "vitastor-nbd", files: "ext4", maps: []string{"map", "--connections", "3"}, unmap: "unmap",
		taken: takenNumber, attributes: nbdAttributes, more: nbdAlone},
	{name: "nbd-netlink", program: "vitastor-nbd", files: "xfs", maps: []string{"netlink-map", "--nbd_conn_timeout", "60"},
		unmap: "netlink-unmap", taken: takenNumber, attributes: nbdAttributes, prepare: nbdImpatience,
		revive: func(image, device string) []string { return []string{"netlink-revive", device, "--image", image} }},
	{name: "ublk", program: "vitastor-ublk", files: "ext4", maps: []string{"map"}, unmap: "unmap", taken: takenNumber, fixedSize: true,
		revive: func(image, device string) []string { return []string{"map", "--recover", device, "--image", image} }},
	{name: "vduse", program: "vitastor-vduse", files: "xfs", maps: []string{"map"}, unmap: "unmap",
		taken:  func(string) []string { return []string{"--name", "image-vduse"} },
		revive: func(image, _ string) []string { return []string{"map", "--image", image} }},
}

// sizes of images.
const (
	sizeMiB  = 96
	grownMiB = 128
)

// runCases runs all cases of the given names, and tells whether all succeeded.
func runCases(c *cluster.Cluster, log string, names []string) (code int, err error) {
	for _, name := range names {
		r := &rig{c: c, name: name, log: log}
		i := slices.IndexFunc(frontEnds, func(f frontEnd) bool { return f.name == name })
		switch {
		case i >= 0:
			r.life(&frontEnds[i])
		case name == "attach":
			attachCases(r)
		default:
			return 1, fmt.Errorf("there are no cases of %q", name)
		}
		if r.bad > 0 {
			code = 1
			r.clear()
		}
	}
	return code, nil
}

// life is the scenario of all front ends: a device from its first to its last
// day.
func (r *rig) life(f *frontEnd) {
	image := "image-" + f.name
	var device, at, hash string
	r.step("map", func() { device = r.mapNew(f, image) })
	r.step("refusals", func() { r.refusals(f, device) })
	r.step("files", func() {
		r.format(f, device)
		at = r.mount(device)
		r.fio(filepath.Join(at, "verified"), 4)
	})
	r.step("discard", func() { r.discard(image, at) })
	r.step("resize", func() { device = r.resize(f, image, device, at) })
	r.step("snapshot and a killed OSD under load", func() { hash = r.snapshot(image, at) })
	if f.revive != nil {
		r.step("killed server under load", func() { r.killServer(f, image, device, at) })
	}
	r.step("unmap", func() {
		r.run("umount", at)
		r.unmap(f, device)
		r.exits(1, "", f.program, f.unmap, device)
	})
	r.step("check", func() {
		device = r.run(f.mapping(image)...)
		r.check(f, device)
		r.unmap(f, device)
	})
	r.step("clone of the snapshot", func() { r.clone(f, image, hash) })
	if f.more != nil {
		f.more(r, f)
	}
}

// mapping is the command line of map.
func (f *frontEnd) mapping(image string, more ...string) []string {
	args := append([]string{f.program}, f.maps...)
	return append(append(args, "--image", image, "--logfile", f.logfile()), more...)
}

// logfile is that of servers.
func (f *frontEnd) logfile() string { return filepath.Join("/run/cluster/log", f.name) }

// listed are the devices that ls shows.
func (r *rig) listed(f *frontEnd) (all map[string]struct {
	Image string
	PID   int
}) {
	r.must(json.Unmarshal([]byte(r.run(f.program, "ls", "--json")), &all))
	return all
}

// mapNew maps a new image, and looks at the device.
func (r *rig) mapNew(f *frontEnd, image string) (device string) {
	r.create(image, sizeMiB)
	device = r.run(f.mapping(image)...)
	if s, err := os.Stat(device); err != nil || s.Mode()&os.ModeDevice == 0 {
		r.fail("map prints %q, which is no device", device)
	}
	if got := r.sizeMiB(device); got != sizeMiB {
		r.fail("%s has %d MiB instead of %d", device, got, sizeMiB)
	}
	want := map[string]string{"write_cache": "write back"}
	maps.Copy(want, f.attributes)
	for name, value := range want {
		if got := r.sysfs(device, "queue/"+name); got != value {
			r.fail("%s: %s is %q instead of %q", device, name, got, value)
		}
	}
	if r.sysfs(device, "queue/discard_max_bytes") == "0" {
		r.fail("%s does not know discard", device)
	}
	all := r.listed(f)
	if m := all[device]; len(all) != 1 || m.Image != image || syscall.Kill(m.PID, 0) != nil {
		r.fail("ls --json shows %v", all)
	}
	return device
}

// refusals are what must not disturb the device.
func (r *rig) refusals(f *frontEnd, device string) {
	r.exits(1, "nothing-there does not exist", f.mapping("nothing-there")...)
	r.create("second", 16)
	r.exits(1, "", f.mapping("second", f.taken(device)...)...)
	r.cli("rm", "second")
	if all := r.listed(f); len(all) != 1 {
		r.fail("ls --json shows %v", all)
	}
}

// format makes a file system.
func (r *rig) format(f *frontEnd, device string) {
	if f.files == "xfs" {
		// Without that it is refused, because it is small.
		for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
			r.must(os.Setenv(name, "1"))
		}
		r.run("mkfs.xfs", "-q", "-l", "size=8m", device)
	} else {
		r.run("mkfs.ext4", "-q", device)
	}
}

// discard expects that the space of a deleted file comes back.
func (r *rig) discard(image, at string) {
	const least = 2 * 8 << 20 // of 12 MiB in two copies; whole objects only
	file := filepath.Join(at, "ballast")
	before := r.settled(image)
	r.write(file, 12*16)
	full := uint64(0) // what was counted so far is enough
	r.until("the file is counted", func() error {
		if full = r.used(image); full < before+least {
			return fmt.Errorf("the image uses %d bytes, and %d before a file was written", full, before)
		}
		return nil
	})
	r.must(os.Remove(file))
	r.run("sync", "-f", at) // before that, deleted blocks are not free
	r.run("fstrim", at)
	r.until("discarded space is free", func() error {
		if now := r.used(image); now > full-least {
			return fmt.Errorf("the image uses %d bytes, before the file was deleted %d", now, full)
		}
		return nil
	})
}

// settled is what an image uses when everything has been counted.
func (r *rig) settled(image string) (bytes uint64) {
	for same := 0; same < 3; time.Sleep(time.Second) {
		now := r.used(image)
		if same++; now != bytes {
			bytes, same = now, 0
		}
	}
	return bytes
}

// resize grows the image, and everything above follows while it is in use.
func (r *rig) resize(f *frontEnd, image, device, at string) string {
	r.cli("modify", image, "--resize", strconv.Itoa(grownMiB)+"M")
	if f.fixedSize {
		device = r.again(f, image, device, at)
	}
	r.until("the device has grown", func() error {
		if got := r.sizeMiB(device); got != grownMiB {
			return fmt.Errorf("%s has %d MiB instead of %d", device, got, grownMiB)
		}
		return nil
	})
	before := r.space(at)
	if f.files == "xfs" {
		r.run("xfs_growfs", at)
	} else {
		r.run("resize2fs", device)
	}
	if after := r.space(at); after < before+(grownMiB-sizeMiB)/2<<20 {
		r.fail("the file system had %d bytes, and has %d after resize", before, after)
	}
	r.write(filepath.Join(at, "grown"), 4)
	return device
}

// again unmaps and maps a device.
func (r *rig) again(f *frontEnd, image, device, at string) string {
	r.run("umount", at)
	r.unmap(f, device)
	device = r.run(f.mapping(image)...)
	r.run("mount", device, at)
	return device
}

// space is the size of a file system.
func (r *rig) space(at string) uint64 {
	var s syscall.Statfs_t
	r.must(syscall.Statfs(at, &s))
	return s.Blocks * uint64(s.Bsize)
}

// snapshot makes one under load, while an OSD is killed and comes back. It
// returns the hash of a file that was synced before.
func (r *rig) snapshot(image, at string) (hash string) {
	old := filepath.Join(at, "old")
	r.write(old, 32)
	hash = r.hash(old)
	end := r.load(filepath.Join(at, "loaded"), 4, "--rate=1m")
	r.cli("snap-create", image+"@s1")
	r.killOSD(func() {
		r.write(old, 32) // above the snapshot
	})
	end()
	return hash
}

// killServer kills the server while files are written. Nobody above notices.
func (r *rig) killServer(f *frontEnd, image, device, at string) {
	if f.prepare != nil {
		f.prepare(r, device)
	}
	end := r.load(filepath.Join(at, "survivor"), 4, "--rate=1m")
	pid := r.listed(f)[device].PID
	time.Sleep(500 * time.Millisecond)
	r.must(syscall.Kill(pid, syscall.SIGKILL))
	time.Sleep(300 * time.Millisecond)
	args := append([]string{f.program, "--logfile", f.logfile()}, f.revive(image, device)...)
	r.run(args...)
	end()
	if now := r.listed(f)[device]; now.PID == pid || now.Image != image {
		r.fail("ls --json shows %v after revival", now)
	}
	r.write(filepath.Join(at, "afterwards"), 4)
}

// unmap returns when nothing is left of the device.
func (r *rig) unmap(f *frontEnd, device string) {
	r.run(f.program, f.unmap, device)
	r.until("the server ends", func() error {
		if all := r.listed(f); len(all) > 0 {
			return fmt.Errorf("ls --json shows %v", all)
		}
		return nil
	})
}

// check looks for errors of the file system, which was unmounted.
func (r *rig) check(f *frontEnd, device string) {
	if f.files == "xfs" {
		r.run("xfs_repair", "-n", device)
	} else {
		r.run("e2fsck", "-fn", device)
	}
}

// clone looks whether a snapshot has what was in the file system when it was
// made, as after a power failure.
func (r *rig) clone(f *frontEnd, image, hash string) {
	clone := image + "-clone"
	r.cli("create", "--parent", image+"@s1", "-p", pool, clone)
	device := r.run(f.mapping(clone)...)
	at := r.mount(device) // replays the journal
	if got := r.hash(filepath.Join(at, "old")); got != hash {
		r.fail("a file in the snapshot has the hash %s instead of %s", got, hash)
	}
	r.run("umount", at)
	r.check(f, device)
	r.unmap(f, device)
}

// clear removes what a failed case has left, so that the next ones can be tried.
func (r *rig) clear() {
	command("umount", "-l", filepath.Join("/mnt", r.name)).Run()
	for _, f := range frontEnds {
		for device := range r.listed(&f) {
			command(f.program, f.unmap, device, "--force").Run()
		}
	}
}
