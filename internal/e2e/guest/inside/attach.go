package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"vitastor/internal/e2e/guest/boot"
)

// attachment is what vitastor-cli tells of a device.
type attachment struct {
	Device, Image, Via string
	Refused            map[string]string
}

// attachCases: vitastor-cli chooses the best front end that works.
func attachCases(r *rig) {
	const image = "attached"
	r.step("best", func() {
		r.create(image, 16)
		r.attach(image, "vduse")
	})
	for _, via := range []string{"ublk", "nbd"} {
		r.step("chosen "+via, func() { r.attach(image, via, "--via", via) })
	}
	r.step("next best", func() {
		program := filepath.Join(boot.Programs, "vitastor-vduse")
		r.must(os.Rename(program, program+".away"))
		defer os.Rename(program+".away", program)
		const broken = "#!/bin/sh\n[ $1 = ls ] && echo {} && exit\necho 'vitastor-vduse: no such module' >&2\nexit 1\n"
		r.must(os.WriteFile(program, []byte(broken), 0o755))
		if a := r.attach(image, "ublk"); a.Refused["vduse"] != "no such module" {
			r.fail("nobody tells why not VDUSE: %v", a)
		}
	})
	r.step("detach in use", func() {
		a := r.attachOnly(image)
		r.run("mkfs.ext4", "-q", a.Device)
		at := r.mount(a.Device)
		r.exits(16, "in use", "vitastor-cli", "detach", image)
		r.run("umount", at)
		r.cli("detach", image)
		r.exits(2, "not attached", "vitastor-cli", "detach", image)
	})
}

func (r *rig) attachOnly(image string, more ...string) (a attachment) {
	r.must(json.Unmarshal([]byte(r.cli(append([]string{"attach", "--json", image}, more...)...)), &a))
	return a
}

// attach uses a device from its first to its last moment.
func (r *rig) attach(image, via string, more ...string) attachment {
	a := r.attachOnly(image, more...)
	if a.Via != via {
		r.fail("it is attached via %s instead of %s: %v", a.Via, via, a.Refused)
	}
	r.run("dd", "if=/dev/urandom", "of="+a.Device, "bs=64k", "count=4", "oflag=direct", "status=none")
	var all []attachment
	r.must(json.Unmarshal([]byte(r.cli("attached", "--json")), &all))
	if len(all) != 1 || all[0].Device != a.Device || all[0].Image != image || all[0].Via != via {
		r.fail("attached says %v", all)
	}
	r.cli("detach", a.Device)
	r.until("it is detached", func() error {
		if text := r.cli("attached", "--json"); text != "[]" {
			return fmt.Errorf("still attached: %s", text)
		}
		return nil
	})
	return a
}
