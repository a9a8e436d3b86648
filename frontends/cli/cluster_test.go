package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/meta"
	"vitastor/libclient/image"
)

// mib is a unit of test images.
const mib = 1 << 20

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}

// tree is a model of layers: contents by name, as they must read.
type tree struct {
	t        *testing.T
	r        *rig
	contents map[string][]byte
	seed     uint64
}

func (m *tree) create(name string, args ...string) {
	m.t.Helper()
	m.r.ok(m.t, append([]string{"create", name}, args...)...)
}

func (m *tree) write(name string, offset, bytes int) {
	m.t.Helper()
	m.seed++
	p := random(m.seed, bytes)
	m.r.write(m.t, name, offset, p)
	copy(m.contents[name][offset:], p)
}

func (m *tree) snapshot(image, snap string, args ...string) {
	m.t.Helper()
	m.r.ok(m.t, append([]string{"snap-create", image + "@" + snap}, args...)...)
	m.contents[image+"@"+snap] = bytes.Clone(m.contents[image])
}

func (m *tree) clone(parent, name string, args ...string) {
	m.t.Helper()
	m.create(name, append([]string{"--parent", parent}, args...)...)
	m.contents[name] = bytes.Clone(m.contents[parent])
}

func (m *tree) check() {
	m.t.Helper()
	for name, want := range m.contents {
		m.r.wantContent(m.t, name, want)
	}
}

// newTree builds layers in both pools: a -> a@1 -> a@2 -> a, and clones of them.
func newTree(t *testing.T, r *rig, prefix string) *tree {
	m := &tree{t: t, r: r, contents: map[string][]byte{}}
	a := prefix + "a"
	m.create(a, "-s", "4M", "-p", "rep")
	m.contents[a] = make([]byte, 4*mib)
	m.write(a, 0, 3*mib)
	m.snapshot(a, "1")
	m.write(a, mib, mib/2)
	m.snapshot(a, "2")
	m.write(a, 3*mib+8192, 4096)
	m.clone(a+"@1", prefix+"b")
	m.write(prefix+"b", 4096, 4096*3)
	m.clone(a+"@2", prefix+"c", "-p", "ec")
	m.write(prefix+"c", 2*mib, mib)
	return m
}

// The life of images, with their contents.
func TestImages(t *testing.T) {
	r := theRig(t)
	m := newTree(t, r, "i")
	m.check()
	var removed struct {
		DeletedImages []string `json:"deleted_images"`
		Rebased       []string `json:"rebased_images"`
		Removed       int      `json:"removed_objects"`
		Total         int      `json:"total_objects"`
		From          string   `json:"renamed_from"`
	}
	r.json(t, &removed, "rm", "ia@2") // its children ia and ic may be written to, so they get its data
	if fmt.Sprint(removed.DeletedImages, removed.Rebased, removed.From) != "[ia@2] [ia ic]" || removed.Removed != removed.Total || removed.Total == 0 {
		t.Errorf("%+v", removed)
	}
	delete(m.contents, "ia@2")
	m.check()
	r.ok(t, "flatten", "ic") // from another pool
	m.check()
	if out := r.ok(t, "ls", "--tree", "i*"); !strings.Contains(out, "├─ ia ") || !strings.Contains(out, "└─ ib ") || strings.Contains(out, "─ ic") {
		t.Errorf("tree:\n%s", out)
	}
	r.ok(t, "modify", "ia", "--resize", "1M")
	r.ok(t, "modify", "ia", "--resize", "4M")
	clear(m.contents["ia"][mib:])
	copy(m.contents["ia"][mib:], m.contents["ia@1"][mib:]) // the parent is seen again
	m.check()
	if out := r.ok(t, "rm", "ib", "--progress", "0"); out != "" {
		t.Errorf("rm printed %q", out)
	}
	if out := r.ok(t, "rm", "ic"); !strings.Contains(out, "Image ic modified\nDone, inode ") || !strings.HasSuffix(out, "\nLayer ic deleted\n") {
		t.Errorf("rm printed %q", out)
	}
	r.ok(t, "rm", "--matching", "ia*")
	if out := r.ok(t, "--json", "ls", "i*"); out != "[]\n" {
		t.Errorf("left: %s", out)
	}
}

// The smaller layer is moved, and takes over the name.
func TestInverseMerge(t *testing.T) {
	r := theRig(t)
	m := newTree(t, r, "v")
	used := func(name string) (n int) {
		var list []struct {
			Used int `json:"used_size"`
		}
		r.json(t, &list, "ls", "-l", "--exact", name)
		return list[0].Used
	}
	eventually(t, "statistics", func() error {
		if a, b := used("va@1"), used("va@2"); a < 3*mib || b != mib/2 {
			return fmt.Errorf("va@1 has %d, va@2 has %d", a, b)
		}
		return nil
	})
	var res map[string]any
	r.json(t, &res, "rm", "va@1")
	if res["renamed_from"] != "va@1" || res["renamed_to"] != "va@2" || fmt.Sprint(res["rebased_images"]) != "[vb]" || fmt.Sprint(res["deleted_images"]) != "[]" {
		t.Errorf("%v", res)
	}
	delete(m.contents, "va@1")
	m.check()
	r.ok(t, "rm", "--writers-stopped", "va@2")
	delete(m.contents, "va@2")
	m.check()
	if out := r.ok(t, "ls", "v*"); strings.Contains(out, "@") || strings.Contains(out, "deleted") || strings.Contains(out, "DEL") {
		t.Errorf("left:\n%s", out)
	}
	r.ok(t, "rm", "--matching", "v*")
}

// killer runs commands that are killed again and again until they are done.
type killer struct {
	*tree
	rng   *rand.Rand
	kills int
}

func (k *killer) run(args ...string) {
	k.t.Helper()
	for attempt := 0; ; attempt++ {
		cmd := k.r.command(append([]string{"--iodepth", "1", "--parallel_osds", "1", "--progress", "0"}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			k.t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(10+k.rng.IntN(40*(attempt+1)))*time.Millisecond, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if cmd.ProcessState.Success() {
			return
		}
		if !killed(cmd) {
			if strings.Contains(out.String(), "not found") { // was finished just before the kill
				return
			}
			k.t.Fatalf("%v: %v\n%s", args, err, out.String())
		}
		k.kills++
		k.check()
	}
}

// used waits until the statistics of a layer are known.
func (m *tree) used(name string, bytes int) {
	m.t.Helper()
	eventually(m.t, "statistics", func() error {
		if out := m.r.ok(m.t, "--json", "ls", "-l", name); !strings.Contains(out, fmt.Sprintf(`"used_size": %d`, bytes)) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// The tool is killed at any moment; whatever survives reads the same, and the
// same command finishes the work.
func TestKilled(t *testing.T) {
	r := theRig(t)
	k := &killer{tree: newTree(t, r, "k"), rng: rand.New(rand.NewPCG(7, 7))}
	delete(k.contents, "ka@1")
	k.run("rm", "ka@1")
	k.run("flatten", "kc")
	delete(k.contents, "ka@2")
	k.run("rm", "ka@2")
	k.check()
	t.Logf("killed %d times", k.kills)
	if k.kills < 3 {
		t.Errorf("killed only %d times", k.kills)
	}
	r.ok(t, "rm", "--exact", "ka", "kb", "kc")
	if out := r.ok(t, "--json", "ls", "k*"); out != "[]\n" {
		t.Errorf("left: %s", out)
	}
}

// The same when a layer takes the place of its grandchild, and the layer
// between them has other data at the same places.
func TestKilledInverse(t *testing.T) {
	r := theRig(t)
	k := &killer{rng: rand.New(rand.NewPCG(8, 8))}
	for round := range 3 {
		x := fmt.Sprint("x", round)
		k.tree = &tree{t: t, r: r, contents: map[string][]byte{x: make([]byte, 4*mib)}, seed: uint64(100 * round)}
		k.create(x, "-s", "4M", "-p", "rep")
		k.write(x, 0, 3*mib)
		k.snapshot(x, "1")
		k.write(x, mib, mib/2)
		k.snapshot(x, "2")
		k.write(x, mib, 64<<10)
		k.write(x, 3*mib, 64<<10)
		k.snapshot(x, "3")
		k.write(x, mib+8192, 4096)
		k.used(x+"@1", 3*mib)
		k.used(x+"@3", 256<<10)
		delete(k.contents, x+"@1")
		delete(k.contents, x+"@2")
		k.run("rm", x+"@1", x+"@2")
		k.check()
		if out := r.ok(t, "ls", "--tree", x+"*"); strings.Contains(out, "@1") || strings.Contains(out, "@2") || strings.Contains(out, "DEL") {
			t.Errorf("left:\n%s", out)
		}
		r.ok(t, "rm", "--matching", x+"*")
		if out := r.ok(t, "--json", "ls", x+"*"); out != "[]\n" {
			t.Errorf("left: %s", out)
		}
	}
	t.Logf("killed %d times", k.kills)
	if k.kills < 3 {
		t.Errorf("killed only %d times", k.kills)
	}
}

func killed(cmd *exec.Cmd) bool {
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// A clone is flattened while it is written to.
func TestFlattenUnderWrites(t *testing.T) {
	r := theRig(t)
	m := newTree(t, r, "w")
	c, err := image.Dial(context.Background(), image.Config{EtcdAddress: strings.Join(r.Endpoints(), ","), ConfigPath: r.ConfigFile()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"wa", "wc"} {
		i, err := c.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		stop, writes := make(chan bool), make(chan error, 1)
		count := 0
		go func() {
			rng := rand.New(rand.NewPCG(3, 3))
			for {
				select {
				case <-stop:
					writes <- nil
					return
				default:
				}
				count++
				p := random(uint64(1000+count), 4096)
				at := rng.IntN(1024) * 4096
				if _, err := i.WriteAt(p, int64(at)); err != nil {
					writes <- err
					return
				}
				copy(m.contents[name][at:], p)
			}
		}()
		r.ok(t, "flatten", name, "--iodepth", "4", "--parallel_osds", "1")
		close(stop)
		if err := <-writes; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d writes during flatten of %s", count, name)
	}
	m.check()
	r.ok(t, "rm", "--matching", "w*")
}

// dd between files, pipes and images.
func TestDD(t *testing.T) {
	r := theRig(t)
	p := random(99, 3*mib+12345)
	clear(p[mib : 2*mib])
	in, out := r.file("dd.in"), r.file("dd.out")
	if err := os.WriteFile(in, p, 0o666); err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(p), make([]byte, 4096-len(p)%4096)...)
	res := r.run("", "dd", "if="+in, "oimg=dd1", "--pool", "rep", "bs=128k")
	if res.code != 0 || res.out != "" || !strings.HasPrefix(res.err, "\r") || !strings.Contains(res.err, " copied, ") {
		t.Fatalf("%+v", res)
	}
	r.wantContent(t, "dd1", padded)
	var list []map[string]any
	if r.json(t, &list, "ls", "dd1"); list[0]["size"] != float64(len(padded)) {
		t.Errorf("%v", list)
	}
	r.fails(t, 2, []string{"dd", "if=" + in, "oimg=dd2"}, "Pool to create output image dd2 is not specified")

	res = r.run(string(p[:mib]), "--json", "dd", "oimg=dd1", "oseek=1M", "bs=64k") // over zeroes, from a pipe
	if res.code != 0 || !strings.HasPrefix(res.out, `{"copied": 1048576, "seconds": `) {
		t.Errorf("%+v", res)
	}
	copy(padded[mib:], p[:mib])
	r.wantContent(t, "dd1", padded)
	r.ok(t, "dd", "if=/dev/zero", "oimg=dd1", "count=4", "seek=1", "bs=64k") // zeroes over data
	clear(padded[64<<10 : 320<<10])
	r.wantContent(t, "dd1", padded)

	cmd := r.command("dd", "iimg=dd1", "skip=1M", "count=300k", "bs=64k") // to a pipe
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, padded[mib:mib+300<<10]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := os.WriteFile(out, bytes.Repeat([]byte{0xee}, 8*mib), 0o666); err != nil {
		t.Fatal(err)
	}
	r.ok(t, "dd", "iimg=dd1", "of="+out) // over an old file: holes must not show what was there
	file, _ := os.ReadFile(out)
	if !bytes.Equal(file[:len(padded)], padded) || file[len(padded)] != 0xee {
		t.Error("file differs")
	}
	r.ok(t, "snap-create", "dd1@s")
	res = r.fails(t, 30, []string{"dd", "if=" + in, "oimg=dd1@s"}, "image dd1@s at offset", "Read-only file system (code -30)")
	r.fails(t, 22, []string{"dd", "if=" + in, "oimg=dd1", "bs=1000"}, "Unaligned write")
	r.ok(t, "dd", "if="+in, "oimg=dd1", "conv=trunc", "count=64k", "status=none", "--progress", "0")
	r.wantContent(t, "dd1", append(bytes.Clone(p[:64<<10]), []byte{}...))
	r.ok(t, "rm", "--matching", "dd1*")
}

// What people look at, on a cluster that runs.
func TestWatching(t *testing.T) {
	r := theRig(t)
	for _, args := range [][]string{{"status"}, {"top"}, {"df"}, {"ls-pools", "-l"}, {"osd-tree", "-l"}, {"osds"}, {"pgs"}, {"ls", "-l"}, {"describe"}} {
		for _, form := range [][]string{nil, {"--json"}} {
			out := r.ok(t, append(form, args...)...)
			if form != nil && !json.Valid([]byte(out)) {
				t.Errorf("%v: %s", args, out)
			}
		}
	}
	out := r.ok(t, "status")
	for _, want := range []string{"etcd: 1 / 1 up", "mon:  1 up, master ", "osd:  3 / 3 up", "pools: 2 / 2 active", "pgs:   12 active"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	r.ok(t, "create", "-s", "1M", "-p", "rep", "for-completion")
	for args, want := range map[string]string{"rm ": "for-completion\n", "modify-pool ": "rep\n", "ls --pool ": "ec\n", "create --po": "--pool", "dd iimg=": "iimg=for-completion\n", "rm-osd ": "2\n"} {
		words := append([]string{"__complete"}, strings.Split("--etcd_address "+r.Endpoints()[0]+" "+args, " ")...)
		got, err := exec.Command(r.program, words...).Output()
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("completion of %q: %v\n%s", args, err, got)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got, err := exec.Command(r.program, "completion", shell).Output(); err != nil || len(got) < 1000 {
			t.Errorf("completion %s: %v", shell, err)
		}
	}
	for _, args := range [][]string{{}, {"--help"}, {"-h", "create"}, {"--help", "--all"}} {
		if out := r.ok(t, args...); !strings.Contains(out, "vitastor-cli create") {
			t.Errorf("help %v: %s", args, out)
		}
	}
	r.ok(t, "rm", "for-completion")
	res := r.fails(t, 1, []string{"--etcd_address", "127.0.0.1:1", "--max_etcd_attempts", "1", "status"})
	if res.err == "" {
		t.Error("no reason")
	}
	if out, err := exec.Command(r.program, "--config_path", "/nonexistent", "ls").CombinedOutput(); err == nil || !strings.Contains(string(out), "etcd_address is missing") {
		t.Errorf("%v %s", err, out)
	}
	if err := os.Symlink(r.program, r.file("vitastor-rm")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(r.file("vitastor-rm")).CombinedOutput(); err == nil || !strings.Contains(string(out), "Pool is not specified") {
		t.Errorf("vitastor-rm: %v %s", err, out)
	}
}

// Objects that are not clean are described, and bad copies removed.
func TestYDescribeAndFix(t *testing.T) {
	r := theRig(t)
	global := func(noRecovery bool) {
		if err := r.PutJSON("/vitastor/config/global", map[string]any{"immediate_commit": "all", "client_wait_up_timeout": 3, "osd_out_time": 3600,
			"etcd_stats_interval": 1, "mon_stats_timeout": 500, "no_recovery": noRecovery}); err != nil {
			t.Fatal(err)
		}
	}
	r.ok(t, "create", "-s", "2M", "-p", "rep", "f1")
	content := random(6, 2*mib)
	r.write(t, "f1", 0, content)
	global(true)
	defer global(false)
	r.down(t, 3)
	content = random(7, 2*mib)
	r.write(t, "f1", 0, content)
	r.up(t, 3)
	var objects []struct {
		Inode, Stripe string
		OSD           int `json:"osd_num"`
		Outdated      bool
	}
	eventually(t, "outdated copies", func() error {
		out := r.ok(t, "--json", "describe", "--pool", "rep", "--object-state", "degraded")
		if err := json.Unmarshal([]byte(out), &objects); err != nil {
			t.Fatal(err, out)
		}
		for _, o := range objects {
			if o.OSD == 3 && o.Outdated {
				return nil
			}
		}
		return fmt.Errorf("%s", out)
	})
	if out := r.ok(t, "describe", "--osds", "1,2", "--inode", objects[0].Inode); !strings.Contains(out, objects[0].Inode+":"+objects[0].Stripe+" part 0 on OSD ") {
		t.Errorf("describe:\n%s", out)
	}
	if out := r.ok(t, "--json", "describe", "--object-state", "incomplete"); out != "[\n]\n" {
		t.Errorf("describe:\n%s", out)
	}
	list := r.ok(t, "--json", "describe", "--pool", "1")
	if res := r.run(list, "--json", "fix", "--bad-osds", "3"); res.code != 0 || res.out != "[]\n" { // they are not inconsistent
		t.Errorf("%+v", res)
	}
	res := r.run(list, "fix", "--bad-osds", "3", "--check", "no")
	if res.code != 0 || !strings.Contains(res.out, " part 0 on OSD 3\n") || strings.Contains(res.out, "OSD 1") {
		t.Errorf("%+v", res)
	}
	global(false)
	if err := r.WaitState(1, "active", 40*time.Second); err != nil {
		t.Fatal(err, r.Logs(10))
	}
	r.wantContent(t, "f1", content)
	r.ok(t, "rm", "f1")
}

func (r *rig) down(t *testing.T, osds ...meta.OSDNum) {
	t.Helper()
	for _, n := range osds {
		if err := r.OSD(n).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range osds {
		if err := r.WaitDown(n, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) up(t *testing.T, osds ...meta.OSDNum) {
	t.Helper()
	for _, n := range osds {
		if err := r.OSD(n).Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitUp(n, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// OSDs are down: what cannot be removed is told, and the removal goes on when
// they are back. What is removed meanwhile does not come back with them.
func TestZDownOSD(t *testing.T) {
	r := theRig(t)
	for _, name := range []string{"d1", "d2"} {
		r.ok(t, "create", "-s", "4M", "-p", "rep", name)
		r.write(t, name, 0, random(5, 4*mib))
	}
	var d2 []struct {
		Num int `json:"inode_num"`
	}
	r.json(t, &d2, "ls", "d2")
	r.down(t, 3)
	r.ok(t, "rm", "--down-ok", "d2")
	r.fails(t, 16, []string{"rm-osd", "3"}, "DEGRADED", "(ID 1)")
	r.down(t, 2)
	eventually(t, "inactive PGs", func() error {
		if out := r.ok(t, "pgs", "--pool", "rep", "^active"); strings.Count(out, "\n") < 2 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	r.fails(t, 16, []string{"rm-osd", "--force", "2", "3"}, "DATA LOSS")
	res := r.fails(t, 5, []string{"--json", "--progress", "0", "rm", "d1"})
	var got struct {
		PGs     []int `json:"inactive_pgs"`
		Removed int   `json:"removed_objects"`
	}
	if err := json.Unmarshal([]byte(res.out), &got); err != nil || len(got.PGs) == 0 {
		t.Errorf("%s", res.out)
	}
	r.fails(t, 5, []string{"rm", "d1"}, "are not active: repeat the command when they are")
	if out := r.ok(t, "ls", "d1"); !strings.Contains(out, "DEL") {
		t.Errorf("not marked:\n%s", out)
	}
	r.up(t, 2, 3)
	if err := r.WaitState(1, "active", 40*time.Second); err != nil {
		t.Fatal(err, r.Logs(10))
	}
	r.ok(t, "rm", "d1")
	if out := r.ok(t, "--json", "rm-data", "--pool", "1", "--inode", fmt.Sprint(d2[0].Num)); !strings.Contains(out, `"total_objects": 0`) {
		t.Errorf("came back: %s", out)
	}
	r.fails(t, 16, []string{"rm-osd", "3"}, "OSD 3 is still up")
}

// An OSD is removed for good, and its number given away again.
func TestZZRemoveOSD(t *testing.T) {
	r := theRig(t)
	r.down(t, 3)
	var res map[string]any
	r.json(t, &res, "rm-osd", "--dry-run", "--force", "3")
	if fmt.Sprint(res["osd_ids"]) != "[3]" || !strings.Contains(fmt.Sprint(res["pool_errors"]), "degraded") {
		t.Errorf("%v", res)
	}
	if out := r.ok(t, "rm-osd", "--force", "3"); !strings.Contains(out, "OSD 3 is removed from etcd") {
		t.Errorf("%s", out)
	}
	for _, key := range []string{"/vitastor/osd/stats/3", "/vitastor/osd/state/3", "/vitastor/osd/space/3"} {
		if v, err := r.Get(key); err != nil || v != nil {
			t.Errorf("%s: %s %v", key, v, err)
		}
	}
	eventually(t, "a monitor that goes on without OSD 3", func() error {
		if out := r.ok(t, "pgs", "--osd", "3"); strings.Count(out, "\n") > 1 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out := r.ok(t, "alloc-osd"); out != "3\n" {
		t.Errorf("alloc-osd: %s", out)
	}
	r.ok(t, "rm-osd", "3")
}
