// Package placement decides where data shall be: which OSDs can hold it, how
// they form a tree, and what the rules of a pool allow (spec monitor.md §3).
// The distribution of PGs over the tree is built on it.
//
// Guarantee: everything is a pure function of its arguments and depends on no
// order of maps; and the hash of the tree is byte for byte the one of the
// reference monitor, because each change of the hash makes it move data.
// Values may be shared by goroutines; nothing changes after it was made.
//
// # From etcd to PGs
//
//	osd/stats, osd/state, config/osd, config/node_placement, placement_levels
//	   |  Build: who is in, weights, parents
//	Inventory ---- Hash: compared with pg/config
//	   |  Tree: filters of a pool, hierarchy
//	Tree  +  Rules (RulesOf a pool)
//	   |  Fold: what the rules do not tell apart becomes one leaf
//	Tree of leaves ---- Candidates, Allows: what an optimiser chooses from
//	   |  Distribute: previous sets, as little movement as possible
//	sets of OSDs ---- StatsOf, Primaries
//
// # Reading order
//
// levels.go, inventory.go, tree.go, rules.go and dsl.go, candidates.go,
// fold.go; then json.go, ecma.go and hash.go for the hash. The distribution:
// distribute.go, layout.go (rules in numbers), shares.go and bands.go (how many
// replicas an OSD should have), grid.go (chains of replacements), stages.go,
// rebuild.go (whole sets), arrange.go and primary.go, poolstats.go.
package placement
