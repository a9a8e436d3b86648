// Package metrics writes the state of a cluster in the text format of Prometheus
// (spec monitor.md §10).
//
// A Snapshot is plain data: the monitor's loop makes it (statsum.Sums.Snapshot),
// any goroutine writes it.
//
// Guarantee: names, labels and values are those of the reference's table, so
// that its dashboards work; every metric has a correct HELP and TYPE line (two
// of the reference's are wrong); the order is fixed, the same snapshot gives the
// same bytes; no label value can break out of its quotes.
//
// Concurrency: a Snapshot is not changed after it was made; Write may run
// anywhere.
package metrics

import (
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// ContentType is that of what Write writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Snapshot is all that the metrics are made of. Lists are in the order of
// output.
type Snapshot struct {
	Stats    schema.Stats
	Images   []Image // by inode
	OSDs     []OSD   // by number
	Monitors []Monitor
	Pools    []Pool // by id
}

// Image is one inode of inode/stats.
type Image struct {
	Inode meta.Inode
	Name  string // "" = there is no image, only data
	Stats schema.InodeStats
}

// OSD is one OSD of osd/stats.
type OSD struct {
	Num   meta.OSDNum
	Host  string
	Up    bool
	Stats *schema.OSDStats // not nil
}

// Monitor is one mon/member.
type Monitor struct {
	ID       string // lease id, decimal
	Hostname string
	IP       string // the first one, "" = none
	Master   bool
}

// Pool is one valid pool with its PGs.
type Pool struct {
	Pool     *schema.Pool
	Stats    schema.PoolStats
	HasStats bool
	// States counts PGs by state, offline ones included.
	States map[meta.PGState]int
}
