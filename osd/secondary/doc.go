// Package secondary serves the operations that a primary OSD asks of the OSDs
// that store the chunks of its objects: SEC_* of the OSD protocol on the
// object store of this OSD. Spec: wire.md §7, §8, §10, §11, §13; osd.md §12.
//
//	msgr.Request ──Serve──▶ form ─▶ delay ─▶ resources ─▶ slot ─▶ lock ─▶ store
//	own primary  ──Submit──────────▶ delay ─────────────────────────────▶ store
//	reply or Op.Done ◀──────────── delay (STABILIZE) ◀── statistics ◀────────┘
//
// delay       subops of recovery give way to clients (delay.go, tuner.go)
// resources   memory of long answers and of long reads (bulk.go)
// slot        a limited number of requests is in the store, others wait in order
// lock        PG locks and the pool's index are checked last (locks.go, permit.go)
//
// It guarantees that nothing is executed for a connection that is lost or does
// not hold the lock at that moment, and that a listing shows every mutation
// that was received before it, delayed ones included. What peers can make us
// use is bounded by Limits and by the limits of the messenger: a request that
// does not fit waits and keeps its memory, so the messenger stops reading.
//
// Data is never copied: it is written from where the messenger received it and
// read to where the messenger sends it from (exception: reads longer than
// pinned.MaxBufferBytes). No operation allocates, apart from long lists.
//
// Concurrency: everything runs on the loop of the env.Env given to New.
package secondary
