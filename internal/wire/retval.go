package wire

import (
	"errors"
	"fmt"
	"syscall"
)

// Retval is the result of an operation: >= 0 is success (mostly a length),
// < 0 a negative Linux errno whatever system we run on.
type Retval int64

// Error results in use (§10).
const (
	ENOENT    Retval = -2   // SEC_READ, SEC_STABILIZE, SEC_LOCK: nothing there
	EINTR     Retval = -4   // CAS failed; the reply tells the current version
	EIO       Retval = -5   // unreadable, or not enough chunks
	EAGAIN    Retval = -11  // SEC_LIST: index is not sharded as asked
	EBUSY     Retval = -16  // SEC_ROLLBACK of a stable version; SEC_LOCK held
	EEXIST    Retval = -17  // SEC_WRITE: version is not newer
	EINVAL    Retval = -22  // malformed request: never retried
	ENOSPC    Retval = -28  // disk full
	EROFS     Retval = -30  // OSD or image is read-only
	EPIPE     Retval = -32  // not primary, no lock, or connection lost: try again
	EDOM      Retval = -33  // checksum mismatch
	ERANGE    Retval = -34  // subops returned different versions
	ETIMEDOUT Retval = -110 // client only: PG inactive for too long
)

// OK is success without a length.
const OK Retval = 0

// maxErrno is the largest errno of Linux.
const maxErrno = 4095

var retvalNames = map[Retval]string{
	ENOENT: "ENOENT", EINTR: "EINTR", EIO: "EIO", EAGAIN: "EAGAIN", EBUSY: "EBUSY",
	EEXIST: "EEXIST", EINVAL: "EINVAL", ENOSPC: "ENOSPC", EROFS: "EROFS",
	EPIPE: "EPIPE", EDOM: "EDOM", ERANGE: "ERANGE", ETIMEDOUT: "ETIMEDOUT",
}

// String is the number of a success and the name of an error.
func (r Retval) String() string {
	if name, ok := retvalNames[r]; ok {
		return name
	}
	if r < 0 && r >= -maxErrno {
		return fmt.Sprintf("errno %d", -int64(r))
	}
	return fmt.Sprintf("%d", int64(r))
}

// Failed tells whether r is an error.
func (r Retval) Failed() bool { return r < 0 }

// Errno is the error number; 0 for success. A number no system has, which only
// a broken peer sends, counts as EIO.
func (r Retval) Errno() syscall.Errno {
	switch {
	case r >= 0:
		return 0
	case r < -maxErrno:
		return syscall.Errno(-EIO)
	}
	return syscall.Errno(-r)
}

// Err is nil for success, otherwise a syscall.Errno.
func (r Retval) Err() error {
	if e := r.Errno(); e != 0 {
		return e
	}
	return nil
}

// RetvalOf is the Retval that reports err: OK for nil, the number of the
// syscall.Errno it wraps, and EIO for errors without a number.
func RetvalOf(err error) Retval {
	if err == nil {
		return OK
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && errno != 0 && errno <= maxErrno {
		return -Retval(errno)
	}
	return EIO
}
