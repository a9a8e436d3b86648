// Package guest runs a command in a virtual machine of its own, with Debian's
// kernel and modules, as root, on the files of this host: for what needs a real
// kernel, such as block devices of our front ends.
//
//	code, err := guest.Run(ctx, guest.Config{Args: []string{"sh", "-c", "modprobe nbd && ls /dev/nbd0"}, Out: os.Stdout})
//
// The machine sees the files of the host and may write everywhere; what it
// writes is gone with it, apart from shared folders. It has one processor, no
// network but its loopback, and needs neither privileges nor KVM.
//
// Guarantee: a machine dies with the process that started it. It is booted a
// second time if it does not come up, but never when its command has begun.
//
// Concurrency: any number of machines at once.
package guest
