package virtio

// Inflight is shared memory that remembers what was popped from a queue and not
// pushed yet, in the layout of the vhost-user protocol ("Inflight I/O
// tracking"), so that a server that takes over from one that has died knows
// what to do again. It must outlive the process: a memfd that somebody else
// keeps, or a file in memory.
type Inflight struct{ _ int }

// InflightBytes is the size of the area of one queue.
func InflightBytes(size uint16, packed bool) int { panic("skeleton") }

// NewInflight takes the area of one queue: fresh, if it is all zeroes. It must
// not vanish (see Memory.Stable).
func NewInflight(area []byte, size uint16, packed bool) (*Inflight, error) { panic("skeleton") }
