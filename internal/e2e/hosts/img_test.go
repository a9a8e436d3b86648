package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
)

// randomFile is a sparse file with some random data.
func randomFile(t *testing.T, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(bytes)
	}
	data := make([]byte, 300<<10)
	for at := int64(0); at < bytes && err == nil; at += int64(len(data)) * 3 {
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		_, err = f.WriteAt(data[:min(int64(len(data)), bytes-at)], at)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// area is a line of qemu-img map.
type area struct {
	Start, Length uint64
	Zero, Data    bool
	Present       bool
}

func mapOf(t *testing.T, target string) (list []area) {
	t.Helper()
	if err := json.Unmarshal([]byte(run(t, "qemu-img", "map", "-f", "raw", "--output=json", target)), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestConvert(t *testing.T) {
	setUp(t)
	raw := randomFile(t, 64<<20)
	qcow := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow)
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		a, b := disk(newImage(t, pool, 64<<20)), disk(newImage(t, 3-pool, 64<<20))
		run(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, a)
		identical(t, raw, a)
		io(t, b, "write -P 0x55 0 64M") // must not shine through
		run(t, "qemu-img", "convert", "-m", "16", "-W", "-f", "raw", "-O", "raw", a, b)
		identical(t, a, b)
		back := filepath.Join(t.TempDir(), "back.raw")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", b, back)
		identical(t, raw, back)
	}
	fail(t, "smaller", "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, disk(newImage(t, 1, 32<<20)))
}

func TestMapAndDiscard(t *testing.T) {
	setUp(t)
	d := disk(newImage(t, 1, 4<<20))
	io(t, d, "write -P 1 132k 8k", "write -P 2 1M 512k", "write -z -u 1152k 128k", "discard 1280k 128k", "write -z 2M 4k", "flush")
	want := fmt.Sprint([]area{{0, 132 << 10, true, false, true}, {132 << 10, 8 << 10, false, true, true},
		{140 << 10, 884 << 10, true, false, true}, {1 << 20, 128 << 10, false, true, true}, {1152 << 10, 256 << 10, true, false, true},
		{1408 << 10, 128 << 10, false, true, true}, {1536 << 10, 512 << 10, true, false, true}, {2 << 20, 4 << 10, false, true, true},
		{2052 << 10, 2044 << 10, true, false, true}})
	if got := fmt.Sprint(mapOf(t, d)); got != want {
		t.Errorf("map:\n%s\nwant:\n%s", got, want)
	}
	io(t, d, "read -P 1 132k 8k", "read -P 0 1152k 256k", "read -P 2 1M 128k", "read -P 2 1408k 128k")
}

func TestResize(t *testing.T) {
	setUp(t)
	name := newImage(t, 1, 4<<20)
	d := disk(name)
	size := func(want string) {
		t.Helper()
		if out := run(t, "qemu-img", "info", d); !strings.Contains(out, want) {
			t.Errorf("%s, want %s", out, want)
		}
	}
	io(t, d, "write -P 7 0 4M")
	run(t, "qemu-img", "resize", "-f", "raw", d, "8M")
	size("8388608 bytes")
	io(t, d, "read -P 7 0 4M", "read -P 0 4M 4M", "write -P 8 4M 4M")
	fail(t, "--shrink", "qemu-img", "resize", "-f", "raw", d, "1M")
	run(t, "qemu-img", "resize", "-f", "raw", "--shrink", d, "1028k")
	size("1052672 bytes")
	run(t, "qemu-img", "resize", "-f", "raw", d, "8M")
	io(t, d, "read -P 7 0 1028k", "read -P 0 1028k 7164k")
	fail(t, "preallocation", "qemu-img", "resize", "-f", "raw", "--preallocation=full", d, "16M")
}

func TestNames(t *testing.T) {
	c := setUp(t)
	name := newImage(t, 1, 4<<20)
	image, err := rig.images.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := image.Info()
	etcd := strings.ReplaceAll(strings.TrimPrefix(c.Endpoints()[0], "http://"), ":", `\:`)
	for _, good := range []string{disk(name), "vitastor:image=" + name + ":etcd_host=" + etcd + ":etcd_prefix=/vitastor",
		"vitastor://?image=" + name + "&config_path=" + c.ConfigFile(),
		`json:{"driver":"raw","file":{"driver":"vitastor","image":"` + name + `","config-path":"` + c.ConfigFile() + `"}}`,
		fmt.Sprintf("vitastor:pool=1:inode=%d:size=4194304:config-path=%s", info.Number, c.ConfigFile()),
		disk(name, "use-rdma=0", "rdma-mtu=4096", "skip-parents=0")} {
		if out := run(t, "qemu-img", "info", good); !strings.Contains(out, "virtual size: 4 MiB") {
			t.Errorf("%s: %s", good, out)
		}
	}
	fail(t, "image 'nothing' does not exist", "qemu-img", "info", disk("nothing"))
	fail(t, "has no '='", "qemu-img", "info", "vitastor:"+name)
	fail(t, "doesn't support the option 'colour'", "qemu-img", "info", disk(name, "colour=red"))
	fail(t, "must be a number", "qemu-img", "info", disk(name, "skip-parents=maybe"))
	fail(t, "image is missing", "qemu-img", "info", "vitastor:pool=1:config_path="+c.ConfigFile())
	fail(t, "either image or inode", "qemu-img", "info", disk(name, "pool=1", "inode=3", "size=4096"))
	fail(t, "pool 99 does not exist", "qemu-img", "info", "vitastor:pool=99:inode=1:size=4096:config_path="+c.ConfigFile())
	fail(t, "etcd_address", "qemu-img", "info", "vitastor:config_path=/nonexistent:image="+name)
}

func TestSnapshot(t *testing.T) {
	setUp(t)
	name := newImage(t, 1, 4<<20)
	d, snap := disk(name), disk(name+"@before")
	io(t, d, "write -P 1 0 1M")
	if err := rig.images.Snapshot(context.Background(), name, "before"); err != nil {
		t.Fatal(err)
	}
	io(t, d, "read -P 1 0 1M", "write -P 2 512k 128k", "write -z -u 0 128k", "discard 128k 128k")
	io(t, d, "read -P 0 0 128k", "read -P 1 128k 384k", "read -P 2 512k 128k", "read -P 1 640k 384k")
	out := run(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 1M", "-c", "read -P 0 1M 3M", snap)
	if strings.Contains(out, "failed") {
		t.Error(out)
	}
	fail(t, "read-only", "qemu-io", "-f", "raw", "-c", "write 0 4k", snap)
	copied := disk(newImage(t, 2, 4<<20))
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", snap, copied)
	io(t, copied, "read -P 1 0 1M", "read -P 0 1M 3M")
	// what the upper layer has
	own := mapOf(t, disk(name, "skip-parents=1"))
	want := []area{{0, 128 << 10, false, true, true}, {128 << 10, 384 << 10, true, false, false}, {512 << 10, 128 << 10, false, true, true}}
	if len(own) < 3 || own[0] != want[0] || own[2] != want[2] || own[1].Data {
		t.Errorf("own layer: %v", own)
	}
	base, diff := filepath.Join(t.TempDir(), "base.qcow2"), filepath.Join(t.TempDir(), "diff.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", snap, base)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "-B", base, "-F", "qcow2", disk(name, "skip-parents=1"), diff)
	if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", d, diff); !strings.Contains(out, "identical") {
		t.Error(out)
	}
}

// TestRandom runs random commands of qemu-io on an image and on a file, which
// have to be the same.
func TestRandom(t *testing.T) {
	setUp(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	const size = 8 << 20
	for pool := meta.PoolID(1); pool <= 2; pool++ {
		var list []string
		for range 300 {
			bytes := (r.Uint64N(64) + 1) * 512
			if r.IntN(4) == 0 {
				bytes = (r.Uint64N(8) + 1) * 65536
			}
			at := r.Uint64N((size-bytes)/512+1) * 512
			if r.IntN(3) == 0 {
				at &^= 65535
			}
			kind := []string{fmt.Sprintf("write -P %d", r.IntN(255)+1), fmt.Sprintf("aio_write -P %d", r.IntN(255)+1), "write -z", "write -z -u",
				fmt.Sprintf("write -f -P %d", r.IntN(255)+1), "read", "flush"}[r.IntN(7)]
			// requests in flight must not overlap: their order is nobody's
			list = append(list, "aio_flush")
			if kind == "flush" {
				list = append(list, kind)
			} else {
				list = append(list, fmt.Sprintf("%s %d %d", kind, at, bytes))
			}
		}
		file := filepath.Join(t.TempDir(), "model.raw")
		run(t, "truncate", "-s", fmt.Sprint(size), file)
		d := disk(newImage(t, pool, size))
		list = append(list, "aio_flush")
		io(t, file, list...)
		io(t, d, list...)
		identical(t, file, d)
	}
}

// TestOSDKilled: nobody sees that an OSD dies while qemu-io writes.
func TestOSDKilled(t *testing.T) {
	c := setUp(t)
	d := disk(newImage(t, 2, 64<<20))
	var list []string
	for i := range 256 {
		list = append(list, fmt.Sprintf("aio_write -P %d %dk 256k", i%255+1, i*256), "sleep 8")
	}
	list = append(list, "aio_flush", "flush")
	args := []string{"-f", "raw", "-t", "none"}
	for _, l := range list {
		args = append(args, "-c", l)
	}
	cmd := command(t, "qemu-io", append(args, d)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	if err := c.OSD(2).Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || strings.Contains(out.String(), "rror") || strings.Contains(out.String(), "failed") {
		t.Fatalf("%v\n%s", err, &out)
	}
	if err := c.OSD(2).Start(); err != nil {
		t.Fatal(err)
	}
	list = nil
	for i := range 256 {
		list = append(list, fmt.Sprintf("read -P %d %dk 256k", i%255+1, i*256))
	}
	io(t, d, list...)
	if err := c.WaitState(2, "active", time.Minute); err != nil {
		t.Error(err)
	}
}

// TestModule: the same file is a module of this build of QEMU. It is loaded
// under a name that Debian's QEMU knows.
func TestModule(t *testing.T) {
	setUp(t)
	name := newImage(t, 1, 4<<20)
	dir := t.TempDir()
	if err := os.Symlink(rig.driver, filepath.Join(dir, "block-ssh.so")); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "qemu-io", "-c", "open ssh://nobody@127.0.0.1:1/x", "-c", "open -o driver=raw "+disk(name), "-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k")
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+dir, "LD_LIBRARY_PATH="+rig.lib)
	out, _ := cmd.CombinedOutput()
	if text := string(out); !strings.Contains(text, "read 65536/65536") || strings.Contains(text, "same build") {
		t.Errorf("%s", out)
	}
	if out, err := command(t, "sh", "-c", "echo a child is not disturbed").CombinedOutput(); err != nil || string(out) != "a child is not disturbed\n" {
		t.Errorf("%v: %s", err, out)
	}
}
