package csi

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func codeOfStatus(err error) codes.Code { return status.Code(err) }

// invoke makes any call: all fields that are ids get id, paths path, and
// capabilities half.
func (b *bench) invoke(method protoreflect.MethodDescriptor, id, path string, half *spec.VolumeCapability) {
	b.Helper()
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	b.must(err)
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	b.must(err)
	request := in.New()
	for i := range method.Input().Fields().Len() {
		f := method.Input().Fields().Get(i)
		switch name := string(f.Name()); {
		case f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap() && strings.HasSuffix(name, "_id"):
			request.Set(f, protoreflect.ValueOfString(id))
		case f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap() && strings.HasSuffix(name, "_path"):
			request.Set(f, protoreflect.ValueOfString(path))
		case name == "volume_capability" && half != nil:
			request.Set(f, protoreflect.ValueOfMessage(half.ProtoReflect()))
		case name == "volume_capabilities":
			request.Mutable(f).List().Append(protoreflect.ValueOfMessage(proto.Clone(&spec.VolumeCapability{}).ProtoReflect()))
		}
	}
	full := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	err = b.conn.Invoke(b.context(), full, request.Interface(), out.New().Interface())
	expected := []codes.Code{codes.OK, codes.InvalidArgument, codes.NotFound, codes.Unimplemented, codes.FailedPrecondition}
	if code := status.Code(err); !slices.Contains(expected, code) {
		b.Errorf("%s %v: %v", full, request, err)
	}
}

// slowRunner waits in removals until it is told to go on.
type slowRunner struct {
	Runner
	begun, goOn chan struct{}
}

func (r *slowRunner) Run(ctx context.Context, c Command) (Result, error) {
	if slices.Contains(c.Args, "rm") {
		r.begun <- struct{}{}
		select {
		case <-r.goOn:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
	}
	return r.Runner.Run(ctx, c)
}

// TestLongRemoval: a removal goes on after the caller has given up; meanwhile
// others are refused, and afterwards the repeated call finds it done.
func TestLongRemoval(t *testing.T) {
	b := newBench(t)
	v := b.volume("v", small, nil)
	slow := &slowRunner{b.run, make(chan struct{}), make(chan struct{})}
	b.restart(slow)
	ctx, cancel := context.WithCancel(context.Background())
	given := make(chan error)
	go func() {
		_, err := b.controller.DeleteVolume(ctx, &spec.DeleteVolumeRequest{VolumeId: v})
		given <- err
	}()
	<-slow.begun
	cancel()
	wantCode(t, <-given, codes.Canceled)
	_, err := b.controller.DeleteVolume(b.context(), &spec.DeleteVolumeRequest{VolumeId: v})
	wantCode(t, err, codes.Aborted, "in progress", "repeat the call")
	_, err = b.controller.CreateVolume(b.context(), b.request("v", small, nil))
	wantCode(t, err, codes.Aborted)
	_, err = b.controller.ControllerExpandVolume(b.context(), &spec.ControllerExpandVolumeRequest{VolumeId: v, CapacityRange: &spec.CapacityRange{RequiredBytes: large}})
	wantCode(t, err, codes.Aborted)
	_, err = b.controller.CreateVolume(b.context(), b.request("w", small, fromVolume(v)))
	wantCode(t, err, codes.Aborted)
	if b.images() != "v" {
		t.Error(b.images())
	}
	close(slow.goOn)
	for end := time.Now().Add(20 * time.Second); b.images() != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the removal does not go on")
		}
	}
	b.restart(b.run)
	b.deleteVolume(v)
	b.wantClean()
}

// TestManyCalls: more than a driver can do at the same time are refused.
func TestManyCalls(t *testing.T) {
	g := newGuard(nil)
	var frees []func()
	for i := range runningMax {
		free, err := g.take(locks{alone: []string{fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		frees = append(frees, free)
	}
	_, err := g.take(locks{alone: []string{"more"}})
	wantCode(t, err, codes.ResourceExhausted, "repeat")
	for _, free := range frees {
		free()
	}
	one, err := g.take(locks{shared: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := g.take(locks{shared: []string{"a"}, alone: []string{"b"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.take(locks{alone: []string{"c", "a"}})
	wantCode(t, err, codes.Aborted)
	one()
	two()
	free, err := g.take(locks{alone: []string{"a", "b", "c"}})
	if err != nil || len(g.held) != 3 {
		t.Fatal(err, g.held)
	}
	free()
	if len(g.held) != 0 || g.running != 0 {
		t.Errorf("%v, %d", g.held, g.running)
	}
}

// panickingRunner is a bug.
type panickingRunner struct{ Runner }

func (panickingRunner) Run(context.Context, Command) (Result, error) { panic("made to panic") }

// TestPanic: a bug of ours fails the call, and nothing else: no lock stays.
func TestPanic(t *testing.T) {
	b := newBench(t)
	b.restart(panickingRunner{})
	for range 2 {
		_, err := b.controller.CreateVolume(b.context(), b.request("v", small, nil))
		wantCode(t, err, codes.Internal, "bug", "made to panic")
		_, err = b.controller.ListVolumes(b.context(), &spec.ListVolumesRequest{})
		wantCode(t, err, codes.Internal, "bug")
	}
	if !strings.Contains(b.log.String(), "goroutine") {
		t.Error("the log has no stack")
	}
}
