// Package peering decides about placement groups: when this OSD runs one, when
// it may serve clients, in which state every object is and what has to be
// repaired (spec osd.md §2, §3, §9-§11; the algorithm and why it is safe:
// docs/PEERING.md).
//
//	Machine   life-cycle of one PG: events in, actions out
//	Calc      listings of all peers in, Objects out
//	Objects   every object that is not clean; asked on each read and write
//
//	etcd, peers, timers --events--> Machine --actions--> lists, locks, reports
//	listings --> Calc --> Objects <-- Lookup, Mark, Forget -- reads and writes
//
// Guarantee: a PG is never active without its etcd key, nor while a set of OSDs
// that may have taken writes has too few members present, and its epoch is then
// above every version that exists, unless nothing at all is wrong with the PG.
//
// Concurrency: pure code without clock, I/O and randomness. All values belong
// to the loop of one OSD; nothing here may be used by two goroutines.
package peering
