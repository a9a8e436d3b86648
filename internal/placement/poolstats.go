package placement

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// StatsOf computes pool/stats of a distribution (monitor.md 4.4). usedRawTB is
// carried over. Other than the reference's, the raw space that is needed for a
// byte is right for xor pools without parity_chunks, too.
func StatsOf(tree *Tree, pool *schema.Pool, sets [][]meta.OSDNum, usedRawTB float64) schema.PoolStats {
	count := map[meta.OSDNum]int{}
	widest, narrowest := 0, 0
	for _, set := range sets {
		width := 0
		for _, o := range set {
			if o != 0 {
				count[o]++
				width++
			}
		}
		widest = max(widest, width)
		if width > 0 && (narrowest == 0 || width < narrowest) {
			narrowest = width
		}
	}
	s := schema.PoolStats{UsedRawTB: usedRawTB, PGRealSize: float64(min(narrowest, pool.PGSize))}
	s.RawToUsable = s.PGRealSize / float64(pool.DataChunks())
	space, total, found := 0.0, 0.0, false
	for _, n := range tree.Leaves() {
		total += n.WeightTB
		if c := count[n.OSD]; c > 0 {
			if room := n.WeightTB * float64(len(sets)) / float64(c); !found || room < space {
				space, found = room, true
			}
		}
	}
	s.TotalRawTB = float64(widest) * space
	if total > 0 {
		s.SpaceEfficiency = s.TotalRawTB / total
	}
	return s
}

// Fingerprint is over all that the distribution of a pool depends on, except the
// previous one. As long as it is the same, the PGs of the pool stay where they
// are, whatever else changes Inventory.Hash: other pools, OSDs that this pool does not
// use, names, tags.
func Fingerprint(tree *Tree, pool *schema.Pool) (string, error) {
	rules, err := RulesOf(pool)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d %d %d\n%s\n", pool.Scheme, pool.PGSize, pool.DataChunks(), pool.PGCount, rules)
	l := newLayout(tree, rules)
	for o, num := range l.osds {
		fmt.Fprintf(h, "%d %g", num, l.weight[o])
		for _, of := range l.node {
			if of != nil {
				fmt.Fprintf(h, " %d", of[o])
			}
		}
		for i := range l.alone {
			fmt.Fprintf(h, " %t %d", l.alone[i][o], l.dislike[i][o])
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// OSDSpace is what an OSD reports.
type OSDSpace struct {
	Num        meta.OSDNum
	SizeBytes  uint64
	BlockBytes uint32
}

// Backfillfull lists the pools, ascending, whose recovery must wait, because
// some OSD would have more objects than it has room for when everything is
// where it shall be (monitor.md 7.5). ratio is osd_backfillfull_ratio.
func Backfillfull(osds []OSDSpace, config *schema.PGConfig, stats func(meta.PG) (objects uint64), ratio float64) []meta.PoolID {
	future := map[meta.OSDNum]uint64{}
	pools := map[meta.OSDNum][]meta.PoolID{}
	for i := range config.Pools {
		pool := &config.Pools[i]
		for _, t := range pool.PGs {
			objects := stats(meta.PG{Pool: pool.Pool, Num: t.Num})
			for _, o := range t.OSDSet {
				if o == 0 {
					continue
				}
				future[o] += objects
				if list := pools[o]; len(list) == 0 || list[len(list)-1] != pool.Pool {
					pools[o] = append(list, pool.Pool)
				}
			}
		}
	}
	var full []meta.PoolID
	for _, o := range osds {
		if o.BlockBytes == 0 {
			continue // it reports no layout, so nothing is known
		}
		capacity := float64(o.SizeBytes/uint64(o.BlockBytes)) * ratio
		if float64(future[o.Num]) > capacity {
			full = append(full, pools[o.Num]...)
		}
	}
	slices.Sort(full)
	return slices.Compact(full)
}
