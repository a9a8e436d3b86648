// Package primary executes the operations of clients on the placement groups
// that this OSD is primary of: READ, WRITE, DELETE, SYNC, and the recovery of
// objects. Spec: osd.md §2-§9, wire.md §6, §10.
//
//	msgr.Request ──Serve──▶ checks ─▶ PG ─▶ queue of the object ─▶ op
//	Recover, Hold ─────────────────────────▶ queue of the object ─▶ op
//
//	op: plan ─▶ read subops ─▶ version, epoch ─▶ write subops ─▶ commit ─▶ reply
//	             │  ▲                              │  ▲           │
//	             ▼  │                              ▼  │           ▼
//	     messenger (other OSDs, first) and osd/secondary (this OSD)
//
// An op is a state machine (op.go) that goes through the files like this:
//
//	serve.go    form, lease, PG: what may begin at all
//	queue.go    writes to one object happen one after another
//	read.go     where to read from, one or several chunks
//	found.go    what was read: damage, versions that differ, missing chunks
//	write.go    the way of a write: plan, version, epoch, sending, results
//	rmw.go      EC: merging the request with what was read, parity
//	commit.go   the second phase of EC writes, roll-back, extra copies
//	delete.go   deletes
//	sync.go     lazy commit modes: what is not durable yet, SYNC, autosync
//	subops.go   one request to one OSD and what its result means
//	pg.go       begin and end of a PG, waiting for epochs and flushes
//	memory.go   buffers for parity and for what is read to be merged
//	background.go  recovery, and the exclusive use of an object
//
// Built on these: chained reads (chain.go, layers.go), reads from our copy of
// other primaries' PGs (local.go), DESCRIBE (describe.go), listings (list.go).
//
// Guarantees:
//
//   - A client is told of success only when every OSD of the PG's current set
//     has executed the write (and, if nothing is lazy, has made it durable).
//   - Writes and deletes of one object are executed in the order of arrival. A
//     read returns a version that was complete before it was answered.
//   - What is in flight is counted for its PG until the last answer has come,
//     also when nobody waits for it any more. After Stop nothing new is sent.
//   - Results that come late do not touch the state of a PG begun anew.
//
// Payload of clients is not copied: it is sent and stored from where it was
// received, parity included, and read to where it is sent from. (Exceptions: a
// degraded read of EC, and blocks of many MiB in more than env.DiskIovMax
// parts.) No operation allocates memory in the steady state.
//
// Concurrency: everything runs on the loop of the env.Env given to New.
package primary
