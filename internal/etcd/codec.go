package etcd

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"vitastor/internal/env"
	"vitastor/internal/invariant"
)

// readsOnly tells whether t may be executed twice without harm.
func readsOnly(t *env.Txn) bool {
	for _, ops := range [][]env.KVOp{t.Then, t.Else} {
		for i := range ops {
			if ops[i].Kind != env.KVGet {
				return false
			}
		}
	}
	return true
}

func encodeTxn(t *env.Txn) *pb.TxnRequest {
	r := &pb.TxnRequest{Success: encodeOps(t.Then), Failure: encodeOps(t.Else)}
	for i := range t.If {
		r.Compare = append(r.Compare, encodeCompare(&t.If[i]))
	}
	return r
}

// results is in the order of env.CompareResult. The relation is always sent:
// an omitted one would mean "equal".
var results = [...]pb.Compare_CompareResult{
	env.CompareEqual:    pb.Compare_EQUAL,
	env.CompareGreater:  pb.Compare_GREATER,
	env.CompareLess:     pb.Compare_LESS,
	env.CompareNotEqual: pb.Compare_NOT_EQUAL,
}

func encodeCompare(c *env.Compare) *pb.Compare {
	r := &pb.Compare{Key: []byte(c.Key), Result: results[c.Result]}
	switch c.Target {
	case env.CompareVersion:
		r.Target, r.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: c.Number}
	case env.CompareCreate:
		r.Target, r.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: c.Number}
	case env.CompareMod:
		r.Target, r.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: c.Number}
	case env.CompareLease:
		r.Target, r.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: c.Number}
	case env.CompareValue:
		r.Target, r.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: c.Value}
	default:
		invariant.Fail("compare target %d of key %q does not exist", c.Target, c.Key)
	}
	return r
}

func encodeOps(ops []env.KVOp) []*pb.RequestOp {
	requests := make([]*pb.RequestOp, len(ops))
	for i := range ops {
		requests[i] = encodeOp(&ops[i])
	}
	return requests
}

func encodeOp(op *env.KVOp) *pb.RequestOp {
	key, end := []byte(op.Key), []byte(op.End)
	switch op.Kind {
	case env.KVGet:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: key, RangeEnd: end}}}
	case env.KVPut:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: key, Value: op.Value, Lease: int64(op.Lease)}}}
	case env.KVDelete:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end}}}
	}
	panic(invariant.Violation{Text: fmt.Sprintf("operation %d on key %q does not exist", op.Kind, op.Key)})
}

func decodeTxn(r *pb.TxnResponse) *env.TxnResponse {
	t := &env.TxnResponse{Succeeded: r.Succeeded, Revision: r.GetHeader().GetRevision(),
		Responses: make([]env.KVOpResponse, len(r.Responses))}
	for i, one := range r.Responses {
		for _, kv := range one.GetResponseRange().GetKvs() {
			t.Responses[i].KVs = append(t.Responses[i].KVs, decodeKV(kv))
		}
		t.Responses[i].Deleted = one.GetResponseDeleteRange().GetDeleted()
	}
	return t
}

func decodeKV(kv *mvccpb.KeyValue) env.KeyValue {
	return env.KeyValue{Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: env.LeaseID(kv.Lease)}
}

func decodeEvent(e *mvccpb.Event) env.WatchEvent {
	w := env.WatchEvent{Deleted: e.Type == mvccpb.Event_DELETE, KV: decodeKV(e.Kv)}
	if w.Deleted {
		w.KV = env.KeyValue{Key: w.KV.Key, ModRevision: w.KV.ModRevision}
	}
	return w
}
