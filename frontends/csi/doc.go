// Package csi is the program vitastor-csi: the driver through which Kubernetes
// (and other orchestrators that speak CSI 1.x) makes volumes out of images.
//
//	sidecars of Kubernetes ── gRPC, unix socket ──▶ controller ── vitastor-cli ──▶ cluster
//	kubelet ──────────────────────────────────────▶ node ── vitastor-vduse, -ublk, -nbd ──▶ block device
//	                                                     └─ mkfs, mount, resize2fs, xfs_growfs
//
// Guarantee: every call may be repeated, by several controllers at once, after
// the driver was killed at any step of it: the result is that of one call, and
// nothing is left behind. No request makes the driver panic; every error has the
// code that the CSI specification asks for, and says what is wrong with what.
//
// The driver keeps no state of its own but attachments (state.go), because
// everything else can be read from the cluster and the host. It acts by running
// programs only (Runner): what an administrator would do by hand, atomic in the
// same steps, and killed together with the driver without harm. This is also why
// image operations are those of vitastor-cli in a process of its own, and not a
// package shared with it: removals may run for hours, and the program is what
// operators already know how to read and repeat.
//
// Concurrency: calls run on goroutines of gRPC. A volume is changed by one call
// at a time (guard.go); a second one is refused with ABORTED. Work that outlives
// its call, such as removing a snapshot with much data, goes on in the
// background, and the repeated call finds it done.
//
// The files, in reading order: tool.go, server.go (the program); handle.go,
// params.go, capability.go (what requests say); runner.go, images.go, errors.go,
// guard.go (how it acts); identity.go; controller.go, volume.go, clone.go,
// snapshot.go, list.go, health.go; attach.go, programs.go, state.go, restore.go;
// node.go, stage.go, publish.go, filesystem.go, mounts.go.
package csi
