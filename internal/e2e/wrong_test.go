package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/workload"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// TestFullDisk: small disks and an image that does not fit.
func TestFullDisk(t *testing.T) {
	full(t)
	const bytes = 256 << 20
	r := newRig(t, cluster.Config{OSDBytes: 160 << 20})
	name := r.pool(1, schemes[0].pool, bytes)
	image := &tested{workload.New(1, bytes), r.dial(name, "client_retry_enospc", "false")}
	// One writer per object, so that every object gets written.
	run := image.Start(image.image, workload.Options{Writers: 16, MayFail: func(err error) bool { return errors.Is(err, syscall.ENOSPC) }})
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if run.Failures() > 100 || run.Failed() || time.Now().After(end) {
			break
		}
	}
	result, err := run.Stop()
	r.must(err)
	if result.Failed == 0 {
		t.Fatalf("no write failed: %+v", result)
	}
	t.Logf("%d writes, %d without space", result.Writes, result.Failed)
	r.must(image.Verify(image.image))
	for _, n := range r.c.OSDNumbers() { // a full OSD starts again
		r.must(r.c.OSD(n).Kill())
	}
	for _, n := range r.c.OSDNumbers() {
		r.must(r.c.OSD(n).Start())
	}
	r.must(r.c.WaitState(1, "active...", 30*time.Second))
	r.verify(image)

	// A client with default options waits until there is space again.
	patient := r.dial(name)
	waited := make(chan error, 1)
	go func() {
		b := make([]byte, 8<<20)
		for at := int64(0); at < bytes; at += int64(len(b)) {
			if _, err := patient.WriteAt(b, at); err != nil {
				waited <- err
				return
			}
		}
		waited <- nil
	}()
	select {
	case err := <-waited:
		t.Fatalf("writes without space have ended: %v", err)
	case <-time.After(2 * time.Second):
	}
	r.must(r.c.AddOSD(4, 1<<30))
	r.must(r.c.AddOSD(5, 1<<30))
	for _, n := range []meta.OSDNum{4, 5} {
		r.must(r.c.OSD(n).Start())
	}
	select {
	case err := <-waited:
		r.must(err)
	case <-time.After(60 * time.Second):
		t.Error("writes still wait although there is space")
	}
}

// TestSameNumber: the second OSD with a number ends, says why, and disturbs
// nobody.
func TestSameNumber(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	twin := r.c.Dir + "/twin.img"
	r.must(r.c.PrepareDisk(1, twin, 1<<30, "--disable_data_fsync", "1"))
	p, err := r.c.OSDOn("osd1twin", twin)
	r.must(err)
	result := r.under("a second OSD 1", image, gentle, time.Second, func() {
		r.must(p.Start())
		code, err := p.Wait(30 * time.Second) // it may be a former process that has not ended yet
		if err != nil {
			r.Fatal(err)
		}
		if log := p.Log(10); code != 0 || !strings.Contains(log, "OSD 1 is running already") {
			t.Errorf("exit code %d, log:\n%s", code, log)
		}
	})
	r.atMost(result, 2*time.Second, "the first OSD 1 goes on")
	r.verify(image)
	// On the same disk it does not even get to etcd.
	p, err = r.c.OSDOn("osd1again", r.c.Disk(1))
	r.must(err)
	r.must(p.Start())
	code, err := p.Wait(15 * time.Second)
	r.must(err)
	if log := p.Log(10); code != 1 || !strings.Contains(log, "osd1.img") {
		t.Errorf("exit code %d, log:\n%s", code, log)
	}
	r.verify(image)
}

// TestWrongDisk: a disk of another OSD or another layout is refused with a
// reason, and nothing on it changes.
func TestWrongDisk(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	r.under("load", image, gentle, time.Second, func() {})
	disk := r.c.Dir + "/other.img"
	r.must(r.c.PrepareDisk(7, disk, 256<<20, "--disable_data_fsync", "1"))
	good, err := r.c.OSDOn("osd7", disk)
	r.must(err)
	r.must(good.Start())
	r.must(r.c.WaitUp(7, 15*time.Second))
	if code, err := good.Terminate(15 * time.Second); err != nil || code != 0 {
		t.Errorf("exit code %d: %v", code, err)
	}
	before, err := os.ReadFile(disk)
	r.must(err)
	for _, c := range []struct {
		name, why string
		args      []string
	}{
		{"another number", "osd_num", []string{"--osd_num", "8"}},
		{"another block size", "block_size", []string{"--block_size", "65536"}},
		{"a missing disk", "nonexistent", []string{"--data_device", "/nonexistent"}},
	} {
		p, err := r.c.OSDOn("wrong", disk, c.args...)
		r.must(err)
		r.must(p.Start())
		code, err := p.Wait(15 * time.Second)
		if err != nil {
			t.Errorf("%s: it runs\n%s", c.name, p.Log(10))
			p.Kill()
			continue
		}
		if code != 1 || !strings.Contains(p.Log(10), c.why) {
			t.Errorf("%s: exit code %d, log:\n%s", c.name, code, p.Log(10))
		}
		if after, err := os.ReadFile(disk); err != nil || !slices.Equal(before, after) {
			t.Errorf("%s: the disk has changed: %v", c.name, err)
		}
	}
	// With another block size than the pool's an OSD may run, but has no PGs.
	r.must(r.c.PrepareDisk(9, r.c.Dir+"/blocks.img", 256<<20, "--disable_data_fsync", "1", "--block_size", "65536"))
	p, err := r.c.OSDOn("osd9", r.c.Dir+"/blocks.img")
	r.must(err)
	r.must(p.Start())
	r.must(r.c.WaitUp(9, 15*time.Second))
	time.Sleep(2 * time.Second)
	text, err := r.c.Get(r.c.Keys.PGConfig())
	r.must(err)
	config, err := schema.DecodePGConfig("", text)
	r.must(err)
	for _, pg := range config.Pool(1).PGs {
		if slices.Contains(pg.OSDSet, 9) {
			t.Errorf("PG %d is placed on an OSD with blocks of 64 KiB", pg.Num)
		}
	}
	r.verify(image)
	p.Kill()
}

// TestHostilePackets: whatever a stranger sends to an OSD costs the stranger
// its connection, and nobody else anything.
func TestHostilePackets(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{})
	image := r.open(r.pool(1, schemes[1].pool, imageBytes), imageBytes)
	var addresses []string
	for _, n := range r.c.OSDNumbers() {
		text, err := r.c.Get(r.c.Keys.OSDState(n))
		r.must(err)
		state, err := schema.DecodeOSDState("", text)
		r.must(err)
		addresses = append(addresses, net.JoinHostPort(state.Addresses[0], strconv.Itoa(int(state.Port))))
	}
	r.under("hostile packets", image, gentle, 0, func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
			attack(rng, addresses[rng.IntN(len(addresses))])
		}
	})
	for _, n := range r.c.OSDNumbers() {
		if !r.c.OSD(n).Running() {
			t.Errorf("OSD %d has ended:\n%s", n, r.c.OSD(n).Log(30))
		}
	}
	r.verify(image)
}

// attack sends some packets that look more or less like operations. There is no
// authentication in the protocol: well-formed deletions would be executed, so
// they are about other inodes than the tested one.
func attack(rng *rand.Rand, address string) {
	const magic, headerBytes = 0x2bd7b10325434553, 0x80
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
	for range 1 + rng.IntN(4) {
		b := make([]byte, headerBytes+rng.IntN(3)*4096)
		if rng.IntN(3) == 0 {
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
		}
		if rng.IntN(8) != 0 {
			binary.LittleEndian.PutUint64(b, magic)
		}
		binary.LittleEndian.PutUint64(b[8:], uint64(rng.IntN(5)))
		binary.LittleEndian.PutUint64(b[16:], uint64(rng.IntN(24)))
		for i := 24; i+8 <= headerBytes; i += 8 {
			if rng.IntN(3) == 0 {
				values := []uint64{0, 1, 4096, 1 << 20, 1 << 31, 1 << 48, 1<<48 | 2, 1<<63 - 1, 1<<64 - 1}
				binary.LittleEndian.PutUint64(b[i:], values[rng.IntN(len(values))])
			}
		}
		if _, err := conn.Write(b[:len(b)-rng.IntN(2)*rng.IntN(64)]); err != nil {
			return
		}
	}
	io.Copy(io.Discard, conn)
}

// TestSmallEtcd: with the limits that etcd has by default a large pool works as
// far as it can, and the logs say what to do.
func TestSmallEtcd(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{DefaultEtcdLimits: true})
	r.must(r.c.SetPool(1, cluster.Replicated("big", 2, 512)))
	r.must(r.c.Until("a log says what is wrong with etcd", 15*time.Second, func() error {
		for _, p := range []*cluster.Process{r.c.Mon(1), r.c.OSD(1)} {
			if strings.Contains(p.Log(2000), "--max-txn-ops=100000") {
				return nil
			}
		}
		return errors.New("nothing in the log of the monitor:\n" + r.c.Mon(1).Log(20))
	}))
	for _, n := range r.c.OSDNumbers() {
		if !r.c.OSD(n).Running() {
			t.Errorf("OSD %d has ended:\n%s", n, r.c.OSD(n).Log(30))
		}
	}
	r.must(r.c.WaitState(1, "active", 20*time.Second))
}
