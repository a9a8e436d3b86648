// Package recheck keeps pg/config right while this monitor is the master: where
// each PG shall be, and who is its primary (spec monitor.md §2, §5, §6).
//
// Guarantee: an OSD whose osd/state vanishes loses its PGs at once, whatever else
// goes on; nothing is written that was decided from a value that cannot be read,
// and such a value is never overwritten; a pool is placed anew only when
// something changed that its distribution depends on.
//
// Concurrency: everything runs on the loop of its Env. Long computations are
// done in steps of about a millisecond, so that events are not kept waiting.
//
//	batch of changes --> State --+-- osd/state came or went: primaries at once
//	                             |-- the rest, after mon_change_timeout: assess
//	                             |     hash and fingerprints -> what to place
//	                             |     distribute, pool by pool, in steps
//	                             |     pggen.Apply: pause, wait, write
//	                             `-- pg/state: last_clean_pgs
//
// One write of pg/config is in flight at a time, and the next one waits until the
// watch has shown it.
//
// # Reading order
//
// state.go and read.go (what etcd says), assess.go (what has to be done; pure),
// recheck.go (when), write.go (transactions), clean.go.
package recheck
