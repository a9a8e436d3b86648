package etcd

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vitastor/internal/env"
)

// classify translates an error of gRPC or etcd into one of env's.
func classify(err error) error {
	switch rpctypes.Error(err) {
	case rpctypes.ErrTooManyOps, rpctypes.ErrRequestTooLarge:
		return env.ErrKVTooLarge
	case rpctypes.ErrLeaseNotFound:
		return env.ErrKVNoLease
	case rpctypes.ErrCompacted:
		return env.ErrKVCompacted
	case rpctypes.ErrAuthOldRevision: // passes
		return env.ErrKVUnavailable
	}
	switch code(err) {
	case codes.DeadlineExceeded:
		return env.ErrKVTimeout
	case codes.ResourceExhausted:
		// Two different limits share this code: the server's limit on
		// messages, and its disk space, which is no fault of the request.
		if strings.Contains(err.Error(), "message larger than max") {
			return env.ErrKVTooLarge
		}
	case codes.InvalidArgument, codes.PermissionDenied, codes.OutOfRange, codes.Unimplemented:
		return env.ErrKVInvalid
	}
	return env.ErrKVUnavailable
}

// blamesMember tells whether another member may do better.
func blamesMember(err error) bool {
	switch kind := classify(err); kind {
	case env.ErrKVTimeout, env.ErrKVUnavailable:
		return rpctypes.Error(err) != rpctypes.ErrNoSpace
	}
	return false
}

func code(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	return status.Code(rpcError(err))
}

// rpcError finds etcd's own error type, which hides its code from errors.As.
func rpcError(err error) error {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return status.Error(e.Code(), e.Error())
	}
	return err
}

// brief is the text of an error without gRPC's decoration, and with advice
// where the text alone does not say what to do.
func brief(err error) string {
	if err == nil {
		return "no answer"
	}
	if rpctypes.Error(err) == rpctypes.ErrNoSpace {
		return "etcd is full: compact and defragment it, raise --quota-backend-bytes, " +
			"then run etcdctl alarm disarm"
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = s.Message()
	}
	for _, decoration := range []string{"connection error: desc = ", "transport: Error while dialing: "} {
		text = strings.ReplaceAll(text, decoration, "")
	}
	return strings.Trim(text, `"`)
}
