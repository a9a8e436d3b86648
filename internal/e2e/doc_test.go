// Package e2e runs real programs — etcd, vitastor-mon, vitastor-osd on files
// that vitastor-disk prepared, and clients in this process — through what
// happens to clusters: kill -9, frozen and cut off hosts, outages of etcd, full
// disks, wrong disks, hostile packets.
//
// Guarantee: after each scenario every acknowledged byte was read back through
// a client, and no process is left. Pauses of clients are measured and printed,
// but only limits that tell a broken mechanism from a slow machine are tested.
//
// A few scenarios run with every `go test`; all of them with VITASTOR_E2E=full
// (make test-integrations). VITASTOR_REFERENCE_BIN names a folder with programs
// of the reference implementation, which then take part.
//
// Concurrency: one scenario at a time; each has a cluster of its own.
package e2e
