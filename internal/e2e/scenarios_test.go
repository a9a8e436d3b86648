package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"vitastor/internal/e2e/cluster"
	"vitastor/internal/e2e/workload"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

const imageBytes = 16 << 20

// schemes are the kinds of pools that every failover is tested with.
var schemes = []struct {
	name string
	pool cluster.Pool
}{
	{"replicated", cluster.Replicated("r", 2, 16)},
	{"ec", cluster.EC("e", 2, 1, 16)},
}

// lazily runs a test on both kinds of pools with immediate and with lazy commit;
// of these only the first one in quick runs, if that is wanted.
func lazily(t *testing.T, quick bool, test func(r *rig, image *tested, load workload.Options)) {
	for _, lazy := range []bool{false, true} {
		for i, s := range schemes {
			name, load := s.name, gentle
			if lazy {
				name += ", lazy commit"
				load.SyncEvery = 50
			}
			t.Run(name, func(t *testing.T) {
				if !quick || lazy || i > 0 {
					full(t)
				}
				r := newRig(t, cluster.Config{Lazy: lazy})
				test(r, r.open(r.pool(1, s.pool, imageBytes), imageBytes), load)
			})
		}
	}
}

// TestReadWrite is the shortest way through everything: both kinds of pools,
// reads and writes, the end and a new start of all processes.
func TestReadWrite(t *testing.T) {
	r := newRig(t, cluster.Config{})
	var images []*tested
	for i, s := range schemes {
		name := r.pool(meta.PoolID(i+1), s.pool, imageBytes)
		image := r.open(name, imageBytes)
		r.under(s.name, image, workload.Options{Reads: 0.3, SyncEvery: 50}, time.Second, func() {})
		r.verify(image)
		images = append(images, image)
	}
	for _, n := range r.c.OSDNumbers() {
		r.must(r.c.OSD(n).Kill())
	}
	if code, err := r.c.Mon(1).Terminate(10 * time.Second); err != nil || code != 0 {
		t.Errorf("exit code %d of the monitor: %v", code, err)
	}
	r.must(r.c.Mon(1).Start())
	for _, n := range r.c.OSDNumbers() {
		r.must(r.c.OSD(n).Start())
	}
	for i, image := range images {
		r.must(r.c.WaitState(meta.PoolID(i+1), "active...", 20*time.Second))
		r.verify(image)
	}
}

// TestKillOSD kills every OSD in turn while clients write.
func TestKillOSD(t *testing.T) {
	lazily(t, true, func(r *rig, image *tested, load workload.Options) {
		for _, n := range r.c.OSDNumbers() {
			r.hasPrimary(n)
			result := r.under(fmt.Sprintf("kill -9 of OSD %d", n), image, load, 2*time.Second, func() {
				r.must(r.c.OSD(n).Kill())
			})
			r.atMost(result, 3500*time.Millisecond, "the lease of a killed OSD has to be revoked before it runs out after 4 s")
			r.under(fmt.Sprintf("start of OSD %d", n), image, load, time.Second, func() {
				r.must(r.c.OSD(n).Start())
			})
			r.must(r.c.WaitState(1, "active", 20*time.Second))
			r.verify(image)
		}
	})
}

// hasPrimary makes sure that a fault of the OSD means something.
func (r *rig) hasPrimary(n meta.OSDNum) {
	r.Helper()
	count, err := r.c.Primaries(1)
	r.must(err)
	if count[n] == 0 {
		r.Fatalf("OSD %d is the primary of no PG: %v", n, count)
	}
}

// TestStopOSD: an orderly stop fails no operation and hands PGs over.
func TestStopOSD(t *testing.T) {
	lazily(t, false, func(r *rig, image *tested, load workload.Options) {
		for _, n := range r.c.OSDNumbers() {
			r.hasPrimary(n)
			result := r.under(fmt.Sprintf("stop of OSD %d", n), image, load, 2*time.Second, func() {
				if code, err := r.c.OSD(n).Terminate(15 * time.Second); err != nil || code != 0 {
					r.Errorf("exit code %d, %v\n%s", code, err, r.c.OSD(n).Log(20))
				}
			})
			r.atMost(result, 3500*time.Millisecond, "an orderly stop does not wait for a lease")
			r.must(r.c.OSD(n).Start())
			r.must(r.c.WaitState(1, "active", 20*time.Second))
			r.verify(image)
		}
	})
}

// TestClientCrash: what a client has synced survives it, even together with the
// OSDs; what it was writing is there or not.
func TestClientCrash(t *testing.T) {
	lazily(t, false, func(r *rig, image *tested, load workload.Options) {
		load.MayFail = func(error) bool { return true }
		for round := range 3 {
			run := image.Start(image.image, load)
			r.progress(run, 1000)
			image.image.Close()
			if _, err := run.Stop(); err != nil {
				r.Fatal(err)
			}
			if load.SyncEvery > 0 {
				image.LoseUnsynced()
			}
			if round > 0 {
				for _, n := range r.c.OSDNumbers() {
					r.must(r.c.OSD(n).Kill())
				}
				for _, n := range r.c.OSDNumbers() {
					r.must(r.c.OSD(n).Start())
				}
				r.must(r.c.WaitState(1, "active", 20*time.Second))
			}
			image.image = r.dial(image.image.name)
			r.verify(image)
		}
	})
}

// TestFrozenOSD: a process that stands still for a while and then goes on
// answers nobody with old data.
func TestFrozenOSD(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{})
			image := r.open(r.pool(1, s.pool, imageBytes), imageBytes)
			r.verify(image)
			r.hasPrimary(2)
			result := r.under("SIGSTOP of OSD 2", image, gentle, 8*time.Second, func() { r.must(r.c.OSD(2).Freeze()) })
			r.atMost(result, 12*time.Second, "the lease of 4 s has to end")
			r.under("SIGCONT of OSD 2", image, workload.Options{Writers: 8, Reads: 0.7, Pause: time.Millisecond}, 2*time.Second,
				func() { r.must(r.c.OSD(2).Thaw()) })
			r.verify(image)
			r.restartEnded()
			r.must(r.c.WaitState(1, "active", 20*time.Second))
			r.verify(image)
		})
	}
}

// restartEnded starts the OSDs that found that their lease is gone, and ended.
func (r *rig) restartEnded() {
	r.Helper()
	time.Sleep(1500 * time.Millisecond) // a keepalive is sent every second
	for _, n := range r.c.OSDNumbers() {
		if code, err := r.c.OSD(n).Wait(time.Millisecond); err == nil {
			r.Logf("OSD %d has ended with code %d, as it must without lease", n, code)
			if code != 1 {
				r.Errorf("exit code %d instead of 1", code)
			}
			r.must(r.c.OSD(n).Start())
		}
		r.must(r.c.WaitUp(n, 15*time.Second))
	}
}

// TestMonitors: clients do not need one; a standby takes over and reacts to
// failures.
func TestMonitors(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{Monitors: 2})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	master := 1
	if r.monitorStatus(1) != http.StatusOK {
		master = 2
	}
	result := r.under("kill -9 of the master monitor", image, gentle, time.Second, func() { r.must(r.c.Mon(master).Kill()) })
	r.atMost(result, 2*time.Second, "clients do not need the monitor")
	r.must(r.c.Until("the other monitor is the master", 30*time.Second, func() error {
		if code := r.monitorStatus(3 - master); code != http.StatusOK {
			return fmt.Errorf("HTTP status %d", code)
		}
		return nil
	}))
	result = r.under("kill -9 of OSD 1 with the new master", image, gentle, time.Second, func() { r.must(r.c.OSD(1).Kill()) })
	r.atMost(result, 3500*time.Millisecond, "the new master has to move primaries at once")
	r.must(r.c.Mon(master).Start())
	r.must(r.c.OSD(1).Start())
	r.must(r.c.WaitState(1, "active", 20*time.Second))
	r.verify(image)
}

func (r *rig) monitorStatus(i int) int {
	response, err := http.Get(r.c.MetricsURL(i))
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// TestStatistics: what OSDs and monitor publish about a known amount of work.
func TestStatistics(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{Global: map[string]any{"etcd_stats_interval": 1}})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	result := r.under("load", image, workload.Options{Reads: 0.5}, time.Second, func() {})
	id := meta.MakeInode(1, 1)
	r.must(r.c.Until("statistics of the image", 15*time.Second, func() error {
		text, err := r.c.Get(r.c.Keys.InodeStats(id))
		if err != nil {
			return err
		}
		s, err := schema.DecodeInodeStats("", text)
		if s.Write.Count < result.Writes || s.Read.Count < result.Reads || s.RawUsedBytes == 0 {
			return fmt.Errorf("%+v after %+v: %w", s, result, errors.Join(err, errors.New("not yet")))
		}
		return nil
	}))
	response, err := http.Get(r.c.MetricsURL(1))
	r.must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	r.must(err)
	for _, part := range []string{`vitastor_image_raw_used{image_name="image1",inode_num="1",pool_id="1"}`,
		`vitastor_osd_status{host=`, `vitastor_pool_status{pool_id="1",pool_name="r"} 1`,
		`vitastor_pg_count{pg_state="active",pool_id="1",pool_name="r"} 16`} {
		if !strings.Contains(string(body), part) {
			t.Errorf("no %s in\n%s", part, body)
		}
	}
}

// TestRestartEverything: power failure of the whole cluster, etcd included.
func TestRestartEverything(t *testing.T) {
	for _, s := range schemes {
		t.Run(s.name, func(t *testing.T) {
			full(t)
			r := newRig(t, cluster.Config{DisksIn: t.TempDir()}) // on disk, not in memory
			image := r.open(r.pool(1, s.pool, imageBytes), imageBytes)
			result := r.under("kill -9 of everything", image, gentle, 0, func() {
				for _, n := range r.c.OSDNumbers() {
					r.must(r.c.OSD(n).Kill())
				}
				r.must(r.c.Mon(1).Kill())
				r.must(r.c.Etcd(1).Kill())
				time.Sleep(500 * time.Millisecond)
				r.must(r.c.Etcd(1).Start())
				r.must(r.c.Mon(1).Start())
				for _, n := range r.c.OSDNumbers() {
					r.must(r.c.OSD(n).Start())
				}
			})
			r.atMost(result, 25*time.Second, "leases of dead monitors and OSDs have to run out")
			r.must(r.c.WaitState(1, "active", 30*time.Second))
			r.verify(image)
		})
	}
}

// TestEtcdOutage: members restart one by one, then the majority is lost for
// longer than the leases live.
func TestEtcdOutage(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{EtcdMembers: 3})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	for i := range 3 {
		result := r.under(fmt.Sprintf("restart of etcd %d of 3", i+1), image, gentle, 2*time.Second, func() {
			r.must(r.c.Etcd(i + 1).Kill())
			time.Sleep(300 * time.Millisecond)
			r.must(r.c.Etcd(i + 1).Start())
		})
		r.atMost(result, 6*time.Second, "one member of three is not needed")
	}
	r.under("etcd without majority for 7 s", image, gentle, time.Second, func() {
		r.must(r.c.Etcd(1).Kill())
		r.must(r.c.Etcd(2).Kill())
		time.Sleep(7 * time.Second)
		r.must(r.c.Etcd(1).Start())
		r.must(r.c.Etcd(2).Start())
	})
	r.restartEnded()
	r.must(r.c.WaitState(1, "active", 30*time.Second))
	r.verify(image)
}

// TestFrozenEtcd: a member that stands still, with the connections of everybody,
// is left for another one before leases run out.
func TestFrozenEtcd(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{EtcdMembers: 3})
	image := r.open(r.pool(1, schemes[0].pool, imageBytes), imageBytes)
	for i := range 3 {
		leader, version, err := r.c.EtcdLeader()
		r.must(err)
		what := fmt.Sprintf("SIGSTOP of etcd %d of 3", i+1)
		if leader == i+1 {
			what += ", the leader"
		}
		result := r.under(what, image, gentle, time.Second, func() {
			r.must(r.c.Etcd(i + 1).Freeze())
			time.Sleep(7 * time.Second)
			r.must(r.c.Etcd(i + 1).Thaw())
			time.Sleep(2 * time.Second)
			for _, n := range r.c.OSDNumbers() {
				if r.c.OSD(n).Running() {
					continue
				}
				// etcd issue 15247: before 3.4.31 and 3.5.13 a leader that
				// wakes up revokes all leases of which it missed the refreshes.
				if leader != i+1 || !strings.HasPrefix(version, "3.4.2") {
					t.Errorf("OSD %d has ended:\n%s", n, r.c.OSD(n).Log(6))
				}
				t.Logf("etcd %s has revoked the lease of OSD %d after SIGCONT", version, n)
				r.must(r.c.OSD(n).Start())
			}
		})
		r.atMost(result, 15*time.Second, "two members of three are enough")
		r.must(r.c.WaitState(1, "active", 30*time.Second))
	}
	r.verify(image)
}

// TestTwoFailures: an EC 2+1 pool without two OSDs waits, and loses nothing.
func TestTwoFailures(t *testing.T) {
	full(t)
	r := newRig(t, cluster.Config{})
	image := r.open(r.pool(1, schemes[1].pool, imageBytes), imageBytes)
	r.under("two of three OSDs are killed and come back", image, gentle, time.Second, func() {
		r.must(r.c.OSD(1).Kill())
		time.Sleep(time.Second)
		r.must(r.c.OSD(3).Kill())
		time.Sleep(2 * time.Second)
		r.must(r.c.OSD(3).Start())
	})
	r.verify(image)
	r.must(r.c.OSD(1).Start())
	r.must(r.c.WaitState(1, "active", 20*time.Second))
	r.verify(image)
}
