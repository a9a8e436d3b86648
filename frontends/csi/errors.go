package csi

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cliError is a run of vitastor-cli that has failed.
type cliError struct {
	errno syscall.Errno // its exit status
	text  string
}

// Error is what the program said.
func (e *cliError) Error() string { return e.text }

// errStart is the exit status of vitastor-cli when it does not reach the
// cluster.
const errStart = syscall.EPERM

// failed tells whether the program has failed in a certain way.
func failed(err error, errno syscall.Errno) bool {
	var c *cliError
	return errors.As(err, &c) && c.errno == errno
}

// certain tells whether the program has failed in a way that has changed
// nothing.
func certain(err error) bool {
	var c *cliError
	return errors.As(err, &c) && (c.errno == syscall.EINVAL || c.errno == syscall.ENOENT || c.errno == syscall.ENOSPC)
}

// invalid, and the others below, are errors with a code of CSI.
func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

func exists(format string, args ...any) error {
	return status.Errorf(codes.AlreadyExists, format, args...)
}

func outOfRange(format string, args ...any) error {
	return status.Errorf(codes.OutOfRange, format, args...)
}

func aborted(format string, args ...any) error {
	return status.Errorf(codes.Aborted, format, args...)
}

func precondition(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

// statusOf gives an error the code of CSI, unless it has one. The text tells
// what was to be done.
func statusOf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if _, has := status.FromError(err); has {
		return err
	}
	return status.Errorf(codeOf(err), "%s: %v", fmt.Sprintf(format, args...), err)
}

// codeOf tells orchestrators what they can do: all but INVALID_ARGUMENT,
// OUT_OF_RANGE and their like is repeated, sooner or later.
func codeOf(err error) codes.Code {
	var c *cliError
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case !errors.As(err, &c):
		return codes.Internal
	}
	switch c.errno {
	case errStart:
		return codes.Unavailable
	case syscall.EINVAL:
		return codes.InvalidArgument
	case syscall.ENOENT:
		return codes.NotFound
	case syscall.EEXIST:
		return codes.AlreadyExists
	case syscall.EAGAIN:
		return codes.Aborted
	case syscall.ENOSPC:
		return codes.ResourceExhausted
	}
	return codes.Internal
}
