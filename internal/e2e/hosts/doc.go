// Package hosts tests the programs that host our C library — fio, qemu-img,
// qemu-io, QEMU itself — with the engine and the block driver of this tree,
// against a cluster of real processes.
//
// It guarantees nothing to other packages: it has only tests. They need what
// `make fio qemu-plugin` needs (network for source packages), so they run with
// VITASTOR_E2E=full only, as in make test-integrations.
//
// Concurrency: tests run one after the other on one cluster.
package hosts
