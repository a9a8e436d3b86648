// Package openstack holds what OpenStack needs, in Python: the Cinder driver
// (cinder/vitastor), and Nova's volume driver with the patch that registers it
// (nova, patches). The Go part only runs its tests.
//
// Guarantee: `make test` runs the driver over a cluster in memory, with or
// without Cinder; with VITASTOR_E2E=full Debian's Cinder and Nova run with it,
// over a cluster of real processes.
// Concurrency: none.
package openstack
