package metrics

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// sample is a line as Prometheus defines it.
var sample = regexp.MustCompile(`^([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} ([0-9.e+-]+)$`)

func text(t *testing.T, s *Snapshot) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func full(name string) *Snapshot {
	return &Snapshot{
		Stats:    schema.Stats{Ops: map[string]schema.Counters{name: {Count: 1}}},
		Images:   []Image{{Inode: meta.MakeInode(1, 2), Name: name}},
		OSDs:     []OSD{{Num: 1, Host: name, Stats: &schema.OSDStats{Ops: map[string]schema.Counters{name: {}}}}},
		Monitors: []Monitor{{ID: "1", Hostname: name, IP: name}},
		Pools:    []Pool{{Pool: &schema.Pool{ID: 1, Name: name, FailureDomain: name}, HasStats: true, Stats: schema.PoolStats{TotalRawTB: 1e-9}}},
	}
}

// wellFormed checks every line, and that each metric is announced once before
// its first sample.
func wellFormed(t *testing.T, out string) {
	t.Helper()
	announced, name := map[string]bool{}, ""
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		if help, ok := strings.CutPrefix(lines[i], "# HELP "); ok {
			name, _, _ = strings.Cut(help, " ")
			if announced[name] || i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "# TYPE "+name+" ") {
				t.Errorf("metric %s is announced twice or has no type", name)
			}
			announced[name] = true
			i++
			continue
		}
		if m := sample.FindStringSubmatch(lines[i]); m == nil || m[1] != name {
			t.Errorf("bad line after # HELP %s: %q", name, lines[i])
		}
	}
}

func TestFormat(t *testing.T) {
	wellFormed(t, text(t, &Snapshot{}))
	out := text(t, full("plain"))
	wellFormed(t, out)
	if n := strings.Count(out, "vitastor_pg_count{"); n != 17 {
		t.Errorf("%d PG states", n)
	}
	for _, line := range []string{
		`vitastor_stat_count{op="plain",op_type="op"} 1`,
		`vitastor_image_stat_usec{image_name="plain",inode_num="2",pool_id="1",op="delete"} 0`,
		`vitastor_pool_total_raw_tb{pool_id="1",pool_name="plain"} 1e-09`,
		`vitastor_osd_status{host="plain",osd_num="1"} 0`,
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func TestPoolStatus(t *testing.T) {
	s := full("p")
	p := &s.Pools[0]
	p.Pool.PGCount = 3
	for _, c := range []struct {
		states map[meta.PGState]int
		status string
	}{
		{nil, "0"},
		{map[meta.PGState]int{meta.PGActive: 2, meta.PGOffline: 1}, "0"},
		{map[meta.PGState]int{meta.PGActive: 2, meta.PGActive | meta.PGDegraded: 1}, "1"},
	} {
		p.States = c.states
		if out := text(t, s); !strings.Contains(out, `vitastor_pool_status{pool_id="1",pool_name="p"} `+c.status+"\n") {
			t.Errorf("%v: status is not %s", c.states, c.status)
		}
	}
}

// FuzzEscaping: no name can make a malformed line.
func FuzzEscaping(f *testing.F) {
	for _, s := range []string{"", `"`, `\`, "\n", `a"} 1`, "\\\n\"", "\xff\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) { wellFormed(t, text(t, full(name))) })
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestClientGone(t *testing.T) {
	if Write(broken{}, full("x")) == nil {
		t.Error("no error")
	}
}
