package main

import (
	"os"
	"strconv"
	"syscall"
)

// nbdAlone are cases of devices that live as long as their server.
func nbdAlone(r *rig, f *frontEnd) {
	image := "image-" + f.name
	r.step("snapshot, read-only, next to another device", func() {
		first := r.run(f.mapping(image)...)
		second := r.run(f.mapping(image + "@s1")...)
		if first == second || r.sysfs(first, "ro") != "0" || r.sysfs(second, "ro") != "1" {
			r.fail("%s and the snapshot %s: ro is %s and %s", first, second, r.sysfs(first, "ro"), r.sysfs(second, "ro"))
		}
		if out, err := command("dd", "if=/dev/zero", "of="+second, "bs=4k", "count=1", "oflag=direct").CombinedOutput(); err == nil {
			r.fail("a snapshot can be written: %s", out)
		}
		r.run(f.program, f.unmap, second)
		r.unmap(f, first)
	})
	r.step("break of the cluster", func() { nbdPatience(r, f, image) })
	r.step("killed server", func() { nbdKilled(r, f, image) })
}

// nbdImpatience says how soon the kernel looks after requests without an answer,
// instead of every 30 s.
func nbdImpatience(r *rig, device string) {
	r.must(os.WriteFile("/sys/block/nbd"+number(device)+"/queue/io_timeout", []byte("4000"), 0))
}

// nbdPatience: the kernel does not give a connection up soon, because it has
// others.
func nbdPatience(r *rig, f *frontEnd, image string) {
	device := r.run(f.mapping(image)...)
	if ms, err := strconv.Atoi(r.sysfs(device, "queue/io_timeout")); err != nil || ms < 86400_000 {
		r.fail("requests time out after %d ms: %v", ms, err)
	}
	r.unmap(f, device)
}

// nbdKilled: the device is gone with its server, and can be mapped again.
func nbdKilled(r *rig, f *frontEnd, image string) {
	device := r.run(f.mapping(image)...)
	r.must(syscall.Kill(r.listed(f)[device].PID, syscall.SIGKILL))
	r.until("the device is gone", func() error {
		_, err := os.Stat("/sys/block/nbd" + number(device) + "/pid")
		if err != nil {
			return nil
		}
		return syscall.EBUSY
	})
	if size := r.sizeMiB(device); size != 0 {
		r.fail("a device without a server has %d MiB", size)
	}
	if all := r.listed(f); len(all) != 0 {
		r.fail("ls --json shows %v", all)
	}
	if again := r.run(f.mapping(image)...); again != device {
		r.fail("%s is mapped instead of %s", again, device)
	}
	r.check(f, device)
	r.unmap(f, device)
}
