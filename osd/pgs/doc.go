// Package pgs runs the placement groups of an OSD: a peering.Machine for each
// PG that this OSD is, or is to be, the primary of, and everything that these
// machines ask for (spec osd.md §10, §11, §14, §16; docs/PEERING.md).
//
//	clusterview ──▶ Inputs, keys of OSDs ─┐
//	messenger ────▶ Connected, Disconnected ─▶ Machine per PG ─▶ actions:
//	                                             report ─▶ one guarded transaction for all PGs
//	 reports.go, lists.go, locks.go, flush.go ◀─ lists, locks, flush batches ─▶ peers and own store
//	 osd/primary, osd/heal ◀──────────────────── Activate, Stop, Reset, Recover, PlanScrub
//
// Guarantee: the operations of a PG run only between Activate and Stop of its
// Machine; every request of a Machine is answered exactly once; what Peers tells
// a Machine is never older than the event it is given. A pool's objects are
// sorted into PGs again only while no PG of the pool runs here.
//
// What does not fit (pools with other block sizes, impossible sets of OSDs,
// histories that cannot be read) keeps a PG from being taken, and is said once.
//
// Concurrency: everything runs on the loop of the env.Env given to New. Lists
// and calculations of all PGs share the loop in slices of less than a millisecond
// (a sort of 16384 items takes two).
package pgs
