// Package crashtest tests an object store by its contract alone: random
// histories on simulated disks, a power loss at every moment, and a model that
// knows which states the rules permit afterwards (spec store.md §1).
//
//	Case = Config + Script, drawn from (seed, number)
//	  │
//	runner ── drives an Engine with several operations in flight (run.go, ops.go)
//	  │            every answer is compared with the model (model.go)
//	  ├─ after a disk event: images that a power loss or kill -9 may leave (crash.go)
//	  │     ├─ layout.LoadImage: what another daemon would find (image.go)
//	  │     └─ a fresh world: start, compare, crash while starting, go on, crash
//	  └─ at the end of each life: power loss, kill or clean stop, and the next life
//
// It guarantees reproducibility: one Case gives one execution. A failure names
// its seed and case and is shrunk to few steps (shrink.go), printed as a script.
//
// The model is written from the specification and knows nothing of the engine.
// That the tests can fail is tested too: naive.go is a store that is obviously
// right, mistakes can be switched on in it, and broken.go has disks that lie.
//
// Concurrency: a Harness and everything under it belong to one goroutine;
// several may run in parallel.
package crashtest
