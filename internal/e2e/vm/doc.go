// Package vm boots virtual machines from images of a cluster: it makes a disk
// that boots, starts QEMU on it and talks with what runs in the machine.
//
//	g := vm.Packages(cache)                Debian's kernel and busybox, unpacked
//	vm.BuildDisk(file, g, vm.Disk{...})    boot sector, kernel, ext4
//	m := vm.Boot(ctx, vm.Machine{...})     QEMU without KVM
//	m.Do(ctx, "write 1 10", ...)           commands to guest/init.sh
//	m.Halt(ctx), m.Kill()
//
// The disk, in sectors of 512 bytes:
//
//	0       boot sector (guest/boot.S): extents to load, partition table
//	2048    real-mode part of the kernel with its command line, 64 KiB
//	2176    the rest of the kernel
//	...     initramfs (virtio_blk and busybox), begins at 4 KiB
//	65536   partition 1: ext4, the root of the machine
//
// So everything from the first instruction on comes from the image: the BIOS
// reads the boot sector, that reads kernel and initramfs by the BIOS, and those
// mount the partition.
//
// Guarantee: a machine dies with the process that started it. Nothing needs
// privileges, KVM or the network, apart from the download of two packages.
//
// Concurrency: a Running machine is used by one goroutine at a time.
package vm
