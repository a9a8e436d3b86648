package csi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestCreate: what exists already is only the volume that is wanted if it really
// is like that.
func TestCreate(t *testing.T) {
	b := newBench(t)
	create := func(change func(*spec.CreateVolumeRequest)) (*spec.CreateVolumeResponse, error) {
		r := b.request("v", 5*mib+1, nil)
		change(r)
		return b.controller.CreateVolume(b.context(), r)
	}
	same := func(*spec.CreateVolumeRequest) {}
	first, err := create(same)
	b.must(err)
	if v := first.GetVolume(); v.GetCapacityBytes() != 6*mib || v.GetVolumeId() != b.id("v") {
		t.Errorf("%v", v)
	}
	if second, err := create(same); err != nil || !proto.Equal(first, second) {
		t.Errorf("repeated: %v, %v", second, err)
	}
	s := b.snapshot(b.prefix+"s", b.id("v"))
	if third, err := create(same); err != nil || !proto.Equal(first, third) {
		t.Errorf("with a snapshot: %v, %v", third, err)
	}
	for _, c := range []struct {
		name   string
		change func(*spec.CreateVolumeRequest)
		code   codes.Code
		words  string
	}{
		{"larger", func(r *spec.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 10 * mib }, codes.AlreadyExists, "6291456 bytes"},
		{"another pool", func(r *spec.CreateVolumeRequest) { r.Parameters["poolId"] = "2" }, codes.AlreadyExists, "in pool rep, not in 2"},
		{"with a source", func(r *spec.CreateVolumeRequest) { r.VolumeContentSource = fromSnapshot(s) }, codes.InvalidArgument, "of itself"},
		{"no name", func(r *spec.CreateVolumeRequest) { r.Name = "" }, codes.InvalidArgument, "name"},
		{"bad name", func(r *spec.CreateVolumeRequest) { r.Name = "a@b" }, codes.InvalidArgument, "must not contain @"},
		{"control characters", func(r *spec.CreateVolumeRequest) { r.Name = "a\nb" }, codes.InvalidArgument, "control"},
		{"no pool", func(r *spec.CreateVolumeRequest) { delete(r.Parameters, "poolId") }, codes.InvalidArgument, "poolId is missing"},
		{"file system", func(r *spec.CreateVolumeRequest) { r.Parameters["vitastorfs"] = "fs" }, codes.InvalidArgument, "vitastorfs"},
		{"no such pool", func(r *spec.CreateVolumeRequest) { r.Name, r.Parameters["poolId"] = "w", "nono" }, codes.InvalidArgument, "Pool nono does not exist"},
		{"no configuration", func(r *spec.CreateVolumeRequest) { r.Parameters["configPath"] = "/nowhere/v.conf" }, codes.InvalidArgument, "/nowhere/v.conf"},
		{"relative configuration", func(r *spec.CreateVolumeRequest) { r.Parameters["configPath"] = "v.conf" }, codes.InvalidArgument, "absolute"},
		{"no capability", func(r *spec.CreateVolumeRequest) { r.VolumeCapabilities = nil }, codes.InvalidArgument, "capabilities"},
		{"shared file system", func(r *spec.CreateVolumeRequest) {
			r.VolumeCapabilities = []*spec.VolumeCapability{mountCapability(multiNodeMultiWriter, "")}
		}, codes.InvalidArgument, "block volumes only"},
		{"btrfs", func(r *spec.CreateVolumeRequest) {
			r.VolumeCapabilities = []*spec.VolumeCapability{mountCapability(singleNodeWriter, "btrfs")}
		}, codes.InvalidArgument, "ext4 or xfs"},
		{"limit", func(r *spec.CreateVolumeRequest) { r.CapacityRange.LimitBytes = mib }, codes.InvalidArgument, "limit_bytes"},
		{"no size possible", func(r *spec.CreateVolumeRequest) {
			r.Name, r.CapacityRange = "w", &spec.CapacityRange{RequiredBytes: 4097, LimitBytes: 4098}
		}, codes.OutOfRange, "no multiple"},
		{"huge", func(r *spec.CreateVolumeRequest) { r.Name, r.CapacityRange.RequiredBytes = "w", 1<<63-1 }, codes.OutOfRange, "more than any"},
		{"mutable", func(r *spec.CreateVolumeRequest) { r.MutableParameters = map[string]string{"a": "b"} }, codes.InvalidArgument, "mutable"},
		{"unknown snapshot", func(r *spec.CreateVolumeRequest) { r.Name, r.VolumeContentSource = "w", fromSnapshot("nono") }, codes.NotFound, "nono"},
		{"a volume as a snapshot", func(r *spec.CreateVolumeRequest) { r.Name, r.VolumeContentSource = "w", fromSnapshot(b.id("v")) }, codes.NotFound, ""},
		{"too small for the source", func(r *spec.CreateVolumeRequest) {
			r.Name, r.CapacityRange.RequiredBytes, r.VolumeContentSource = "w", mib, fromSnapshot(s)
		}, codes.OutOfRange, "6291456 bytes"},
		{"source elsewhere", func(r *spec.CreateVolumeRequest) {
			r.Name, r.VolumeContentSource = "w", fromSnapshot(`{"configPath":"/other.conf","name":"x","snapshot":"s"}`)
		}, codes.InvalidArgument, "/other.conf"},
		{"empty source", func(r *spec.CreateVolumeRequest) { r.Name, r.VolumeContentSource = "w", &spec.VolumeContentSource{} }, codes.InvalidArgument, "no id"},
	} {
		_, err := create(c.change)
		if wantCode(t, err, c.code, c.words); t.Failed() {
			t.Fatal(c.name)
		}
	}
	if got := b.images(); got != b.relative("v<v@S v@S") {
		t.Error(got)
	}
	b.deleteSnapshot(s)
	b.deleteVolume(b.id("v"))
	b.wantClean()
}

// TestClones: snapshots below clones are there as long as somebody needs them,
// and no longer.
func TestClones(t *testing.T) {
	b := newBench(t)
	want := func(images string) {
		t.Helper()
		if got := b.images(); got != b.relative(images) {
			t.Fatalf("%s, want %s", got, b.relative(images))
		}
	}
	v := b.volume("v", small, nil)
	w := b.volume("w", large, fromVolume(v))
	x := b.volume("x", large, fromVolume(w))
	want("v<v@C-w v@C-w w<w@C-x w@C-x<v@C-w x<w@C-x")
	r := b.request("w", large, nil)
	_, err := b.controller.CreateVolume(b.context(), r)
	wantCode(t, err, codes.AlreadyExists, "is made of "+b.prefix+"v@", "not of nothing")
	r.VolumeContentSource = fromVolume(v)
	if _, err := b.controller.CreateVolume(b.context(), r); err != nil {
		t.Errorf("repeated: %v", err)
	}
	list, err := b.controller.ListSnapshots(b.context(), &spec.ListSnapshotsRequest{})
	if b.must(err); strings.Contains(fmt.Sprint(list), cloneMark) {
		t.Errorf("orchestrators see %v", list)
	}
	b.deleteVolume(w)
	want("v<v@C-w v@C-w w@C-x<v@C-w x<w@C-x")
	b.deleteVolume(x)
	want("v")
	s := b.snapshot(b.prefix+"s", v)
	y := b.volume("y", large, fromSnapshot(s))
	b.deleteVolume(v)
	want("v@S y<v@S")
	b.deleteSnapshot(s)
	want("y")
	_, err = b.controller.CreateVolume(b.context(), &spec.CreateVolumeRequest{Name: "z", Parameters: map[string]string{"poolId": "nono", "volumePrefix": b.prefix},
		VolumeCapabilities: r.VolumeCapabilities, VolumeContentSource: fromVolume(y)})
	wantCode(t, err, codes.InvalidArgument, "no pool nono")
	want("y")
	b.deleteVolume(y)
	b.wantClean()
}

// TestSnapshots are calls about snapshots and what they tell.
func TestSnapshots(t *testing.T) {
	b := newBench(t)
	v, w := b.volume("v", small, nil), b.volume("w", small, nil)
	began := time.Now().Add(-time.Second)
	r, err := b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: b.prefix + "s", SourceVolumeId: v})
	b.must(err)
	s := r.GetSnapshot()
	if s.GetSizeBytes() != small || !s.GetReadyToUse() || s.GetSourceVolumeId() != v || s.GetSnapshotId() != b.snapshotID("v") {
		t.Errorf("%v", s)
	}
	if made := s.GetCreationTime().AsTime(); made.Before(began) || made.After(time.Now()) {
		t.Errorf("made at %v", made)
	}
	again, err := b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: b.prefix + "s", SourceVolumeId: v})
	if err != nil || !proto.Equal(again, r) {
		t.Errorf("repeated: %v, %v", again, err)
	}
	got, err := b.controller.GetSnapshot(b.context(), &spec.GetSnapshotRequest{SnapshotId: s.GetSnapshotId()})
	if err != nil || !proto.Equal(got.GetSnapshot(), s) {
		t.Errorf("get: %v, %v", got, err)
	}
	for name, want := range map[string]codes.Code{b.prefix + "s": codes.AlreadyExists, "": codes.InvalidArgument, "a@b": codes.InvalidArgument, cloneMark + "x": codes.InvalidArgument} {
		_, err := b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: name, SourceVolumeId: w})
		wantCode(t, err, want)
	}
	_, err = b.controller.CreateSnapshot(b.context(), &spec.CreateSnapshotRequest{Name: "x", SourceVolumeId: b.id("nono")})
	wantCode(t, err, codes.NotFound, "nono")
	_, err = b.controller.GetSnapshot(b.context(), &spec.GetSnapshotRequest{SnapshotId: v})
	wantCode(t, err, codes.NotFound)
	for range 2 {
		b.deleteSnapshot(s.GetSnapshotId())
	}
	b.deleteSnapshot("unknown")
	b.deleteVolume(v)
	b.deleteVolume(w)
	b.deleteVolume(w)
	b.wantClean()
}

// TestLists pages through volumes while some disappear.
func TestLists(t *testing.T) {
	b := newBench(t)
	var ids []string
	for i := range 5 {
		ids = append(ids, b.volume(fmt.Sprint("v", i), mib, nil))
		b.snapshot(fmt.Sprint(b.prefix, "s", i), ids[0])
	}
	var seen []string
	token := ""
	for range 10 {
		r, err := b.controller.ListVolumes(b.context(), &spec.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		b.must(err)
		for _, e := range r.GetEntries() {
			if strings.Contains(e.GetVolume().GetVolumeId(), b.prefix) {
				seen = append(seen, e.GetVolume().GetVolumeId())
			}
		}
		if len(seen) == 2 {
			b.deleteVolume(ids[1]) // the last of a page
		}
		if token = r.GetNextToken(); token == "" {
			break
		}
	}
	if got, want := strings.Join(seen, " "), strings.Join(ids, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	count, token := 0, ""
	for range 10 {
		r, err := b.controller.ListSnapshots(b.context(), &spec.ListSnapshotsRequest{MaxEntries: 2, StartingToken: token, SourceVolumeId: ids[0]})
		b.must(err)
		count += len(r.GetEntries())
		if token = r.GetNextToken(); token == "" {
			break
		}
	}
	if count != 5 {
		t.Errorf("%d snapshots", count)
	}
	for _, r := range []*spec.ListSnapshotsRequest{{SourceVolumeId: ids[2]}, {SourceVolumeId: "nono"}, {SnapshotId: "nono"}, {SnapshotId: ids[0]},
		{SourceVolumeId: ids[2], SnapshotId: handle{ConfigPath: b.config.ConfigPath, Name: b.prefix + "v0", Snapshot: b.prefix + "s0"}.String()}} {
		if got, err := b.controller.ListSnapshots(b.context(), r); err != nil || len(got.GetEntries()) != 0 {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	_, err := b.controller.ListVolumes(b.context(), &spec.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = b.controller.ListSnapshots(b.context(), &spec.ListSnapshotsRequest{StartingToken: "x"})
	wantCode(t, err, codes.Aborted, "begin anew")
	for i := range 5 {
		b.deleteSnapshot(handle{ConfigPath: b.config.ConfigPath, Name: b.prefix + "v0", Snapshot: fmt.Sprint(b.prefix, "s", i)}.String())
		b.deleteVolume(ids[i])
	}
	b.wantClean()
}

// TestSizes: expansion, capacity, health, validation.
func TestSizes(t *testing.T) {
	b := newBench(t)
	v := b.volume("v", small, nil)
	expand := func(c *spec.CapacityRange) (*spec.ControllerExpandVolumeResponse, error) {
		return b.controller.ControllerExpandVolume(b.context(), &spec.ControllerExpandVolumeRequest{VolumeId: v, CapacityRange: c})
	}
	for range 2 {
		r, err := expand(&spec.CapacityRange{RequiredBytes: large - 5})
		if err != nil || r.GetCapacityBytes() != large || !r.GetNodeExpansionRequired() {
			t.Errorf("%v, %v", r, err)
		}
	}
	if r, err := expand(&spec.CapacityRange{RequiredBytes: small}); err != nil || r.GetCapacityBytes() != large {
		t.Errorf("smaller: %v, %v", r, err)
	}
	_, err := expand(&spec.CapacityRange{RequiredBytes: mib, LimitBytes: small})
	wantCode(t, err, codes.OutOfRange, "cannot become smaller")
	_, err = expand(nil)
	wantCode(t, err, codes.InvalidArgument)
	capacity := func(params map[string]string) int64 {
		r, err := b.controller.GetCapacity(b.context(), &spec.GetCapacityRequest{Parameters: params})
		b.must(err)
		return r.GetAvailableCapacity()
	}
	rep, ec, all := capacity(map[string]string{"poolId": "1"}), capacity(map[string]string{"poolId": "ec"}), capacity(nil)
	if rep < 1<<30 || ec < 1<<30 || all != max(rep, ec) || capacity(map[string]string{"poolId": "nono"}) != 0 {
		t.Errorf("capacity: %d, %d, %d", rep, ec, all)
	}
	health, err := b.controller.ControllerGetVolumeHealth(b.context(), &spec.ControllerGetVolumeHealthRequest{VolumeId: v})
	if err != nil || len(health.GetVolumeHealth().GetHealthStatuses()) != 0 {
		t.Errorf("healthy: %v, %v", health, err)
	}
	b.rig.cli(t, "modify", "--deleted", "1", b.prefix+"v")
	health, err = b.controller.ControllerGetVolumeHealth(b.context(), &spec.ControllerGetVolumeHealthRequest{VolumeId: v})
	if err != nil || health.GetVolumeHealth().GetHealthStatuses()[0].GetReason() != "BeingRemoved" {
		t.Errorf("being removed: %v, %v", health, err)
	}
	_, err = b.controller.CreateVolume(b.context(), b.request("v", small, nil))
	wantCode(t, err, codes.Aborted, "being removed")
	b.deleteVolume(v)
	b.wantClean()
}

// TestTwoControllers: both get every call at the same time, and have the same
// clusters but no memory in common.
func TestTwoControllers(t *testing.T) {
	a, b := newBench(t), newBench(t)
	b.prefix = a.prefix
	both := func(what string, call func(*bench) error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			errs := make([]error, 2)
			var group sync.WaitGroup
			for i, c := range []*bench{a, b} {
				group.Go(func() { errs[i] = call(c) })
			}
			group.Wait()
			if errs[0] == nil && errs[1] == nil {
				return
			}
			for _, err := range errs { // orchestrators repeat such calls
				if code := codeOfStatus(err); code != codes.OK && code != codes.Aborted {
					t.Fatalf("%s: %v", what, err)
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, errors.Join(errs...))
			}
		}
	}
	for i := range 3 {
		v, w, s := fmt.Sprint("v", i), fmt.Sprint("w", i), fmt.Sprint(a.prefix, "s", i)
		both("create", func(c *bench) error {
			_, err := c.controller.CreateVolume(c.context(), c.request(v, small, nil))
			return err
		})
		both("clone", func(c *bench) error {
			_, err := c.controller.CreateVolume(c.context(), c.request(w, small, fromVolume(c.id(v))))
			return err
		})
		both("snapshot", func(c *bench) error {
			_, err := c.controller.CreateSnapshot(c.context(), &spec.CreateSnapshotRequest{Name: s, SourceVolumeId: c.id(v)})
			return err
		})
		both("delete the clone", func(c *bench) error { return c.tryDelete(w) })
		both("delete", func(c *bench) error { return c.tryDelete(v) })
		both("delete the snapshot", func(c *bench) error {
			_, err := c.controller.DeleteSnapshot(c.context(), &spec.DeleteSnapshotRequest{SnapshotId: handle{ConfigPath: c.config.ConfigPath, Name: a.prefix + v, Snapshot: s}.String()})
			return err
		})
		a.wantClean()
	}
}

// TestUnreachable: etcd is away, or the program is missing.
func TestUnreachable(t *testing.T) {
	b := newBench(t)
	config := filepath.Join(b.dir, "away.conf")
	b.must(os.WriteFile(config, []byte(`{"etcd_address":"127.0.0.1:1"}`), 0o644))
	r := b.request("v", mib, nil)
	r.Parameters["configPath"] = config
	_, err := b.controller.CreateVolume(b.context(), r)
	wantCode(t, err, codes.Unavailable, "creating volume", "127.0.0.1:1")
	b.driver.controller.images.program = "/nowhere/vitastor-cli"
	_, err = b.controller.CreateVolume(b.context(), b.request("v", mib, nil))
	wantCode(t, err, codes.Internal, "is it installed")
	probe, err := b.identity.Probe(b.context(), &spec.ProbeRequest{})
	if err != nil || !probe.GetReady().GetValue() {
		t.Errorf("%v, %v", probe, err)
	}
}

// TestEmptyRequests: every call with nothing in its request, and with a capability
// that has nothing in it, is answered with an error that says what is missing,
// or with success. The reference's driver dies of some.
func TestEmptyRequests(t *testing.T) {
	b := newBench(t)
	halves := []*spec.VolumeCapability{nil, {}, {AccessMode: &spec.VolumeCapability_AccessMode{}}, {AccessType: &spec.VolumeCapability_Mount{}},
		{AccessType: &spec.VolumeCapability_Block{}}, {AccessType: &spec.VolumeCapability_Mount{}, AccessMode: &spec.VolumeCapability_AccessMode{Mode: singleNodeWriter}}}
	ids := []string{"", "x", "{}", "null", `{"name":5}`, `{"name":"a@b"}`, `{"name":"x","vitastorfs":"fs","pool":"p"}`, `{"name":"x","pool":5}`, b.id("nono"), b.snapshotID("nono")}
	services := []protoreflect.FileDescriptor{spec.File_csi_proto}
	calls := 0
	for _, file := range services {
		for s := range file.Services().Len() {
			service := file.Services().Get(s)
			if name := service.Name(); name != "Controller" && name != "Node" && name != "Identity" {
				continue
			}
			for m := range service.Methods().Len() {
				method := service.Methods().Get(m)
				for i, id := range ids {
					for _, half := range halves {
						calls++
						b.invoke(method, id, fmt.Sprint(b.dir, "/none", i), half)
					}
				}
			}
		}
	}
	if strings.Contains(b.log.String(), "panic") {
		t.Error("a panic")
	}
	t.Logf("%d calls", calls)
	b.wantClean()
}
