package disk_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitastor/frontends/disk"
	"vitastor/osd/store/layout"
)

const partitionType = "e7009fac-a5a1-4d72-af72-53de13059903"

// loopDisk makes a block device of a sparse file, or skips the test with the
// reason.
func (w *world) loopDisk(bytes int64) string {
	w.t.Helper()
	if os.Getuid() != 0 {
		w.t.Skip("loop devices need root")
	}
	file := w.file(fmt.Sprintf("disk%d.img", bytes>>20), bytes)
	for i := 0; ; i++ { // a file per device
		if _, err := os.Stat(file + fmt.Sprint(i)); err != nil {
			if err := os.Rename(file, file+fmt.Sprint(i)); err != nil {
				w.t.Fatal(err)
			}
			file += fmt.Sprint(i)
			break
		}
	}
	out, err := exec.Command("/usr/sbin/losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		w.t.Skipf("losetup does not work here: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	w.t.Cleanup(func() {
		links, _ := filepath.Glob("/dev/disk/by-partuuid/*")
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, dev+"p") {
				os.Remove(link)
			}
		}
		_ = exec.Command("partx", "-d", dev).Run()
		if out, err := exec.Command("/usr/sbin/losetup", "-d", dev).CombinedOutput(); err != nil {
			w.t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// queue sets a parameter of the disk in sysfs.
func (w *world) queue(dev, name, value string) {
	w.t.Helper()
	if err := os.WriteFile("/sys/block/"+filepath.Base(dev)+"/queue/"+name, []byte(value), 0); err != nil {
		w.t.Skipf("cannot set %s of %s: %v", name, dev, err)
	}
}

func (w *world) sh(script string) string {
	w.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir, cmd.Env = w.dir, append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v %s", script, err, out)
	}
	return string(out)
}

// osdList is the JSON of prepare on whole disks.
type osdList struct {
	OSDs   []map[string]any `json:"osds"`
	Errors []map[string]any `json:"errors"`
}

// Whole disks: partitions are made, every one gets an OSD, a second run has
// nothing to do, and a purged OSD makes room for a new one.
func TestPrepareDisk(t *testing.T) {
	w := newWorld(t)
	dev := w.loopDisk(4 << 30)
	w.queue(dev, "rotational", "0")
	w.queue(dev, "write_cache", "write through")
	args := []string{"prepare", "--osd_per_disk", "2", "--journal_size", "8M", dev, dev, "/dev/none"}
	if got := w.run("", append(args, "--dry-run", "--json")...); got.out != `{"devices": [{"device_path": "`+dev+`", "new_osd_count": 2}]}`+"\n" {
		t.Errorf("dry run: %+v", got)
	}
	if got := w.ok(append(args, "--dry-run")...); got != "Will initialize 2 OSD(s) on "+dev+"\n" {
		t.Errorf("dry run: %s", got)
	}
	r := w.run("", append(args, "--json", "--weight", "0.5", "--tags", "ssd")...)
	if r.code != 0 || !strings.Contains(r.err, "/dev/none: no such file") {
		t.Fatalf("%+v", r)
	}
	list := decodeJSON[osdList](t, r.out)
	if len(list.OSDs) != 2 || len(list.Errors) != 0 {
		t.Fatalf("%s", r.out)
	}
	log := w.log()
	for i, o := range list.OSDs {
		name := fmt.Sprint(o["data_device"])
		if !strings.HasPrefix(name, "/dev/disk/by-partuuid/") || name != strings.ToLower(name) || fmt.Sprint(o["osd_num"]) != fmt.Sprint(i+1) ||
			o["immediate_commit"] != "all" || fmt.Sprint(o["block_size"]) != "131072" {
			t.Errorf("%v", o)
		}
		want := fmt.Sprintf("vitastor-cli modify-osd %d --reweight 0.5 --tags ssd\n", i+1)
		if !strings.Contains(log, want) || !strings.Contains(log, fmt.Sprintf("systemctl enable --now vitastor-osd@%d\n", i+1)) ||
			strings.Index(log, "udevadm trigger --settle") > strings.Index(log, "systemctl enable") {
			t.Errorf("ran %s", log)
		}
		if c := w.check(name); !c.OK || c.Problems[0].Kind != "not-initialized" {
			t.Errorf("%+v", c)
		}
		if got := w.ok("udev", name); !strings.Contains(got, fmt.Sprintf("VITASTOR_ALIAS=osd%d-data\n", i+1)) {
			t.Errorf("udev: %s", got)
		}
	}
	sizes := strings.Fields(w.sh("cat /sys/block/" + filepath.Base(dev) + "/" + filepath.Base(dev) + "p*/size"))
	if len(sizes) != 2 || sizes[0] != fmt.Sprint(((4<<30)-2<<20)>>20/2<<11) && sizes[0] != "4190208" {
		t.Errorf("partitions of %v sectors", sizes)
	}
	if table := w.sh("sfdisk --json " + dev); strings.Count(strings.ToLower(table), partitionType) != 2 {
		t.Errorf("%s", table)
	}
	if r := w.run("", args...); r.code != 0 || !strings.Contains(r.err, "already has 2 OSDs") {
		t.Errorf("again: %+v", r)
	}
	w.log()
	name := fmt.Sprint(list.OSDs[0]["data_device"])
	if got := w.ok("purge", "--json", name); got != `{"removed_devices": ["`+name+`"], "removed_osds": [1]}`+"\n" {
		t.Errorf("purge: %s", got)
	}
	if table := w.sh("sfdisk --json " + dev); strings.Count(strings.ToLower(table), partitionType) != 1 {
		t.Errorf("purge: %s", table)
	}
	if r := w.run("", append(args, "--json")...); len(decodeJSON[osdList](t, r.out).OSDs) != 1 {
		t.Errorf("after purge: %+v", r)
	}
	w.ok("trim", fmt.Sprint(list.OSDs[1]["data_device"]))
}

// Data on hard disks, metadata and buffer on the SSD.
func TestPrepareHybrid(t *testing.T) {
	w := newWorld(t)
	hdd, ssd := w.loopDisk(8<<30), w.loopDisk(4<<30)
	for dev, turns := range map[string]string{hdd: "1", ssd: "0"} {
		w.queue(dev, "rotational", turns)
		w.queue(dev, "write_cache", "write through")
	}
	w.fails([]string{"prepare", "--hybrid", hdd}, "at least one hard disk and one SSD")
	r := w.run("", "prepare", "--json", "--io", "cached", "--hybrid", hdd, ssd)
	list := decodeJSON[osdList](t, r.out)
	if r.code != 0 || len(list.OSDs) != 1 {
		t.Fatalf("%+v", r)
	}
	for _, o := range list.OSDs {
		if fmt.Sprint(o["block_size"]) != "1048576" || o["atomic_write_size"] != "0" || o["throttle_small_writes"] != "1" {
			t.Errorf("%v", o)
		}
		for key, size := range map[string]int64{"journal_device": 1 << 30, "meta_device": 1 << 30} {
			link := fmt.Sprint(o[key])
			real, err := filepath.EvalSymlinks(link)
			if err != nil || !strings.HasPrefix(real, ssd+"p") {
				t.Fatalf("%s: %v %s", key, err, real)
			}
			if got := strings.TrimSpace(w.sh("blockdev --getsize64 " + real)); got != fmt.Sprint(size) {
				t.Errorf("%s has %s bytes, want %d", key, got, size)
			}
			if got := w.ok("udev", link); !strings.Contains(got, "-"+strings.TrimSuffix(key, "_device")+"\n") || !strings.Contains(got, "VITASTOR_META_DEVICE=") {
				t.Errorf("udev: %s", got)
			}
		}
	}
	// A second pair fits the SSD of 4 GiB if its buffer is small, a third does not.
	more := w.loopDisk(8 << 30)
	w.queue(more, "rotational", "1")
	w.queue(more, "write_cache", "write back")
	w.ok("prepare", "--io", "cached", "--fast-devices", ssd, "--journal_size", "64M", more)
	another := w.loopDisk(8 << 30)
	w.queue(another, "rotational", "1")
	r = w.run("", "prepare", "--json", "--fast-devices", ssd, another)
	list = decodeJSON[osdList](t, r.out)
	if r.code != 1 || len(list.Errors) != 1 || !strings.Contains(r.err, "no fast device has") {
		t.Errorf("%+v", r)
	}
}

// Disks with something on them are left out, and stay as they are.
func TestPrepareDiskRefusals(t *testing.T) {
	w := newWorld(t)
	dev := w.loopDisk(1 << 30)
	file := strings.TrimSpace(w.sh("cat /sys/block/" + filepath.Base(dev) + "/loop/backing_file"))
	w.fails([]string{"prepare", "--force", "--osd_num", "1", "--data_device", file}, "used by "+dev, "losetup -d")
	w.fails([]string{"prepare", "--osd_num", "1", "--data_device", dev}, dev+": is a whole disk", "prepare "+dev)
	prepare := func(words ...string) {
		t.Helper()
		before := w.sh("dd if=" + dev + " bs=1M count=2 status=none | md5sum")
		w.fails([]string{"prepare", dev}, append(words, dev)...)
		if after := w.sh("dd if=" + dev + " bs=1M count=2 status=none | md5sum"); after != before {
			t.Errorf("%v: the disk was changed", words)
		}
		if log := w.log(); log != "" {
			t.Errorf("ran %s", log)
		}
	}
	w.sh("mkfs.ext4 -q " + dev)
	prepare("ext2/3/4", "wipefs -a")
	mnt := filepath.Join(w.dir, "mnt")
	w.sh("mkdir mnt && mount " + dev + " mnt")
	prepare("is mounted at " + mnt)
	w.fails([]string{"prepare", "--force", "--osd_num", "1", "--data_device", dev}, "is mounted at "+mnt)
	w.sh("umount mnt && wipefs -aq " + dev)
	w.sh("dd if=/dev/zero of=" + dev + " bs=1M count=16 status=none; echo hello > " + dev)
	prepare("unknown data", "--force")
	w.sh("wipefs -aq " + dev + "; dd if=/dev/zero of=" + dev + " bs=1M count=1 status=none; printf 'label: dos\\n,\\n' | sfdisk -q --no-reread --no-tell-kernel " + dev)
	prepare(`"dos", only gpt`)
	w.sh("wipefs -aq " + dev + "; printf 'label: gpt\\n,200M\\n' | sfdisk -q --no-reread --no-tell-kernel --force " + dev)
	if r := w.run("", "prepare", dev); r.code != 0 || !strings.Contains(r.err, "skipped: 200 M of its 1 G belong to partitions of others") {
		t.Errorf("%+v", r)
	}
	r := w.run("", "prepare", "--json", "--max_other", "50%", "--journal_size", "2M", dev)
	if list := decodeJSON[osdList](t, r.out); r.code != 0 || len(list.OSDs) != 1 {
		t.Fatalf("%+v", r)
	}
	w.fails([]string{"prepare", dev + "p2"}, "is a partition", "--data_device")
}

// One partition: gets the type and a stable name; a mounted one is never
// touched; the write cache decides about fsync and about starting.
func TestPreparePartition(t *testing.T) {
	w := newWorld(t)
	dev := w.loopDisk(1 << 30)
	w.queue(dev, "write_cache", "write back")
	w.sh("printf 'label: gpt\\n,400M\\n,400M\\n' | sfdisk -q --no-reread --no-tell-kernel --force " + dev + "; partx -u " + dev + " 2>/dev/null || true; mkfs.ext4 -q " + dev + "p2; mkdir mnt; mount " + dev + "p2 mnt")
	defer w.sh("umount mnt")
	w.fails([]string{"prepare", "--force", "--osd_num", "1", "--data_device", dev + "p2"}, dev+"p2 is mounted at", "unmount")
	w.fails([]string{"prepare", "--force", "--osd_num", "1", "--data_device", dev + "p1", "--journal_device", dev + "p2"}, dev+"p2 is mounted at")
	r := w.run("", "prepare", "--json", "--osd_num", "1", "--data_device", dev+"p1", "--journal_size", "4M")
	if r.code != 0 || !strings.Contains(r.err, `write cache is in mode "write back"`) {
		t.Fatalf("%+v", r)
	}
	o, err := layout.ParseOptions([]byte(r.out))
	if err != nil || o.Text("disable_data_fsync") != "false" || o.Text("immediate_commit") != "none" {
		t.Fatalf("%v %s", err, r.out)
	}
	name := o.Text("data_device")
	if real, err := filepath.EvalSymlinks(name); err != nil || real != dev+"p1" || !strings.HasPrefix(name, "/dev/disk/by-partuuid/") {
		t.Errorf("%s is %s: %v", name, real, err)
	}
	if got := strings.TrimSpace(w.sh("sfdisk --part-type " + dev + " 1")); !strings.EqualFold(got, partitionType) {
		t.Errorf("type %s", got)
	}
	if log := w.log(); !strings.Contains(log, "udevadm trigger --settle "+dev+"p1\n") || !strings.HasSuffix(log, "systemctl enable --now vitastor-osd@1\n") {
		t.Errorf("ran %s", log)
	}
	w.ok("pre-exec", name) // it does fsync
	w.ok("update-sb", name, "--disable_data_fsync", "true", "--disable_meta_fsync", "1", "--disable_journal_fsync", "yes")
	w.fails([]string{"pre-exec", name}, name, `in mode "write back"`, "skip_cache_check")
	w.queue(dev, "write_cache", "write through")
	w.ok("pre-exec", name)
	w.queue(dev, "write_cache", "write back")
	w.ok("update-sb", name, "--skip_cache_check", "1")
	w.ok("pre-exec", name)
	// systemd is not there: the OSD exists nevertheless, and the error says so.
	w.fake("systemctl", "echo no systemd >&2; exit 1")
	w.fails([]string{"prepare", "--force", "--osd_num", "2", "--data_device", dev + "p1", "--journal_size", "4M"}, "OSD 2 is prepared, but could not be started", "no systemd")
}

// Without udev there is no stable name: nothing is written.
func TestWithoutUdev(t *testing.T) {
	w := newWorld(t)
	dev := w.loopDisk(1 << 30)
	w.fake("udevadm", "")
	w.sh("printf 'label: gpt\\n,400M\\n' | sfdisk -q --no-reread --no-tell-kernel --force " + dev + "; partx -u " + dev + " 2>/dev/null || true")
	t.Setenv("PATH", w.path+":/usr/sbin:/usr/bin:/sbin:/bin")
	t.Setenv("FAKE_DIR", w.dir)
	var out, errs strings.Builder
	x := disk.Tool{In: strings.NewReader(""), Out: &out, Err: &errs, Programs: disk.Host{}, Patience: 300 * time.Millisecond}
	code := x.Main([]string{"prepare", "--osd_num", "1", "--data_device", dev + "p1", "--journal_size", "4M"})
	wantFailure(t, []string{"prepare"}, result{out.String(), errs.String(), code}, dev+"p1", "by-partuuid", "udev")
	w.fails([]string{"read-sb", dev + "p1"}, "no disk superblock")
}
