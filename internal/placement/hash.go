package placement

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math"

	"vitastor/internal/schema"
)

// Hash is compared with the hash in pg/config: if it differs, PGs are placed
// anew (monitor.md 3.6). Compat: it must be the one of the reference monitor,
// otherwise every change of the master moves data.
func (v *Inventory) Hash(pools *schema.Object) (string, error) {
	data, err := v.HashInput(pools)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(data)
	return hex.EncodeToString(sum[:]), nil
}

// HashInput is the text that Hash is the SHA-1 of. pools is config/pools as
// stored, with invalid pools.
func (v *Inventory) HashInput(pools *schema.Object) ([]byte, error) {
	levels, err := parseJSON(v.levels.object.Encode())
	if err != nil {
		return nil, fmt.Errorf("placement_levels: %w", err)
	}
	tree, err := v.hashTree()
	if err != nil {
		return nil, err
	}
	poolsPart, err := hashPools(pools)
	if err != nil {
		return nil, err
	}
	var all object
	all.set("levels", levels)
	all.set("osd_tree", tree)
	all.set("pools", poolsPart)
	return appendJSON(nil, all), nil
}

// hashTree has all OSDs that are in and all nodes, also those without OSDs.
func (v *Inventory) hashTree() (object, error) {
	tree := object{}
	for _, it := range v.order {
		var o object
		o.set("id", textFrom(it.id))
		o.set("level", textFrom(it.level))
		if it.raw != nil {
			parent, err := parseJSON(it.raw)
			if err != nil {
				return nil, fmt.Errorf("parent of %s: %w", it.id, err)
			}
			o.set("parent", parent)
		}
		if it.osd == nil {
			o.set("children", []any{})
		} else {
			o.set("size", it.osd.weight)
			if it.osd.tags != nil {
				o.set("tags", hashTags(it.osd.tags))
			}
		}
		tree.set(it.id, o)
	}
	return tree, nil
}

func hashTags(tags []string) object {
	o := object{}
	for _, tag := range tags {
		o.set(tag, true)
	}
	return o
}

// hashPools converts the numbers that the monitor converts before it computes
// the hash; all other fields are taken as they are stored.
func hashPools(pools *schema.Object) (object, error) {
	parsed, err := parseJSON(pools.Encode())
	if err != nil {
		return nil, fmt.Errorf("config/pools: %w", err)
	}
	all := parsed.(object)
	for i := range all {
		if pool, ok := all[i].value.(object); ok {
			all[i].value = hashPool(pool)
		}
	}
	return all, nil
}

func hashPool(pool object) object {
	for _, name := range []string{"pg_size", "pg_minsize", "pg_count"} {
		pool.set(name, floor(pool, name))
	}
	// 0 and what is no number count as absent here.
	if parity := floor(pool, "parity_chunks"); truthy(parity) {
		pool.set("parity_chunks", parity)
	} else {
		pool.remove("parity_chunks")
	}
	combinations := floor(pool, "max_osd_combinations")
	if !truthy(combinations) {
		combinations = schema.DefaultMaxOSDCombinations
	}
	pool.set("max_osd_combinations", combinations)
	return pool
}

// floor is Math.floor of a field; NaN (which is null in JSON) if it is absent.
func floor(pool object, name string) float64 {
	v, given := pool.get(name)
	if !given {
		return math.NaN()
	}
	return math.Floor(number(v))
}
