// Package machine has what all our virtual machines are made of: Debian's
// kernel and its modules, the archives that the kernel unpacks, and the command
// line of QEMU.
//
//	k, err := machine.FetchKernel(machine.CacheDir())   once; then from the cache
//	modules, err := k.Modules("9p", "nbd max_part=8")   with what they need, unpacked
//	args := machine.QEMUArgs(1024)                       TCG, as quiet as it can be
//
// Packages are downloaded with apt-get and unpacked, not installed:
//
//	CACHE/linux-image-6.12.N+deb12-amd64/boot/vmlinuz-6.12.N+deb12-amd64
//	                                    /boot/vmlinux                      what is in it, for -kernel
//	                                    /lib/modules/6.12.N+deb12-amd64/   with modules.dep, for modprobe
//
// Guarantee: a folder in the cache is complete; it appears when everything in it
// was done. KVM is never used: one that does not work hangs instead of failing.
//
// Concurrency: processes that use one cache wait for each other.
package machine
