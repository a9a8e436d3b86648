// Package libvirt executes docs/usage/libvirt.md: its XML and its commands, with
// libvirtd, a machine without KVM that boots from an image, and a cluster.
//
// Guarantee: the host is left as it was: libvirtd and all that it starts are in
// namespaces for mounts and processes, which end with the test.
//
// Concurrency: one machine at a time.
package libvirt
