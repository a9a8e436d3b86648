// Package vhost has the tests of vitastor-vhost with stock QEMU: a machine whose
// only disk is an image boots from it, writes, is rebooted, goes on when the
// back-end is killed and started again, and migrates live to another QEMU and
// another back-end.
//
// Guarantee: what the machine wrote with fsync is what it reads, at the end and
// after each of these events.
//
// Concurrency: none of its own.
package vhost
