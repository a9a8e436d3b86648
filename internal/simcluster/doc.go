// Package simcluster runs a whole cluster from one seed: OSDs, monitors,
// clients and a modelled etcd in one goroutine, under a plan of faults, and
// judges what the clients saw and what the disks hold by the specification
// alone.
//
//	seed ── Config (config.go)   number of OSDs, pools, commit mode, options
//	   ├─── Plan (plan.go)       when what breaks and heals: data, can be shortened
//	   └─── workload (work.go)   what each client does
//	                │
//	   world.go     │ nodes, disks, daemons of internal/sim
//	                ▼
//	   History (history.go)      every operation with its interval and outcome
//	                │
//	   linear.go    strict check per 4 KiB block: linearizable
//	   stale.go     lenient check per block: nothing stale, nothing invented
//	   versions.go  check per object: versions, compare-and-swap
//	   watch.go     while running: two active primaries
//	   rest.go      at the end: replicas and parity are equal, on the disks
//
// It guarantees that one seed gives one execution, bit for bit: a failure
// prints the command that repeats it, and minimise.go shortens its plan.
//
// The checkers are written from the specification, not from the daemons, and
// are tested themselves with a cluster that is broken on purpose (broken.go).
//
// Concurrency: a run belongs to one goroutine; several runs are independent.
package simcluster
