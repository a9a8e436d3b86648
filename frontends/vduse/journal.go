package vduse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"vitastor/frontends/blockdev/daemon"
	"vitastor/frontends/virtio"
	"vitastor/internal/guestmem"
	"vitastor/internal/sys"
)

// kind is the name of our state files: vduse-NAME.json says what is served, and
// vduse-NAME.journal is what a server leaves to the next one when it dies.
const kind = "vduse"

// journal is a file in memory that outlives its server: what the driver has been
// told, and which requests are being worked on. The kernel does not remember how
// far a queue has got.
//
//	0     magic 8 | version 4 | queues 4 | size of a queue 4 | status 4 | features 8 | capacity 8
//	4096  area of queue 0, in whole pages: virtio.Inflight
//	...   area of queue 1, and so on
//
// Numbers are in the byte order of the host. status is the last one that the
// driver knows to be accepted, features are those that were offered when the
// device was created, and capacity is the number of sectors that was told last.
//
// A server that lives holds the lock of the file.
type journal struct {
	file   *os.File
	memory []byte
	queues int
	size   uint16
}

const (
	journalMagic    = 0x4c4e524a45535544 // "DUSEJRNL"
	journalVersion  = 1
	journalHead     = 4096
	journalVersions = 8 // offsets
	journalQueues   = 12
	journalSize     = 16
	journalStatus   = 20
	journalFeatures = 24
	journalCapacity = 32
	pageBytes       = 4096
)

// Errors of openJournal and load.
var (
	errServed  = errors.New("another process serves it")
	errNoTrace = errors.New("its last server has left no journal")
)

func journalPath(name string) string {
	return strings.TrimSuffix(daemon.StatePath(kind, name), ".json") + ".journal"
}

// openJournal opens and locks the journal of a device; a new one is empty.
func openJournal(name string) (*journal, error) {
	path := journalPath(name)
	if err := os.MkdirAll(daemon.StateDir(), 0o755); err != nil {
		return nil, fmt.Errorf("state files: %w: run as root, or set VITASTOR_RUN_DIR to a folder that can be written", err)
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("journal: %w: run as root, or set VITASTOR_RUN_DIR to a folder that can be written", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, errServed
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock of %s: %w", path, err)
		}
		if current(f, path) {
			return &journal{file: f}, nil
		}
		f.Close() // it was removed before it was locked
	}
}

// current tells whether a file is still the one at its path.
func current(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// served tells whether the device of a journal has a server.
func served(name string) bool {
	f, err := os.Open(journalPath(name))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// areaBytes is the room for one queue, of either kind.
func areaBytes(size uint16) int {
	n := max(virtio.InflightBytes(size, false), virtio.InflightBytes(size, true))
	return (n + pageBytes - 1) / pageBytes * pageBytes
}

// create makes the journal that of a new device.
func (j *journal) create(queues int, size uint16) error {
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.file.Truncate(int64(journalHead + queues*areaBytes(size))); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := j.open(queues, size); err != nil {
		return err
	}
	m := j.memory
	binary.NativeEndian.PutUint32(m[journalVersions:], journalVersion)
	binary.NativeEndian.PutUint32(m[journalQueues:], uint32(queues))
	binary.NativeEndian.PutUint32(m[journalSize:], uint32(size))
	binary.NativeEndian.PutUint64(m, journalMagic)
	return nil
}

// load takes over the journal of a server that has died.
func (j *journal) load() error {
	head := make([]byte, journalHead)
	if n, err := j.file.ReadAt(head, 0); n < len(head) || binary.NativeEndian.Uint64(head) != journalMagic {
		return fmt.Errorf("%w (%s: %d bytes, %v)", errNoTrace, j.file.Name(), n, err)
	}
	version := binary.NativeEndian.Uint32(head[journalVersions:])
	queues, size := binary.NativeEndian.Uint32(head[journalQueues:]), binary.NativeEndian.Uint32(head[journalSize:])
	switch {
	case version != journalVersion:
		return fmt.Errorf("%s has version %d, this program knows version %d: use the program that has mapped the device", j.file.Name(), version, journalVersion)
	case queues == 0 || queues > virtio.QueuesMax || size == 0 || size > virtio.QueueSizeMax:
		return fmt.Errorf("%w: %s is for %d queues of %d requests", errNoTrace, j.file.Name(), queues, size)
	}
	info, err := j.file.Stat()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if want := int64(journalHead + int(queues)*areaBytes(uint16(size))); info.Size() != want {
		return fmt.Errorf("%w: %s has %d bytes, not %d", errNoTrace, j.file.Name(), info.Size(), want)
	}
	return j.open(int(queues), uint16(size))
}

func (j *journal) open(queues int, size uint16) (err error) {
	j.queues, j.size = queues, size
	j.memory, err = sys.MapShared(int(j.file.Fd()), 0, journalHead+queues*areaBytes(size), true, true)
	return err
}

func (j *journal) status() byte     { return byte(guestmem.Load32(j.memory, journalStatus)) }
func (j *journal) features() uint64 { return binary.NativeEndian.Uint64(j.memory[journalFeatures:]) }

func (j *journal) setFeatures(f uint64) {
	binary.NativeEndian.PutUint64(j.memory[journalFeatures:], f)
}

func (j *journal) capacity() uint64 { return binary.NativeEndian.Uint64(j.memory[journalCapacity:]) }

func (j *journal) setCapacity(sectors uint64) {
	binary.NativeEndian.PutUint64(j.memory[journalCapacity:], sectors)
}

// setStatus is called before the driver is told.
func (j *journal) setStatus(s byte) { guestmem.Store32(j.memory, journalStatus, uint32(s)) }

// area is that of a queue.
func (j *journal) area(queue int) []byte {
	n := areaBytes(j.size)
	return j.memory[journalHead+queue*n:][:n:n]
}

// forget empties the areas of all queues: the driver has reset the device, whose
// status must have been recorded as 0 before. Else a server that takes over here
// would begin the old rings again.
func (j *journal) forget() { clear(j.memory[journalHead:]) }

// close lets another server take over.
func (j *journal) close() {
	if j.memory != nil {
		sys.Unmap(j.memory)
		j.memory = nil
	}
	j.file.Close()
}

// remove is the end of the device: nothing is left.
func (j *journal) remove(name string) error {
	err := errors.Join(daemon.RemoveState(kind, name), os.Remove(j.file.Name()))
	j.close()
	return err
}
