package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/internal/sim"
	"vitastor/osd/config"
	"vitastor/osd/store/layout"
)

// cluster is some OSDs in a simulated world; etcd is written by the test.
type cluster struct {
	t    *testing.T
	w    *sim.World
	kv   *sim.KV
	keys schema.Keys
	osds []*member
	log  bytes.Buffer
}

// member is one node, and the OSD of its present process.
type member struct {
	c     *cluster
	num   int
	node  *sim.Node
	args  string // further options
	osd   *OSD
	ended bool
	code  int
	err   error
	level slog.Level
}

const (
	mib       = 1 << 20
	diskBytes = 64 * mib
)

func superblock(num int) layout.Options {
	text := fmt.Sprintf(`{"osd_num":%d,"data_device":"disk","meta_device":"","journal_device":"","journal_offset":4096,"meta_offset":1052672,
		"data_offset":8388608,"block_size":131072,"bitmap_granularity":4096,"meta_block_size":4096,"data_csum_type":"crc32c","csum_block_size":4096,
		"disable_data_fsync":true,"disable_meta_fsync":true,"disable_journal_fsync":true,"immediate_commit":"all","skip_cache_check":true,
		"journal_no_same_sector_overwrites":true,"meta_format":3}`, num)
	o, err := layout.ParseOptions([]byte(text))
	if err != nil {
		panic(err)
	}
	return o
}

// diskImage is a disk as vitastor-disk leaves it.
func diskImage(t *testing.T, num int) *sim.Image {
	b, err := layout.EncodeSuperblock(superblock(num))
	if err != nil {
		t.Fatal(err)
	}
	return sim.NewImageFrom(b, diskBytes)
}

func newCluster(t *testing.T, n int) *cluster { return newClusterOf(t, n, sim.Options{}) }

func newClusterOf(t *testing.T, n int, o sim.Options) *cluster {
	c := &cluster{t: t, keys: schema.NewKeys("")}
	o.Log = &c.log
	if os.Getenv("SIM_LOG") != "" {
		o.Log = os.Stderr
	}
	c.w = sim.NewWorld(1, o)
	c.kv = c.w.NewKV()
	for i := range n {
		c.addOSD(i+1, diskImage(t, i+1))
	}
	t.Cleanup(func() {
		for _, m := range c.osds {
			m.kill()
		}
	})
	return c
}

// addOSD adds a node without starting its OSD.
func (c *cluster) addOSD(num int, image *sim.Image) *member {
	m := &member{c: c, num: num, node: c.w.NewNode(fmt.Sprintf("osd%d", len(c.osds)+1))}
	m.node.AddDisk("disk", sim.DiskConfig{Image: image})
	c.osds = append(c.osds, m)
	return m
}

func (m *member) start() {
	m.ended, m.code, m.err = false, 0, nil
	m.node.Do(func(e *env.Env) {
		tool := option.Tool{Name: "vitastor-osd", Component: option.OSD}
		cmd, err := tool.Parse(strings.Fields("--etcd_address e:2379 --data_device disk " + m.args))
		if err != nil {
			m.c.t.Fatal(err)
		}
		m.osd = Start(e, Options{CommandLine: cmd.Options, Facts: option.Facts{Hostname: m.node.Name()},
			Interfaces:  []config.Interface{{Addr: m.node.Addr()}},
			SetLogLevel: func(l slog.Level) { m.level = l },
			Exit: func(code int, err error) {
				m.ended, m.code, m.err = true, code, err
				m.c.w.After(0, m.kill) // the process ends
			}})
	})
}

// kill is kill -9.
func (m *member) kill() {
	m.node.Crash()
	if m.osd != nil {
		m.osd.Free()
		m.osd = nil
	}
}

func (m *member) restart() {
	m.kill()
	m.node.Restart()
	m.start()
}

func (c *cluster) startAll() {
	for _, m := range c.osds {
		m.start()
	}
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	if _, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVPut, Key: key, Value: []byte(value)}}}); err != nil {
		c.t.Fatal(err)
	}
}

// get is the value of a key, nil if it does not exist.
func (c *cluster) get(key string) []byte {
	r, err := c.kv.Apply(&env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: key}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(r.Responses[0].KVs) == 0 {
		return nil
	}
	return r.Responses[0].KVs[0].Value
}

// pool makes pool 1 with some PGs on all OSDs, whose primaries are chosen in
// turns among the given OSDs.
func (c *cluster) pool(params string, pgs int, set []int, primaries ...int) {
	c.put(c.keys.Pools(), fmt.Sprintf(`{"1":{"name":"test",%s,"pg_count":%d,"failure_domain":"osd"}}`, params, pgs))
	items := map[string]any{}
	for i := range pgs {
		osds := []any{}
		for _, n := range set {
			osds = append(osds, fmt.Sprint(n))
		}
		items[fmt.Sprint(i+1)] = map[string]any{"osd_set": osds, "primary": fmt.Sprint(primaries[i%len(primaries)])}
	}
	text, _ := json.Marshal(map[string]any{"items": map[string]any{"1": items}})
	c.put(c.keys.PGConfig(), string(text))
}

const replicated3 = `"scheme":"replicated","pg_size":3,"pg_minsize":2`

// states are the announced states of the PGs of pool 1.
func (c *cluster) states(pgs int) (list []meta.PGState) {
	for i := range pgs {
		key := c.keys.PGState(meta.PG{Pool: 1, Num: meta.PGNum(i + 1)})
		s, _ := schema.DecodePGState(key, c.get(key))
		if s.State == 0 {
			s.State = meta.PGOffline
		}
		list = append(list, s.State)
	}
	return list
}

func (c *cluster) all(pgs int, want meta.PGState) func() bool {
	return func() bool {
		return !slices.ContainsFunc(c.states(pgs), func(s meta.PGState) bool { return s != want })
	}
}

func (c *cluster) wait(what string, cond func() bool, limit time.Duration) time.Duration {
	c.t.Helper()
	began := c.w.Now()
	for c.w.Now()-began < limit {
		if cond() {
			return c.w.Now() - began
		}
		c.w.RunFor(10 * time.Millisecond)
	}
	for _, m := range c.osds {
		if m.osd != nil {
			c.t.Log(m.osd.Status())
		}
	}
	c.t.Fatalf("%s: not after %v\n%s", what, limit, c.tail())
	return 0
}

// tail is the end of the log.
func (c *cluster) tail() string {
	lines := strings.Split(c.log.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

func (c *cluster) logged(text string) bool { return strings.Contains(c.log.String(), text) }
