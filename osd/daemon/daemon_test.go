package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/etcd/mem"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
	"vitastor/osd/store/layout"
)

var threeOSDs = []int{1, 2, 3}

// running is a healthy cluster of three OSDs.
func running(t *testing.T, pgs int) *cluster {
	t.Helper()
	c := newCluster(t, 3)
	c.pool(replicated3, pgs, threeOSDs, 1, 2, 3)
	c.startAll()
	c.wait("active PGs", c.all(pgs, meta.PGActive), 20*time.Second)
	return c
}

func TestThreeOSDsReachActive(t *testing.T) {
	c := newCluster(t, 3)
	c.pool(replicated3, 8, threeOSDs, 1, 2, 3)
	c.startAll()
	if took := c.wait("active PGs", c.all(8, meta.PGActive), 20*time.Second); took > time.Second {
		t.Errorf("it took %v", took)
	}
	c.w.RunFor(time.Minute)
	if !c.all(8, meta.PGActive)() {
		t.Errorf("PGs do not stay active: %v", c.states(8))
	}
	for _, m := range c.osds {
		s := m.osd.Status()
		if m.ended || !s.MayServe || s.Stage != "running" || s.BufferBytes != 0 || len(s.PGs) < 2 {
			t.Errorf("%v %v", m.err, s)
		}
	}
}

func TestStateKey(t *testing.T) {
	c := running(t, 3)
	port := uint16(0)
	if s, err := schema.DecodeOSDState("", c.get(c.keys.OSDState(1))); err == nil {
		port = s.Port
	}
	want := fmt.Sprintf(`{"addresses":["10.0.0.1"],"blockstore_enabled":true,"host":"osd1","port":%d,"primary_enabled":true,"state":"up","version":"3.0.8"}`, port)
	if got := string(c.get(c.keys.OSDState(1))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// members are the sorted names of a JSON object at a path of names.
func members(t *testing.T, text []byte, path ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	for _, p := range path {
		v = v.(map[string]any)[p]
	}
	return strings.Join(slices.Sorted(maps.Keys(v.(map[string]any))), " ")
}

// The statistics keys are as etcd.md 2.6 and 2.7.4 say.
func TestStatistics(t *testing.T) {
	c := running(t, 3)
	l := c.newClient()
	image := meta.MakeInode(1, 7)
	for i := range uint64(6) { // an object in each PG, twice
		osd := meta.OSDNum(i%3 + 1)
		if r := l.do(osd, wire.OpWrite, image, i*(128<<10), 4096); r != 4096 {
			t.Fatalf("write %d: %v", i, r)
		}
		if r := l.do(osd, wire.OpRead, image, i*(128<<10), 4096); r != 4096 {
			t.Fatalf("read %d: %v", i, r)
		}
	}
	c.w.RunFor(61 * time.Second)
	text := c.get(c.keys.OSDStats(1))
	ops := "delete describe list ping primary_delete primary_read primary_sync primary_write read rollback scrub sec_lock " +
		"sec_read_bmp show_config stabilize sync sync_stab_all write write_stable"
	for path, want := range map[string]string{
		"":         "bitmap_granularity blockstore_ready data_block_size free host immediate_commit op_stats recovery_stats size subop_stats time version",
		"op_stats": ops, "subop_stats": ops, "recovery_stats": "degraded misplaced",
		"op_stats/primary_write": "bps bytes count iops lat usec", "subop_stats/write_stable": "count iops lat usec",
		"recovery_stats/degraded": "bps bytes count iops lat usec",
	} {
		if got := members(t, text, strings.FieldsFunc(path, func(r rune) bool { return r == '/' })...); got != want {
			t.Errorf("%s has %s, want %s", path, got, want)
		}
	}
	s, err := schema.DecodeOSDStats("", text)
	if err != nil {
		t.Fatal(err)
	}
	if s.SizeBytes != 56*mib || s.FreeBytes != 56*mib-6*128<<10 || s.BlockBytes != 128<<10 || s.GranularityBytes != 4096 ||
		s.ImmediateCommit != "all" || s.Host != "osd1" || s.Version != "3.0.8" || s.TimeMillis/1000 < 1767225600 {
		t.Errorf("%+v", s)
	}
	w, sub := s.Ops["primary_write"], s.Subops["write_stable"]
	if w.Count != 2 || w.Bytes != 8192 || w.Usec == 0 || s.Ops["primary_read"].Count != 2 || sub.Count != 4 || s.Ops["write_stable"].Count != 6 {
		t.Errorf("%+v %+v %+v", s.Ops, sub, s.Ops["write_stable"])
	}
	if w.IOPS != 0 || w.LatUsec != 0 {
		t.Errorf("rates of a minute without load: %+v", w)
	}
	if got, want := string(c.get(c.keys.OSDSpace(1))), fmt.Sprintf(`{"1":{"7":%d}}`, 6*128<<10); got != want {
		t.Errorf("osd/space %s, want %s", got, want)
	}
	io, err := schema.DecodeInodeIO("", c.get(c.keys.InodeIO(2)))
	if err != nil || len(io) != 1 || io[0].Inode != image || io[0].Write.Count != 2 || io[0].Read.Bytes != 8192 || io[0].Write.Usec == 0 {
		t.Errorf("osd/inodestats %s", c.get(c.keys.InodeIO(2)))
	}
	if got, want := string(c.get(c.keys.PGStats(meta.PG{Pool: 1, Num: 2}))),
		`{"clean_count":2,"degraded_count":0,"incomplete_count":0,"misplaced_count":0,"object_count":2,"write_osd_set":[1,2,3]}`; got != want {
		t.Errorf("pgstats %s, want %s", got, want)
	}
}

func TestKilledOSDReturns(t *testing.T) {
	c := running(t, 6)
	m := c.osds[0]
	lease := m.osd.register.Lease()
	m.kill()
	c.wait("PGs of others are degraded", func() bool { return c.states(6)[1]&meta.PGDegraded != 0 && c.states(6)[0] == meta.PGOffline }, 10*time.Second)
	m.node.Restart()
	m.start()
	if took := c.wait("all active", c.all(6, meta.PGActive), 20*time.Second); took > 6*time.Second {
		t.Errorf("it took %v", took)
	}
	// Killed again, its lease revoked by a sentinel: hardly a pause.
	lease = m.osd.register.Lease()
	m.kill()
	c.osds[1].node.Do(func(e *env.Env) { e.KV.Revoke(lease, time.Second, func(error) {}) })
	m.node.Restart()
	m.start()
	if took := c.wait("all active", c.all(6, meta.PGActive), 20*time.Second); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestEtcdOutage(t *testing.T) {
	c := running(t, 6)
	c.kv.SetDown(true)
	c.w.RunFor(2 * time.Minute)
	for _, m := range c.osds {
		if m.ended || m.osd.MayServe() {
			t.Errorf("OSD %d: ended %v %v, serves %v", m.num, m.ended, m.err, m.osd != nil && m.osd.MayServe())
		}
	}
	c.kv.SetDown(false)
	c.wait("all serve again", func() bool {
		for _, m := range c.osds {
			if !m.osd.MayServe() {
				return false
			}
		}
		return c.all(6, meta.PGActive)()
	}, 5*time.Second)
}

func TestFrozenOSDEnds(t *testing.T) {
	c := running(t, 6)
	m := c.osds[1]
	m.node.Pause()
	c.w.RunFor(10 * time.Second)
	m.node.Resume()
	c.wait("it ends", func() bool { return m.ended }, 5*time.Second)
	if m.code != 1 || m.err == nil {
		t.Errorf("code %d, %v", m.code, m.err)
	}
	m.restart()
	c.wait("all active", c.all(6, meta.PGActive), 20*time.Second)
}

func TestShutdownHandsOver(t *testing.T) {
	c := running(t, 6)
	m := c.osds[2]
	lease := m.osd.register.Lease()
	m.node.Do(func(*env.Env) { m.osd.Shutdown(); m.osd.Shutdown() })
	took := c.wait("it ends", func() bool { return m.ended }, 20*time.Second)
	if m.code != 0 || m.err != nil || took > time.Second {
		t.Errorf("code %d, %v, after %v", m.code, m.err, took)
	}
	if c.get(c.keys.OSDState(3)) != nil || slices.Contains(c.kv.Store().Leases(), lease) || c.states(6)[2] != meta.PGOffline {
		t.Errorf("something of it is left: %v", c.states(6))
	}
	if c.get(c.keys.OSDStats(3)) == nil {
		t.Error("osd/stats must stay")
	}
	m.restart()
	c.wait("all active", c.all(6, meta.PGActive), 20*time.Second)
	if took := c.wait("registered", func() bool { return m.osd.MayServe() }, time.Second); took > 0 {
		t.Errorf("%v", took)
	}
}

// Shutdown at any moment of the start ends with code 0, and nothing is left.
func TestShutdownWhileStarting(t *testing.T) {
	base := pinned.Bytes()
	for wait := time.Duration(0); wait < 30*time.Millisecond; wait += 700 * time.Microsecond {
		c := newCluster(t, 1)
		c.startAll()
		c.w.RunFor(wait)
		m := c.osds[0]
		m.node.Do(func(*env.Env) { m.osd.Shutdown() })
		c.wait("it ends", func() bool { return m.ended }, 20*time.Second)
		c.w.RunFor(5 * time.Second)
		if m.code != 0 || m.err != nil || len(c.kv.Store().Leases()) != 0 {
			t.Errorf("after %v: code %d, %v, leases %v", wait, m.code, m.err, c.kv.Store().Leases())
		}
		m.kill()
		if left := pinned.Bytes() - base; left != 0 {
			t.Errorf("after %v: %d bytes are left", wait, left)
		}
	}
}

// A killed OSD leaves no memory, whenever that happens.
func TestFree(t *testing.T) {
	base := pinned.Bytes()
	for steps := 0; steps < 700; steps += 23 {
		c := newCluster(t, 2)
		c.pool(`"scheme":"replicated","pg_size":2,"pg_minsize":1`, 4, []int{1, 2}, 1, 2)
		c.startAll()
		for range steps {
			c.w.Step()
		}
		for _, m := range c.osds {
			m.kill()
		}
		if left := pinned.Bytes() - base; left != 0 {
			t.Fatalf("after %d events: %d bytes are left", steps, left)
		}
	}
}

// The same while operations of a client are under way.
func TestFreeUnderLoad(t *testing.T) {
	base := pinned.Bytes()
	for steps := 1; steps < 400; steps += 37 {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			c := running(t, 3)
			l := c.newClient()
			l.do(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 4096)
			for i := range uint64(16) {
				l.send(1, wire.OpWrite, meta.MakeInode(1, 7), i*3*(128<<10), 64<<10)
				l.send(1, wire.OpRead, meta.MakeInode(1, 7), i*3*(128<<10), 4096)
			}
			for range steps {
				c.w.Step()
			}
			for _, m := range c.osds {
				m.kill()
			}
		})
		if left := pinned.Bytes() - base; left != 0 {
			t.Fatalf("after %d events: %d bytes are left", steps, left)
		}
	}
}

func TestConfigOnline(t *testing.T) {
	c := running(t, 3)
	m := c.osds[0]
	c.put(c.keys.Global(), `{"log_level":5,"recovery_queue_depth":7,"no_such_option":1,"bind_port":99,"slow_log_interval":3,"throttle_small_writes":true}`)
	c.wait("the change", func() bool { return m.level == slog.LevelDebug }, time.Second)
	if d := m.osd; d.config.Recovery.QueueDepth != 7 || d.statsOptions().SlowOps != 3*time.Second || d.config.BindPort != 0 {
		t.Errorf("%+v", d.config.Recovery)
	}
	c.put(c.keys.Global(), `{"no_such_option":1}`)
	c.wait("the change back", func() bool { return m.level == slog.LevelInfo && m.osd.config.Recovery.QueueDepth == 1 }, time.Second)
	for _, want := range []string{"no_such_option", "bind_port: 0 -> 99", "recovery_queue_depth: 1 -> 7"} {
		if n := strings.Count(c.log.String(), want); n != 3 {
			t.Errorf("%q was told %d times by 3 OSDs:\n%s", want, n, c.tail())
		}
	}
	if c.states(3)[0] != meta.PGActive || m.ended {
		t.Error("the changes did harm")
	}
}

func TestStartErrors(t *testing.T) {
	for name, x := range map[string]struct {
		args  string
		image func(t *testing.T) *sim.Image
		want  string
	}{
		"wrong number":  {"--osd_num 5", nil, "disk is the disk of OSD 1, but osd_num is 5"},
		"no superblock": {"", func(*testing.T) *sim.Image { return sim.NewImage(diskBytes) }, "disk has no superblock: prepare it"},
		"bad value":     {"--recovery_queue_depth many", nil, `parameter recovery_queue_depth is "many" in the command line`},
		"no such disk":  {"--meta_device other", nil, "open other: no such disk"},
		"tiny disk":     {"", func(*testing.T) *sim.Image { return sim.NewImage(512) }, "has only 512 bytes"},
		"truncated": {"", func(t *testing.T) *sim.Image {
			b, _ := layout.EncodeSuperblock(superblock(1))
			return sim.NewImageFrom(b, 6*mib)
		}, "data_offset"},
		"other block size": {"--block_size 262144", func(t *testing.T) *sim.Image {
			c := newCluster(t, 1)
			c.startAll()
			c.w.RunFor(time.Second)
			return c.osds[0].node.Disks()[0].Image()
		}, "parameters do not fit the store"},
		"network": {"--osd_network 172.16.0.0/12", nil, "no address of this host is inside osd_network"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 0)
			image := diskImage(t, 1)
			if x.image != nil {
				image = x.image(t)
			}
			m := c.addOSD(1, image)
			m.args = x.args
			m.start()
			c.wait("it ends", func() bool { return m.ended }, 20*time.Second)
			if m.code != 1 || m.err == nil || !strings.Contains(m.err.Error(), x.want) {
				t.Errorf("code %d: %v, want %q", m.code, m.err, x.want)
			}
		})
	}
}

func TestTwoOSDsWithOneNumber(t *testing.T) {
	c := running(t, 3)
	other := c.addOSD(2, diskImage(t, 2))
	other.start()
	c.wait("the second one ends", func() bool { return other.ended }, 30*time.Second)
	if other.code != 0 || other.err == nil || !strings.Contains(other.err.Error(), "OSD 2 is running already: on host osd2, addresses [10.0.0.2]") {
		t.Errorf("code %d: %v", other.code, other.err)
	}
	c.w.RunFor(5 * time.Second)
	if !c.all(3, meta.PGActive)() {
		t.Errorf("the first one was disturbed: %v", c.states(3))
	}
}

func TestForeignDisk(t *testing.T) {
	c := running(t, 3)
	l := c.newClient()
	if r := l.do(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 4096); r != 4096 {
		t.Fatalf("write: %v", r)
	}
	c.w.RunFor(time.Second)
	image := c.osds[0].node.Disks()[0].Image()
	d := newCluster(t, 0)
	d.addOSD(1, image).start()
	d.wait("it runs", func() bool { return d.osds[0].osd.MayServe() }, 20*time.Second)
	if !d.logged("is it the disk of another cluster?") {
		t.Errorf("no warning: %s", d.tail())
	}
	// At the next start the OSD is known.
	d.w.RunFor(time.Second)
	d.log.Reset()
	d.osds[0].restart()
	d.wait("it runs", func() bool { return d.osds[0].osd.MayServe() }, 20*time.Second)
	if d.logged("another cluster") {
		t.Errorf("a warning about a known OSD: %s", d.tail())
	}
}

// An etcd with its default limits serves a small cluster, with a warning.
func TestSmallEtcd(t *testing.T) {
	c := newClusterOf(t, 1, sim.Options{KV: sim.KVConfig{Limits: mem.Limits{MaxTxnOps: 128}}})
	c.pool(`"scheme":"replicated","pg_size":1,"pg_minsize":1`, 300, []int{1}, 1)
	c.startAll()
	c.wait("it runs", func() bool { return c.osds[0].osd.Status().Stage == "running" }, 10*time.Second)
	if !c.logged("etcd has its default limits") || !c.logged("--max-txn-ops=100000") {
		t.Errorf("no warning:\n%s", c.tail())
	}
}

func TestDiskFails(t *testing.T) {
	c := running(t, 3)
	m := c.osds[0]
	m.node.Disks()[0].SetReadOnly(true)
	m.node.Disks()[0].SetFaults(sim.DiskFaults{WriteError: 1})
	l := c.newClient()
	l.do(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 4096)
	c.wait("it ends", func() bool { return m.ended }, 10*time.Second)
	if m.code != 1 || m.err == nil || !strings.Contains(m.err.Error(), "the disk of the OSD failed") {
		t.Errorf("code %d: %v", m.code, m.err)
	}
	if c.get(c.keys.OSDState(1)) != nil {
		t.Error("the lease was not given back")
	}
}

// The removed key (vitastor-cli rm-osd) ends the OSD.
func TestRemovedKey(t *testing.T) {
	c := running(t, 3)
	m := c.osds[0]
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVDelete, Key: c.keys.OSDState(1)}}}); err != nil {
		t.Fatal(err)
	}
	c.wait("it ends", func() bool { return m.ended }, 10*time.Second)
	if m.code != 1 || !strings.Contains(m.err.Error(), "was removed") {
		t.Errorf("code %d: %v", m.code, m.err)
	}
}

// The log says which operation is slow, and whom it waits for.
func TestSlowOperations(t *testing.T) {
	c := newCluster(t, 3)
	c.put(c.keys.Global(), `{"slow_log_interval":1}`)
	c.pool(replicated3, 3, threeOSDs, 1)
	c.startAll()
	c.wait("active PGs", c.all(3, meta.PGActive), 20*time.Second)
	l := c.newClient()
	l.do(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 4096)
	c.osds[2].node.Pause()
	_, done := l.send(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 8192)
	c.w.RunFor(2500 * time.Millisecond)
	for _, want := range []string{"slow operation op=WRITE inode 1/7 offset 0x0 length 8192 of ",
		"slow operation op=waiting for OSD 3 at 10.0.0.3:32768 to answer SEC_WRITE_STABLE object "} {
		if !c.logged(want) {
			t.Errorf("nothing like %q:\n%s", want, c.tail())
		}
	}
	stats := func() schema.OSDStats {
		c.osds[0].node.Do(func(*env.Env) { c.osds[0].osd.stats.Soon() })
		c.w.RunFor(time.Second / 2)
		s, err := schema.DecodeOSDStats("", c.get(c.keys.OSDStats(1)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := stats(); s.SlowOpsPrimary != 1 || s.SlowOpsSecondary != 0 {
		t.Errorf("slow operations in osd/stats: %d %d", s.SlowOpsPrimary, s.SlowOpsSecondary)
	}
	c.osds[2].node.Resume()
	c.wait("the write", func() bool { return *done }, 10*time.Second)
	if s := stats(); s.SlowOpsPrimary != 0 {
		t.Errorf("%d are still slow", s.SlowOpsPrimary)
	}
}

// A disk that must not be written is served for reading.
func TestReadOnly(t *testing.T) {
	c := newCluster(t, 1)
	c.pool(`"scheme":"replicated","pg_size":1,"pg_minsize":1`, 2, []int{1}, 1)
	m := c.osds[0]
	m.start()
	c.wait("active PGs", c.all(2, meta.PGActive), 20*time.Second)
	l := c.newClient()
	for i := range uint64(40) { // the last ones stay in the buffer area
		if r := l.do(1, wire.OpWrite, meta.MakeInode(1, 7), i%8*8192, 4096); r != 4096 {
			t.Fatalf("write: %v", r)
		}
	}
	before := m.node.Disks()[0].Stats()
	m.args = "--readonly 1"
	m.restart()
	c.wait("registration", func() bool { return m.osd.Status().Stage == "running" }, 20*time.Second)
	c.wait("active PGs", c.all(2, meta.PGActive), 20*time.Second)
	if r := l.do(1, wire.OpRead, meta.MakeInode(1, 7), 0, 4096); r != 4096 {
		t.Errorf("read: %v", r)
	}
	if r := l.do(1, wire.OpWrite, meta.MakeInode(1, 7), 0, 4096); r != wire.EROFS {
		t.Errorf("write: %v, want EROFS", r)
	}
	c.w.RunFor(time.Minute)
	after := m.node.Disks()[0].Stats()
	if m.ended || after.Writes != before.Writes {
		t.Errorf("ended %v %v, %d writes before, %d after", m.ended, m.err, before.Writes, after.Writes)
	}
}

// A value in etcd that cannot be read is waited for, at the start; later it is
// ignored.
func TestWrongGlobal(t *testing.T) {
	c := newCluster(t, 1)
	c.put(c.keys.Global(), `{"log_level":`)
	c.startAll()
	m := c.osds[0]
	c.wait("it says so", func() bool { return c.logged("a value in etcd is wrong, waiting for its correction") }, 5*time.Second)
	c.put(c.keys.Global(), `{"recovery_queue_depth":3}`)
	c.wait("it runs", func() bool { return m.osd.MayServe() }, 10*time.Second)
	c.put(c.keys.Global(), `[]`)
	c.w.RunFor(10 * time.Second)
	if m.ended || !m.osd.MayServe() || m.osd.config.Recovery.QueueDepth != 3 {
		t.Errorf("%v %v", m.err, m.osd.Status())
	}
}
