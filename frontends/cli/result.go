package cli

import (
	"errors"
	"fmt"
	"syscall"

	"vitastor/internal/env"
)

// result is what a command that succeeded tells.
type result struct {
	text    string
	data    any  // printed with --json instead of text, unless nil
	printed bool // the command has printed everything itself
}

// failure is an error with the exit status that scripts know.
type failure struct {
	errno syscall.Errno
	text  string
	data  any // printed with --json instead of text, unless nil
}

// Error is the text for people.
func (f *failure) Error() string { return f.text }

func fail(errno syscall.Errno, format string, args ...any) *failure {
	return &failure{errno: errno, text: fmt.Sprintf(format, args...)}
}

// errStart is the exit status when the cluster cannot be reached at all, as of
// the reference.
const errStart = syscall.EPERM

// errnoOf is the exit status of an error without one.
func errnoOf(err error) syscall.Errno {
	var n syscall.Errno
	var f *failure
	if errors.As(err, &f) {
		return f.errno
	}
	if errors.As(err, &n) && n != 0 {
		return n
	}
	return syscall.EIO
}

// etcdFailure is about a transaction whose outcome is not known.
func etcdFailure(err error) *failure {
	text := "etcd: %v"
	if errors.Is(err, env.ErrKVTimeout) || errors.Is(err, env.ErrKVUnavailable) {
		text = "etcd: %v: nobody knows whether the change was made, look before you repeat the command"
	}
	return fail(syscall.EIO, text, err)
}
