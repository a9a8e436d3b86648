// Package figures measures how good distributions of PGs are: on made-up
// clusters it takes the steps of an administrator's life and counts what each
// of them moves, beside the least that could be moved (spec monitor.md §8).
//
// Guarantee: the same numbers at every run, except for CPU times. Nothing that
// ships imports it. Not safe for concurrent use.
package figures

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// Cluster is a set of hosts with OSDs.
type Cluster struct {
	OSDs  []placement.OSD
	Nodes []schema.PlacedNode
	next  meta.OSDNum
}

// AddHost adds OSDs of a size.
func (c *Cluster) AddHost(name string, osds int, sizeTB float64) {
	for range osds {
		c.next++
		c.OSDs = append(c.OSDs, placement.OSD{
			Num:      c.next,
			Stats:    &schema.OSDStats{SizeBytes: uint64(sizeTB * (1 << 40)), Host: name, TimeMillis: 1},
			Config:   schema.OSDConfig{Reweight: 1},
			HasState: true,
		})
	}
}

// PutHost puts a host into a rack.
func (c *Cluster) PutHost(name, rack string) {
	c.Nodes = append(c.Nodes, schema.PlacedNode{Name: rack, Level: "rack"},
		schema.PlacedNode{Name: name, Level: "host", Parent: rack})
}

// RemoveHost removes all OSDs of a host.
func (c *Cluster) RemoveHost(name string) {
	c.OSDs = slices.DeleteFunc(c.OSDs, func(o placement.OSD) bool { return o.Stats.Host == name })
}

// Reweight sets the weight factor of one OSD; 0 takes it out.
func (c *Cluster) Reweight(num meta.OSDNum, factor float64) {
	for i := range c.OSDs {
		if c.OSDs[i].Num == num {
			c.OSDs[i].Config.Reweight = factor
		}
	}
}

// Tree is what a pool may use.
func (c *Cluster) Tree(pool *schema.Pool) *placement.Tree {
	return c.Inventory().Tree(pool)
}

// Inventory is the cluster with the levels rack, host and osd.
func (c *Cluster) Inventory() *placement.Inventory {
	var levels schema.Object
	levels.SetUint("rack", 90)
	return placement.Build(&placement.Input{
		Levels: placement.NewLevels(&levels), OSDs: slices.Clone(c.OSDs), Nodes: c.Nodes, NowMillis: 1})
}

// Move is what one step did. Shares of all replicas, where not said otherwise.
type Move struct {
	Step  string
	Moved float64
	// Bound: replicas that must enter OSDs that are below their ideal share.
	Bound float64
	// Least and Most are the extreme ratios of an OSD's replicas to its share.
	Least, Most float64
	Efficiency  float64 // of space, see placement.StatsOf
	CPU         time.Duration
	Work        int // units of Distribution.Step
}

// Runner keeps a pool on a cluster.
type Runner struct {
	Cluster *Cluster
	Pool    *schema.Pool
	Sets    [][]meta.OSDNum
	Moves   []Move
}

// Step distributes the pool anew and notes what happened.
func (r *Runner) Step(name string) (*Move, error) {
	tree := r.Cluster.Tree(r.Pool)
	began := time.Now()
	d, err := placement.Distribute(tree, r.Pool, r.Sets)
	if err != nil {
		return nil, err
	}
	for !d.Step(1 << 20) {
	}
	m := Move{Step: name, CPU: time.Since(began), Work: d.Work()}
	sets := d.Sets()
	kept := r.compare(tree, sets, &m)
	m.ratios(tree, d, sets, kept)
	stats := placement.StatsOf(tree, r.Pool, sets, 0)
	m.Efficiency = stats.SpaceEfficiency
	r.Sets = sets
	r.Moves = append(r.Moves, m)
	return &r.Moves[len(r.Moves)-1], nil
}

// compare counts moved replicas, and what each OSD keeps at most.
func (r *Runner) compare(tree *placement.Tree, sets [][]meta.OSDNum, m *Move) (kept map[meta.OSDNum]int) {
	in := map[meta.OSDNum]bool{}
	for _, n := range tree.Leaves() {
		in[n.OSD] = true
	}
	kept = map[meta.OSDNum]int{}
	total, moved := 0, 0
	for p, set := range sets {
		var old []meta.OSDNum
		if len(r.Sets) > 0 {
			old = r.Sets[p%len(r.Sets)]
		}
		for _, o := range old {
			if in[o] {
				kept[o]++
			}
		}
		for i, o := range set {
			total++
			if o == 0 {
				continue
			}
			same := slices.Contains(old, o)
			if r.Pool.Scheme != meta.Replicated {
				same = i < len(old) && old[i] == o
			}
			if !same {
				moved++
			}
		}
	}
	m.Moved = float64(moved) / float64(max(total, 1))
	return kept
}

func (m *Move) ratios(tree *placement.Tree, d *placement.Distribution, sets [][]meta.OSDNum, kept map[meta.OSDNum]int) {
	count := map[meta.OSDNum]int{}
	total := 0
	for _, set := range sets {
		total += len(set)
		for _, o := range set {
			if o != 0 {
				count[o]++
			}
		}
	}
	m.Least, m.Most = math.Inf(1), 0
	bound := 0.0
	for _, n := range tree.Leaves() {
		share := d.Share(n.OSD)
		if share == 0 {
			continue
		}
		ratio := float64(count[n.OSD]) / share
		m.Least, m.Most = min(m.Least, ratio), max(m.Most, ratio)
		bound += max(0, share-float64(kept[n.OSD]))
	}
	m.Bound = bound / float64(max(total, 1))
}

// Case is one row of the table.
type Case struct {
	Name           string
	Hosts, PerHost int
	FailureDomain  string
	Mixed          bool // sizes of hosts are 8, 16 and 4 TB in turn, otherwise 8
	EC             bool // 4+2 instead of 3 replicas
	PGs            uint32
	RefEfficiency  float64   // the reference's initial efficiency, percent
	RefMoved       []float64 // and what its steps moved, percent; NaN = not known
	// Racks, if not 0, are put above the hosts, and Levels is the level_placement
	// of the racks.
	Racks  int
	Levels string
}

// Names of steps with promises of their own.
const (
	Initial = "initial"
	Again   = "again"
	Doubled = "PGs x2"
	Halved  = "PGs /2"
)

// Steps are the columns of the table after the first one.
var Steps = []string{Again, "rm OSD", "OSD back", "rm host", "add host", "reweight", Doubled, Halved}

var unknown = math.NaN()

// Cases are the rows of monitor.md §8.
var Cases = []Case{
	{"10/host/uniform/rep3", 5, 2, "host", false, false, 256, 99.74, []float64{0, 20.3, 17.4, 23.6, 30.7, 0.3, 33.1}, 0, ""},
	{"10/host/mixed/rep3", 5, 2, "host", true, false, 256, 98.46, []float64{0.1, 14.4, 12.6, 36.5, 36.3, 0.4, 31.3}, 0, ""},
	{"100/host/uniform/rep3", 10, 10, "host", false, false, 2048, 99.10, []float64{0, 1.9, 1.9, 16.4, 18.8, 2.3, 48.8}, 0, ""},
	{"100/host/mixed/rep3", 10, 10, "host", true, false, 2048, 98.94, []float64{0, 2.6, 2.5, 38.8, 19.2, 1.5, 48.0}, 0, ""},
	{"300/host/uniform/rep3", 30, 10, "host", false, false, 4096, 97.52, []float64{0.1, 2.1, 2.1, 18.4, 8.2, 1.8, 49.8}, 0, ""},
	{"300/host/mixed/rep3", 30, 10, "host", true, false, 4096, 97.52, []float64{0.1, 0.8, 0.8, 17.4, 6.8, 0.6, 49.9}, 0, ""},
	{"1000/host/uniform/rep3", 50, 20, "host", false, false, 8192, 98.30, []float64{0, 2.2, 2.2, 13.2, 4.9, 0.5, 50.4}, 0, ""},
	{"1000/host/mixed/rep3", 50, 20, "host", true, false, 8192, 94.67, []float64{0, 0.7, 1.4, 12.1, 4.2, 0.3, 50.1}, 0, ""},
	{"10/host/uniform/ec", 5, 2, "host", false, true, 128, 100, []float64{33.9, 8.3, 8.3, 25.5, 16.7, 0, 16.5}, 0, ""},
	{"100/host/uniform/ec", 10, 10, "host", false, true, 1024, 99.10, []float64{0.1, 6.5, 5.1, 57.8, 2.1, 5.6, 50.7}, 0, ""},
	{"300/host/uniform/ec", 30, 10, "host", false, true, 2048, 97.52, []float64{0.1, 5.6, 4.7, 40.6, 11.9, 13.5, 49.1}, 0, ""},
	{"1000/host/uniform/ec", 50, 20, "host", false, true, 4096, 98.30, []float64{0.1, 2.6, 2.2, 17.3, 1.3, 2.1, 49.7}, 0, ""},
	{"10/osd/uniform/rep3", 5, 2, "osd", false, false, 256, 99.74, []float64{0.3, 26.0, 0.4, 28.0, 23.8, 0.1, 32.0}, 0, ""},
	{"100/osd/uniform/rep3", 10, 10, "osd", false, false, 2048, 99.10, []float64{0.1, 10.0, 2.6, 27.5, 19.1, 5.6, 48.7}, 0, ""},
	{"100/osd/mixed/rep3", 10, 10, "osd", true, false, 2048, 97.14, []float64{0.1, 6.3, 2.7, 33.7, 15.7, 2.1, 48.8}, 0, ""},
	{"300/osd/uniform/rep3", 30, 10, "osd", false, false, 4096, 97.52, []float64{0.6, 4.2, 4.5, 15.6, 11.8, 2.9, 49.4}, 0, ""},
	{"1000/osd/uniform/rep3", 50, 20, "osd", false, false, 8192, 94.52, []float64{0.8, 2.6, 1.2, 14.0, unknown, unknown, unknown}, 0, ""},
	{"200/112233/uniform/ec", 20, 10, "host", false, true, 1024, 0, nil, 5, "112233"},
	{"1000/112233/mixed/ec", 50, 20, "host", true, true, 2048, 0, nil, 10, "112233"},
	{"1000/112233/osd/ec", 50, 20, "osd", false, true, 2048, 0, nil, 5, "112233"},
}

// Judge compares a step with what is promised.
func (c *Case) Judge(m *Move) error {
	factor := 1.3
	if c.EC {
		factor = 1.5
	}
	switch {
	case m.Least < 0.9:
		return fmt.Errorf("an OSD has %.2f of its share", m.Least)
	case m.Step == Initial && m.Efficiency*100 < c.RefEfficiency-0.005:
		return fmt.Errorf("efficiency is %.2f %%, not %.2f", m.Efficiency*100, c.RefEfficiency)
	case m.Step == Again && m.Moved > 0:
		return fmt.Errorf("%.3f %% are moved without a reason", m.Moved*100)
	case (m.Step == Doubled || m.Step == Halved) && m.Moved > 0.01:
		return fmt.Errorf("%.2f %% are moved", m.Moved*100)
	case m.Moved > factor*m.Bound+1e-9:
		return fmt.Errorf("%.2f %% are moved, %.2f times the bound", m.Moved*100, m.Moved/m.Bound)
	}
	return nil
}

// Run takes all steps; the first Move is the initial distribution.
func (c *Case) Run() (*Runner, error) {
	sizes := []float64{8, 8, 8}
	if c.Mixed {
		sizes = []float64{8, 16, 4}
	}
	r := &Runner{Cluster: &Cluster{}, Pool: c.pool()}
	for h := range c.Hosts {
		host := fmt.Sprintf("h%02d", h+1)
		r.Cluster.AddHost(host, c.PerHost, sizes[h%3])
		if c.Racks > 0 {
			r.Cluster.PutHost(host, fmt.Sprintf("r%02d", h%c.Racks+1))
		}
	}
	steps := []func(){
		func() {}, func() {},
		func() { r.Cluster.Reweight(1, 0) },
		func() { r.Cluster.Reweight(1, 1) },
		func() { r.Cluster.RemoveHost("h02") },
		func() {
			r.Cluster.AddHost("new", c.PerHost, 8)
			if c.Racks > 0 {
				r.Cluster.PutHost("new", "r03")
			}
		},
		func() { r.Cluster.Reweight(2, 0.5) },
		func() { r.Pool.PGCount *= 2 },
		func() { r.Pool.PGCount /= 2 },
	}
	for i, change := range steps {
		change()
		name := Initial
		if i > 0 {
			name = Steps[i-1]
		}
		if _, err := r.Step(name); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.Name, name, err)
		}
	}
	return r, nil
}

func (c *Case) pool() *schema.Pool {
	p := &schema.Pool{ID: 1, Name: "test", Scheme: meta.Replicated, PGSize: 3, PGMinSize: 2, PGCount: c.PGs,
		FailureDomain: c.FailureDomain, BlockBytes: schema.DefaultBlockBytes, GranularityBytes: schema.DefaultGranularityBytes, Commit: meta.CommitAll}
	if c.EC {
		p.Scheme, p.PGSize, p.PGMinSize, p.ParityChunks = meta.EC, 6, 5, 2
	}
	if c.Levels != "" {
		p.LevelPlacement = []schema.LevelSequence{{Level: "rack", Items: strings.Split(c.Levels, "")}}
	}
	return p
}
