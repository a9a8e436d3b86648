// Package statsum adds up what OSDs report — osd/stats, osd/space,
// osd/inodestats, pgstats, pg/state — into the statistics that the master
// monitor publishes: stats, inode/stats, pool/stats (spec monitor.md §7,
// etcd.md 2.11), and into a snapshot for metrics.
//
//	every change in etcd --> Apply --> sums --> Txn: guarded write of what differs
//	                                        --> Snapshot: for mon/metrics
//	                                        --> Backfillfull: for pg/config
//
// Use: the master calls New after its election, Apply for every key of the load
// and every later event (unknown and unneeded keys are ignored), and when Dirty,
// at most once per mon_stats_timeout, Txn. A transaction that is refused or lost
// needs nothing: the differences are still there and come again with the next
// one. After the loss of mastership the Sums are thrown away; as nothing about
// rates is stored, they start at 0 until each OSD has reported twice.
//
// Guarantee: after the events of a successful Txn have been applied and nothing
// else happened, Dirty is false and the published values are exactly the sums
// over the reports, whatever order or repetition the reports came in. Nothing is
// ever written without the guard of the master's lease, and a pool/stats that
// somebody has written since is never overwritten. (The reference guards
// neither, and rewrites all keys every time.)
//
// Concurrency: none; everything on the monitor's loop. Work per call is
// proportional to what has changed, not to the size of the cluster, except one
// pass over the OSDs in Txn.
package statsum
