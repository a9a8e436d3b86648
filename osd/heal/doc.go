// Package heal is the background work of a primary: it restores degraded objects,
// moves misplaced ones (spec osd.md §12) and compares the copies of all objects
// from time to time (scrub, osd.md §13).
//
//	Queue    which object to restore next                            pure
//	load     whether clients are busy, so how much to do at a time   pure
//	replicas, stripes
//	         which chunks of an object agree with each other         pure
//	verdict  what the locations of an object are after that          pure
//	Healer   does it: recoveries by osd/primary, reads of chunks, SCRUB requests
//
// Recovery of an object is a write of length zero by osd/primary, which also
// deletes copies that are not needed any more. Scrub only reads and marks: what
// it finds corrupted is degraded then, and recovery restores it. What it cannot
// decide is marked inconsistent and waits for an administrator: `vitastor-cli
// fix` asks for such objects (DESCRIBE), deletes the bad chunk on its OSD
// (SEC_DELETE that ignores PG locks) and wants the object compared again (SCRUB).
//
// # How much at a time
//
// recovery_queue_depth (1 by default) objects at a time do not make use of a
// disk: each is a read, a transfer and a write, one after the other. So that
// number is a lower limit. While clients leave the disk of this OSD alone (they
// use less than 1 % of the time), 16 objects are in work, and up to 128 or 16 MiB
// as long as each takes less than 50 ms; when they come back, the depth returns
// to the configured one within 100 ms, and stays there until they have been quiet
// for a second. Disks of other OSDs are
// protected by themselves: each secondary delays the subops of recovery to
// the share that its own clients leave (osd/secondary), however many there are.
//
// Scrub goes on while nothing is being recovered by this OSD, one PG after
// another, scrub_queue_depth objects at a time. It keeps its place when the PG is
// peered again.
//
// Guarantee: every object of an active PG that can be restored or moved is tried
// again and again until it is clean, degraded ones first; an object that
// fails does not stop others, and is not tried more often than every 2 seconds.
// A scrub never changes data, and never calls a chunk bad unless other chunks
// prove it or its own OSD says so.
//
// Concurrency: everything belongs to the loop of one OSD.
package heal
