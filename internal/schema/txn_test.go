package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/meta"
)

// show prints a transaction one item per line, without the prefix.
func show(t env.Txn) string {
	var b strings.Builder
	for _, c := range t.If {
		target := [...]string{"VERSION", "CREATE", "MOD", "LEASE", "VALUE"}[c.Target]
		fmt.Fprintf(&b, "if %s(%s) %s %d\n", target, c.Key, [...]string{"=", ">", "<", "!="}[c.Result], c.Number)
	}
	for i, ops := range [][]env.KVOp{t.Then, t.Else} {
		for _, o := range ops {
			fmt.Fprintf(&b, "%s %s %s", [...]string{"then", "else"}[i], [...]string{"get", "put", "del"}[o.Kind], o.Key)
			if o.End != "" {
				fmt.Fprintf(&b, "..%s", o.End)
			}
			if o.Kind == env.KVPut {
				fmt.Fprintf(&b, " = %s", o.Value)
			}
			if o.Lease != 0 {
				fmt.Fprintf(&b, " lease %d", o.Lease)
			}
			b.WriteByte('\n')
		}
	}
	return strings.ReplaceAll(b.String(), "/v/", "")
}

// acceptable tests what etcd itself refuses: to write a key twice in one branch.
func acceptable(txn env.Txn) error {
	for _, ops := range [][]env.KVOp{txn.Then, txn.Else} {
		for i, p := range ops {
			for j, o := range ops {
				if i == j || p.Kind != env.KVPut || o.Kind == env.KVGet {
					continue
				}
				if o.Key == p.Key || o.End != "" && (Range{o.Key, o.End}).Contains(p.Key) {
					return fmt.Errorf("%s is written twice", p.Key)
				}
			}
		}
	}
	return nil
}

func TestTxns(t *testing.T) {
	for _, c := range txnTable() {
		if err := acceptable(c.txn); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		want := strings.TrimLeft(strings.ReplaceAll(c.want, "\t", ""), "\n")
		if got := show(c.txn); got != want {
			t.Errorf("%s:\n got\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

type txnCase struct {
	name string
	txn  env.Txn
	want string
}

func txnTable() []txnCase {
	return slices.Concat(osdTxns(), monTxns(), stateTxns(), configTxns(), createTxns(), modifyTxns())
}

const (
	noStats    = `{"op_stats":{},"subop_stats":{},"recovery_stats":{"degraded":{},"misplaced":{}},"object_counts":{"object":"0","clean":"0","misplaced":"0","degraded":"0","incomplete":"0"},"object_bytes":{"object":"0","clean":"0","misplaced":"0","degraded":"0","incomplete":"0"}}`
	noCounters = `{"count":"0","usec":"0","bytes":"0","bps":"0","iops":"0","lat":"0"}`
)

func osdTxns() []txnCase {
	k := NewKeys("/v")
	state := &OSDState{State: StateUp, Addresses: []string{"10.0.0.5"}, Host: "h", Port: 5}
	return []txnCase{
		{"pools", k.PutPools([]byte("{}"), 12), `
			if MOD(config/pools) < 13
			then put config/pools = {}
			else get config/pools
			`},
		{"first pools", k.PutPools([]byte("{}"), 0), `
			if MOD(config/pools) < 1
			then put config/pools = {}
			else get config/pools
			`},
		{"osd config", k.PutOSDConfig(3, []byte(`{"noout":true}`), 8), `
			if MOD(config/osd/3) < 9
			then put config/osd/3 = {"noout":true}
			`},
		{"first osd config", k.PutOSDConfig(3, []byte(`{"noout":true}`), 0), `
			if VERSION(config/osd/3) = 0
			then put config/osd/3 = {"noout":true}
			`},
		{"osd config without settings", k.PutOSDConfig(3, nil, 8), `
			if MOD(config/osd/3) < 9
			then del config/osd/3
			`},
		{"osd state", k.CreateOSDState(3, state, 99), `
			if CREATE(osd/state/3) = 0
			then put osd/state/3 = {"addresses":["10.0.0.5"],"blockstore_enabled":false,"host":"h","port":5,"primary_enabled":false,"state":"up","version":""} lease 99
			else get osd/state/3
			`},
		{"reserve osd", k.ReserveOSD(3), `
			if VERSION(osd/stats/3) = 0
			then put osd/stats/3 = {}
			else get osd/stats/..osd/stats0
			`},
		{"osd statistics", k.ReportOSDStats(3, &OSDStats{}, []InodeBytes{{meta.MakeInode(1, 2), 5}}, nil,
			[]PGReportedStats{{meta.PG{Pool: 1, Num: 4}, PGStats{Objects: 1}}}), `
			then put osd/stats/3 = {}
			then put osd/space/3 = {"1":{"2":5}}
			then put osd/inodestats/3 = {}
			then put pgstats/1/4 = {"clean_count":0,"degraded_count":0,"incomplete_count":0,"misplaced_count":0,"object_count":1,"write_osd_set":[]}
			`},
	}
}

func monTxns() []txnCase {
	k := NewKeys("/v")
	mon := &Monitor{IPs: []string{"10.0.0.5"}, Hostname: "h", ID: "77"}
	return []txnCase{
		{"monitor", k.PutMonMember(mon, "77", 77), `
			then put mon/member/77 = {"ip":["10.0.0.5"],"hostname":"h"} lease 77
			`},
		{"election", k.BecomeMaster(mon, 77), `
			if CREATE(mon/master) = 0
			then put mon/master = {"ip":["10.0.0.5"],"hostname":"h","id":"77"} lease 77
			else get mon/master
			`},
		{"statistics of an inode", k.PutStats(&StatsWrite{
			Inodes: map[meta.Inode]InodeStats{meta.MakeInode(10, 1): {}, meta.MakeInode(2, 1): {}},
		}, 77), `
			if LEASE(mon/master) = 77
			then put stats = ` + noStats + `
			then put inode/stats/2/1 = {"raw_used":"0","read":` + noCounters + `,"write":` + noCounters + `,"delete":` + noCounters + `}
			then put inode/stats/10/1 = {"raw_used":"0","read":` + noCounters + `,"write":` + noCounters + `,"delete":` + noCounters + `}
			`},
		{"aggregated statistics", k.PutStats(&StatsWrite{
			GoneInodes: []meta.Inode{meta.MakeInode(2, 1)}, GonePools: []meta.PoolID{9},
			Pools: map[meta.PoolID]PoolStats{10: {PGRealSize: 2}, 2: {PGRealSize: 1}},
		}, 77), `
			if LEASE(mon/master) = 77
			then put stats = ` + noStats + `
			then del inode/stats/2/1
			then put pool/stats/2 = {"used_raw_tb":0,"total_raw_tb":0,"pg_real_size":1,"raw_to_usable":0,"space_efficiency":0}
			then put pool/stats/10 = {"used_raw_tb":0,"total_raw_tb":0,"pg_real_size":2,"raw_to_usable":0,"space_efficiency":0}
			then del pool/stats/9
			`},
	}
}

func stateTxns() []txnCase {
	k := NewKeys("/v")
	one, two := meta.PG{Pool: 1, Num: 1}, meta.PG{Pool: 1, Num: 2}
	state := func(s meta.PGState) PGState { return PGState{Primary: 5, State: s, Peers: []meta.OSDNum{3, 5}} }
	offline := PGState{State: meta.PGOffline}
	history := &PGHistory{OSDSets: [][]meta.OSDNum{{3, 5}}, AllPeers: []meta.OSDNum{3, 5}, Epoch: 6}
	return []txnCase{
		{"take a PG", k.ReportPGs([]PGReport{{PG: one, State: state(meta.PGStarting)}}, 99, 20), `
			if VERSION(pg/state/1/1) = 0
			then put pg/state/1/1 = {"peers":[3,5],"primary":5,"state":["starting"]} lease 99
			else get pg/state/1/1
			`},
		{"later states, one with history", k.ReportPGs([]PGReport{
			{PG: one, State: state(meta.PGActive | meta.PGLeftOnDead | meta.PGDegraded), Holder: HeldByMe, History: history},
			{PG: two, State: state(meta.PGPeering), Holder: HeldByMe},
		}, 99, 20), `
			if LEASE(pg/state/1/1) = 99
			if MOD(pg/history/1/1) < 21
			if LEASE(pg/state/1/2) = 99
			then put pg/state/1/1 = {"peers":[3,5],"primary":5,"state":["active","degraded","left_on_dead"]} lease 99
			then put pg/history/1/1 = {"all_peers":[3,5],"epoch":6,"osd_sets":[[3,5]]}
			then put pg/state/1/2 = {"peers":[3,5],"primary":5,"state":["peering"]} lease 99
			else get pg/state/1/1
			else get pg/state/1/2
			`},
		{"later state, no key known", k.ReportPGs([]PGReport{{PG: one, State: state(meta.PGActive)}}, 99, 20), `
			if VERSION(pg/state/1/1) = 0
			then put pg/state/1/1 = {"peers":[3,5],"primary":5,"state":["active"]} lease 99
			else get pg/state/1/1
			`},
		{"stop finished", k.ReportPGs([]PGReport{{PG: one, State: offline, Holder: HeldByMe}}, 99, 20), `
			if LEASE(pg/state/1/1) = 99
			then del pg/state/1/1
			else get pg/state/1/1
			`},
		{"offline, taken over by another", k.ReportPGs([]PGReport{{PG: one, State: offline, Holder: HeldByOther}}, 99, 20), `
			if MOD(pg/state/1/1) < 21
			else get pg/state/1/1
			`},
		{"offline, no key known", k.ReportPGs([]PGReport{{PG: one, State: offline}}, 99, 20), `
			if VERSION(pg/state/1/1) = 0
			else get pg/state/1/1
			`},
	}
}

func configTxns() []txnCase {
	k := NewKeys("/v")
	one, two := meta.PG{Pool: 1, Num: 1}, meta.PG{Pool: 1, Num: 2}
	history := &PGHistory{OSDSets: [][]meta.OSDNum{{3, 5}}, AllPeers: []meta.OSDNum{3, 5}, Epoch: 6}
	config := &PGConfig{Hash: "h"}
	config.SetPool(1, []PGTarget{{Num: 1, OSDSet: []meta.OSDNum{3, 0}, Primary: 3}})
	const value = `{"hash":"h","items":{"1":{"1":{"osd_set":["3",0],"primary":"3"}}}}`
	mustConfig := func(w PGConfigWrite) env.Txn {
		w.Config = config
		txn, err := k.PutPGConfig(&w, 77, 20)
		if err != nil {
			panic(err)
		}
		return txn
	}
	removed, err := k.RemoveOSDs([]meta.OSDNum{4}, config, 8, config, 0)
	if err != nil {
		panic(err)
	}
	return []txnCase{
		{"primaries", mustConfig(PGConfigWrite{}), `
			if LEASE(mon/master) = 77
			if MOD(pg/config) < 21
			then put pg/config = ` + value + "\n"},
		{"pause", mustConfig(PGConfigWrite{GuardOSDs: []meta.OSDNum{3, 12}, Legacy: true}), `
			if LEASE(mon/master) = 77
			if MOD(pg/config) < 21
			if MOD(osd/state/3) < 21
			if MOD(osd/state/12) < 21
			then put pg/config = ` + value + `
			then put config/pgs = ` + value + "\n"},
		{"distribution", mustConfig(PGConfigWrite{
			Histories: map[meta.PG]*PGHistory{two: nil, one: history, {Pool: 9, Num: 1}: history},
			PoolStats: map[meta.PoolID]PoolStats{1: {PGRealSize: 1}},
			Resized:   []meta.PoolID{1}, Deleted: []meta.PoolID{9},
		}), `
			if LEASE(mon/master) = 77
			if MOD(pg/config) < 21
			if MOD(pg/history/1/1) < 21
			if MOD(pg/history/1/2) < 21
			if MOD(pg/history/9/1) < 21
			then put pg/config = ` + value + `
			then put pg/history/1/1 = {"osd_sets":[["3","5"]],"all_peers":[3,5],"epoch":6}
			then del pg/history/1/2
			then put pool/stats/1 = {"used_raw_tb":0,"total_raw_tb":0,"pg_real_size":1,"raw_to_usable":0,"space_efficiency":0}
			then del pgstats/1/..pgstats/10
			then del pg/stats/1/..pg/stats/10
			then del pg/history/9/..pg/history/90
			then del pgstats/9/..pgstats/90
			then del pg/stats/9/..pg/stats/90
			then del pool/stats/9
			`},
		{"last clean", k.PutLastCleanPGs(config, 77), `
			if LEASE(mon/master) = 77
			then put history/last_clean_pgs = {"items":{"1":{"1":{"osd_set":["3",0],"primary":"3"}}}}
			`},
		{"remove osds", removed, `
			if MOD(pg/config) < 9
			if MOD(history/last_clean_pgs) < 1
			then del config/osd/4
			then del osd/stats/4
			then del osd/state/4
			then del osd/inodestats/4
			then del osd/space/4
			then put pg/config = ` + value + `
			then put history/last_clean_pgs = {"items":{"1":{"1":{"osd_set":["3",0],"primary":"3"}}}}
			`},
		{"history of a removed osd", k.PutPGHistory(one, history, 5), `
			if MOD(pg/history/1/1) < 6
			then put pg/history/1/1 = {"osd_sets":[["3","5"]],"all_peers":[3,5],"epoch":6}
			else get pg/history/1/1
			`},
	}
}

func seenInode(number uint64, name string, parent uint64, rev int64) *SeenInode {
	s := &SeenInode{InodeConfig{ID: meta.MakeInode(1, number), Name: name, Size: 4096}, rev}
	if parent != 0 {
		s.Parent = meta.MakeInode(1, parent)
	}
	return s
}

func deletedImage() *SeenInode {
	vm := seenInode(7, "vm", 6, 30)
	vm.Meta, vm.Deleted = []byte(`{"a":1}`), true
	return vm
}

func createTxns() []txnCase {
	k := NewKeys("/v")
	vm := deletedImage()
	return []txnCase{
		{"create image", k.CreateImage(&InodeConfig{ID: meta.MakeInode(1, 7), Name: "vm", Size: 4096, Parent: meta.MakeInode(2, 6)}, 5), `
			if VERSION(config/inode/1/7) = 0
			if VERSION(index/image/vm) = 0
			if MOD(index/maxid/1) = 5
			then put config/inode/1/7 = {"name":"vm","parent_id":6,"parent_pool":2,"size":4096}
			then put index/image/vm = {"id":7,"pool_id":1}
			then put index/maxid/1 = 7
			else get index/image/vm
			`},
		{"snapshot into another pool", k.Snapshot(vm, 31, "s", meta.MakeInode(2, 8), 0), `
			if VERSION(config/inode/2/8) = 0
			if VERSION(index/image/vm@s) = 0
			if MOD(index/maxid/2) = 0
			if MOD(config/inode/1/7) = 30
			if MOD(index/image/vm) = 31
			then put config/inode/2/8 = {"name":"vm","parent_id":7,"parent_pool":1,"size":4096}
			then put index/image/vm = {"id":8,"pool_id":2}
			then put index/maxid/2 = 8
			then put config/inode/1/7 = {"name":"vm@s","parent_id":6,"readonly":true,"size":4096}
			then put index/image/vm@s = {"id":7,"pool_id":1}
			else get index/image/vm@s
			`},
	}
}

func modifyTxns() []txnCase {
	k := NewKeys("/v")
	vm := deletedImage()
	bigger, renamed := vm.InodeConfig, vm.InodeConfig
	bigger.Size, renamed.Name = 8192, "new"
	return []txnCase{
		{"resize", k.ModifyImage(vm, &bigger), `
			if MOD(config/inode/1/7) < 31
			then put config/inode/1/7 = {"deleted":true,"meta":{"a":1},"name":"vm","parent_id":6,"size":8192}
			`},
		{"rename", k.ModifyImage(vm, &renamed), `
			if MOD(config/inode/1/7) < 31
			if MOD(index/image/vm) < 31
			if VERSION(index/image/new) = 0
			then put config/inode/1/7 = {"deleted":true,"meta":{"a":1},"name":"new","parent_id":6,"size":4096}
			then del index/image/vm
			then put index/image/new = {"id":7,"pool_id":1}
			`},
		{"change parent", k.ChangeParent(seenInode(7, "vm", 6, 30), meta.MakeInode(1, 2)), `
			if MOD(config/inode/1/7) < 31
			then put config/inode/1/7 = {"name":"vm","parent_id":2,"size":4096}
			`},
		{"remove parent", k.ChangeParent(seenInode(7, "vm", 6, 30), 0), `
			if MOD(config/inode/1/7) < 31
			then put config/inode/1/7 = {"name":"vm","size":4096}
			`},
		{"delete layer", k.DeleteLayer(vm), `
			if MOD(config/inode/1/7) < 31
			then del config/inode/1/7
			then del index/image/vm
			`},
		{"inverse merge", k.ReplaceParent(vm, seenInode(6, "vm@s", 5, 29), meta.MakeInode(1, 4), []SeenInode{*seenInode(9, "c", 7, 33)}), `
			if MOD(config/inode/1/7) < 31
			if MOD(config/inode/1/6) < 30
			if MOD(config/inode/1/9) < 34
			then del config/inode/1/7
			then del index/image/vm@s
			then put config/inode/1/6 = {"meta":{"a":1},"name":"vm","parent_id":4,"size":4096}
			then put index/image/vm = {"id":6,"pool_id":1}
			then put config/inode/1/9 = {"name":"c","parent_id":6,"size":4096}
			`},
	}
}

func TestPGConfigNeedsHash(t *testing.T) {
	k := NewKeys("")
	if _, err := k.PutPGConfig(&PGConfigWrite{Config: &PGConfig{}}, 1, 1); !errors.Is(err, ErrNoHash) {
		t.Errorf("%v", err)
	}
	if _, err := k.RemoveOSDs(nil, &PGConfig{}, 1, nil, 0); !errors.Is(err, ErrNoHash) {
		t.Errorf("%v", err)
	}
}

// TestLeaseGuardNeedsLease: with lease 0 the compare would hold for a missing
// key, that is without any master at all.
func TestLeaseGuardNeedsLease(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a guard by lease 0 was built")
		}
	}()
	NewKeys("").MasterGuard(0)
}
