package virtio

// Memory is the part of a guest's memory that a device may use. An
// implementation never changes: when the guest's memory does, the transport
// makes another one and gives it to the queues (Queue.Move), and the old one
// lives until it is released by the last request that uses it.
type Memory interface {
	// Slices appends the memory of n bytes from a guest address on to dst, in
	// as many pieces as it is mapped in. ok is false, and dst is returned as it
	// was, if a part of it is not mapped or may not be written.
	Slices(dst [][]byte, addr uint64, n uint32, write bool) (slices [][]byte, ok bool)
	// Stable tells that mapped memory cannot vanish, whatever the other side
	// does: it is not a file, or a file that is sealed against becoming smaller.
	// Other memory is touched under guestmem's protection only, and never
	// handed to the disk.
	Stable() bool
	// Hold keeps mappings until Release.
	Hold()
	Release()
}

// Log records which memory a device has written, while the guest migrates.
type Log interface {
	// Written tells that n bytes from a guest address on were changed.
	Written(addr uint64, n uint32)
}
