package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"vitastor/internal/pinned"
	"vitastor/internal/sys"
)

// Device is an open block device or file. Reads and writes may have any
// offset and length; underneath they are aligned and past the page cache, so
// that a read sees what is on the medium.
type Device struct {
	Path  string // as the user called it
	Real  string // without symbolic links
	Facts sys.DiskFacts

	f      *os.File
	unit   int64 // alignment of requests
	bounce []byte
}

// bounceBytes is the largest request to the kernel.
const bounceBytes = 1 << 20

// deviceHook, if set by a test, sees every write and every sync (p is nil)
// before it happens, and can make it fail.
var deviceHook func(d *Device, p []byte, offset int64) error

// access says how a device is opened.
type access struct {
	write bool
	// lock takes the lock that a running OSD holds, so that none runs.
	lock bool
	// exclusive refuses block devices which the kernel itself uses (mounted,
	// part of RAID or LVM).
	exclusive bool
	cached    bool
}

// openDevice opens a device. It stays locked until it is closed.
func openDevice(path string, a access) (*Device, error) {
	real, err := realPath(path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDONLY
	if a.write {
		flags = os.O_RDWR
	}
	if st, err := os.Stat(real); a.exclusive && err == nil && st.Mode()&fs.ModeDevice != 0 {
		flags |= syscall.O_EXCL
	}
	d := &Device{Path: path, Real: real}
	if d.f, err = os.OpenFile(real, flags|directFlag(a.cached), 0); errors.Is(err, syscall.EINVAL) && !a.cached {
		d.f, err = os.OpenFile(real, flags, 0) // a file system without direct I/O
		a.cached = true
	}
	if err != nil {
		return nil, openError(path, err)
	}
	if err := d.setUp(a); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func directFlag(cached bool) int {
	if cached {
		return 0
	}
	return syscall.O_DIRECT
}

func (d *Device) setUp(a access) (err error) {
	fd := int(d.f.Fd())
	if a.lock {
		if err := d.lock(fd); err != nil {
			return err
		}
	}
	if d.Facts, err = sys.ProbeDisk(fd); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	d.unit = 1
	if !a.cached {
		d.unit = int64(max(d.Facts.BlockBytes, 512))
	}
	d.bounce, err = pinned.AlignedBuffer(bounceBytes)
	return err
}

// Close releases the device and its lock.
func (d *Device) Close() {
	pinned.Free(d.bounce)
	d.bounce = nil
	d.f.Close()
}

// Bytes is the size of the device.
func (d *Device) Bytes() uint64 { return uint64(d.Facts.SizeBytes) }

// ReadAt implements io.ReaderAt; less than len(p) bytes are an error.
func (d *Device) ReadAt(p []byte, offset int64) (int, error) {
	done := 0
	for done < len(p) {
		at := offset + int64(done)
		start := at / d.unit * d.unit
		end := min((offset+int64(len(p))+d.unit-1)/d.unit*d.unit, start+bounceBytes)
		n, err := d.f.ReadAt(d.bounce[:end-start], start)
		if n = n - int(at-start); n <= 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("the device ends at %d", d.Facts.SizeBytes)
			}
			return done, fmt.Errorf("%s: cannot read %d bytes at %d: %w", d.Path, len(p), offset, plain(err))
		}
		done += copy(p[done:], d.bounce[at-start:][:n])
	}
	return done, nil
}

// WriteAt implements io.WriterAt. It is durable after Sync.
func (d *Device) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset+int64(len(p)) > d.Facts.SizeBytes {
		return 0, fmt.Errorf("%s: cannot write %d bytes at %d: the device ends at %d", d.Path, len(p), offset, d.Facts.SizeBytes)
	}
	done := 0
	for done < len(p) {
		n, err := d.writePart(p[done:], offset+int64(done))
		if err != nil {
			return done, fmt.Errorf("%s: cannot write %d bytes at %d: %w", d.Path, len(p), offset, plain(err))
		}
		done += n
	}
	return done, nil
}

// writePart writes at most bounceBytes. What it shares a unit with is read
// first.
func (d *Device) writePart(p []byte, at int64) (int, error) {
	start := at / d.unit * d.unit
	lead := int(at - start)
	n := min(len(p), bounceBytes-lead)
	whole := (lead + n + int(d.unit) - 1) / int(d.unit) * int(d.unit)
	part := d.bounce[:whole]
	if lead != 0 || lead+n != whole {
		if m, err := d.f.ReadAt(part, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		} else if m < whole {
			clear(part[m:])
			whole = max(m, lead+n) // the end of a file: do not extend it
		}
	}
	copy(part[lead:], p[:n])
	if int64(whole)%d.unit != 0 {
		return 0, fmt.Errorf("the size of the file is not a multiple of %d: truncate it to one", d.unit)
	}
	if deviceHook != nil {
		if err := deviceHook(d, d.bounce[:whole], start); err != nil {
			return 0, err
		}
	}
	_, err := d.f.WriteAt(d.bounce[:whole], start)
	return n, err
}

// Zero overwrites a range with zeroes.
func (d *Device) Zero(offset, bytes uint64) error {
	zeroes := make([]byte, min(bytes, bounceBytes))
	for done := uint64(0); done < bytes; {
		n, err := d.WriteAt(zeroes[:min(bytes-done, uint64(len(zeroes)))], int64(offset+done))
		if err != nil {
			return err
		}
		done += uint64(n)
	}
	return nil
}

// Sync makes everything written durable.
func (d *Device) Sync() error {
	if deviceHook != nil {
		if err := deviceHook(d, nil, 0); err != nil {
			return err
		}
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("%s: cannot make the writes durable: %w", d.Path, plain(err))
	}
	return nil
}

// Discard tells the device that a range is not needed any more.
func (d *Device) Discard(offset, bytes uint64) error {
	e := syscall.Errno(0)
	if d.Facts.BlockDevice {
		e = sys.Discard(int(d.f.Fd()), int64(offset), int64(bytes))
	} else {
		e = sys.PunchHole(int(d.f.Fd()), int64(offset), int64(bytes))
	}
	if e != 0 {
		return fmt.Errorf("%s: cannot discard %d bytes at %d: %w", d.Path, bytes, offset, e)
	}
	return nil
}

// realPath resolves symbolic links.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", openError(path, err)
	}
	return abs, nil
}

// plain removes the path that os adds to errors.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// openError says what to do about a device that cannot be opened.
func openError(path string, err error) error {
	err = plain(err)
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = ": check the name; create a file for an OSD with truncate -s SIZE " + path
	case errors.Is(err, fs.ErrPermission):
		hint = ": run this as root or as user vitastor"
	case errors.Is(err, syscall.EBUSY):
		hint = ": it is mounted or part of another device; unmount it, or remove it from its RAID, LVM or multipath set"
	}
	return fmt.Errorf("%s: %w%s", path, err, hint)
}

// lockPatience is how long the kernel may take to clean up after a process
// that has ended with the lock.
const lockPatience = 5 * time.Second

// lock takes the lock that keeps OSDs and other runs of this tool away.
func (d *Device) lock(fd int) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		e := sys.LockExclusive(fd)
		if e == 0 {
			return nil
		}
		if e != syscall.EWOULDBLOCK {
			return fmt.Errorf("%s: cannot lock: %w", d.Path, e)
		}
		holder, alive := sys.LockHolder(fd)
		if holder == "" {
			holder, alive = "another process", true
		}
		if alive || time.Now().After(end) {
			return fmt.Errorf("%s: in use by %s: stop it first (an OSD with: vitastor-disk stop %s)", d.Path, holder, d.Path)
		}
	}
}
