package vhost

import (
	"fmt"

	"vitastor/internal/guestmem"
)

// logPage is what one bit of the log stands for, in bytes.
const logPage = 4096

// dirtyLog is the bitmap of pages that were changed while the guest migrates,
// shared with the front-end. It implements virtio.Log.
type dirtyLog struct{ mapping *guestmem.Mapping }

func newDirtyLog(a logArea, fd int) (*dirtyLog, error) {
	m, err := guestmem.MapFile(fd, a.offset, a.size, true)
	if err != nil {
		return nil, fmt.Errorf("migration log: %w", err)
	}
	return &dirtyLog{m}, nil
}

// Written marks the pages of n bytes from a guest address on. Pages beyond the
// end of the log are the front-end's mistake and are not marked.
func (l *dirtyLog) Written(addr uint64, n uint32) {
	var err error
	if !l.mapping.Stable() {
		defer guestmem.Recover(guestmem.Protect(), &err)
	}
	if n == 0 {
		return
	}
	bits := l.mapping.Data()
	last := (addr + uint64(n) - 1) / logPage
	for page := addr / logPage; page <= last && page/8 < uint64(len(bits)); page++ {
		guestmem.Or8(bits, int(page/8), 1<<(page%8))
	}
}

func (l *dirtyLog) close() { l.mapping.Release() }
