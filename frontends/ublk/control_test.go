package ublk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/blockdev/session"
	"vitastor/frontends/ublk/ublkproto"
)

func TestDeviceNumber(t *testing.T) {
	for text, want := range map[string]uint32{"/dev/ublkb12": 12, "/dev/ublkc3": 3, "7": 7, "ublkb0": 0} {
		if n, err := deviceNumber(text); n != want || err != nil {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "/dev/nbd0", "-1", "/dev/ublkb", "4294967295", "1x"} {
		if n, err := deviceNumber(text); err == nil {
			t.Errorf("%s: %d", text, n)
		}
	}
}

func TestShape(t *testing.T) {
	for _, c := range []struct {
		s    shape
		good bool
	}{
		{shape{queues: 1, depth: 256}, true},
		{shape{queues: 8, depth: 4096, requestBytes: 4096}, true},
		{shape{queues: 9, depth: 4096}, false},
		{shape{queues: 0, depth: 1}, false},
		{shape{queues: 1, depth: 0}, false},
		{shape{queues: 1, depth: 4097}, false},
		{shape{queues: 1, depth: 1, requestBytes: 2048}, false},
		{shape{queues: 1, depth: 1, requestBytes: 64 << 20}, false},
		{shape{queues: 1, depth: 1, requestBytes: 96 << 10}, false},
		{shape{queues: 1, depth: 1, requestBytes: 32 << 20}, true},
	} {
		if err := c.s.check(); (err == nil) != c.good {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
}

func TestParams(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	cached := ublkproto.VolatileCache | ublkproto.FUA
	for _, c := range []struct {
		name string
		s    shape
		d    blockdev.Info
		want ublkproto.Params
	}{
		{"immediate commit", shape{}, blockdev.Info{SizeBytes: m, GranuleBytes: 4096, ObjectBytes: 128 * k},
			ublkproto.Params{LogicalShift: 12, PhysicalShift: 12, MinimalShift: 12, OptimalShift: 17, DiscardGranularity: 128 * k}},
		{"disks with caches", shape{rotational: true}, blockdev.Info{SizeBytes: m, GranuleBytes: 4096, ObjectBytes: 128 * k, WriteCache: true},
			ublkproto.Params{LogicalShift: 12, PhysicalShift: 12, MinimalShift: 12, OptimalShift: 17, DiscardGranularity: 128 * k,
				Attributes: cached | ublkproto.Rotational}},
		{"write-back, three data chunks", shape{writeBack: true}, blockdev.Info{SizeBytes: m, GranuleBytes: 4096, ObjectBytes: 3 * 128 * k},
			ublkproto.Params{LogicalShift: 12, PhysicalShift: 12, MinimalShift: 12, OptimalShift: 17, DiscardGranularity: 128 * k, Attributes: cached}},
		{"odd size", shape{}, blockdev.Info{SizeBytes: m + 1000, GranuleBytes: 4096, ObjectBytes: 128 * k},
			ublkproto.Params{LogicalShift: 9, PhysicalShift: 12, MinimalShift: 12, OptimalShift: 17, DiscardGranularity: 128 * k, Sectors: m/512 + 1}},
		{"small granules, read-only", shape{readOnly: true}, blockdev.Info{SizeBytes: m, GranuleBytes: 512, ObjectBytes: 4 * m},
			ublkproto.Params{LogicalShift: 9, PhysicalShift: 9, MinimalShift: 9, OptimalShift: 22, Attributes: ublkproto.ReadOnly}},
		{"large granules", shape{}, blockdev.Info{SizeBytes: m, GranuleBytes: 32 * k, ObjectBytes: 4 * m},
			ublkproto.Params{LogicalShift: 12, PhysicalShift: 15, MinimalShift: 15, OptimalShift: 22, DiscardGranularity: 4 * m}},
	} {
		c.want.MaxSectors = m / 512
		if c.want.Sectors == 0 {
			c.want.Sectors = m / 512
		}
		if c.want.DiscardGranularity != 0 {
			c.want.MaxDiscardSectors, c.want.MaxZeroesSectors = discardBytes/512, zeroesBytes/512
		}
		if got := c.s.params(c.d, &ublkproto.DevInfo{RequestBytes: m}); got != c.want {
			t.Errorf("%s:\n%+v\n%+v", c.name, got, c.want)
		}
	}
}

func TestInfo(t *testing.T) {
	all := ublkproto.UserRecovery | ublkproto.UserRecoveryReissue | ublkproto.SizeUpdates | ublkproto.SafeStop
	s := shape{queues: 2, depth: 64}
	i := s.info(blockdev.Info{ObjectBytes: 128 << 10}, 5, all)
	want := ublkproto.DevInfo{Queues: 2, Depth: 64, RequestBytes: 1 << 20, Device: ublkproto.NewDevice, Mark: 5, Flags: all &^ ublkproto.SafeStop}
	if i != want {
		t.Errorf("%+v", i)
	}
	if i = s.info(blockdev.Info{ObjectBytes: 3 << 20}, 5, ublkproto.UserRecovery); i.RequestBytes != 4<<20 || i.Flags != ublkproto.UserRecovery {
		t.Errorf("%+v", i)
	}
	s.writeBack = true
	if i = s.info(blockdev.Info{}, 5, all); i.Flags != ublkproto.SizeUpdates {
		t.Errorf("a device that would lose writes can be recovered: %+v", i)
	}
	a, b := session.Target{Image: "a"}, session.Target{Image: "b"}
	if markOf(a) == markOf(b) || markOf(a) == 0 {
		t.Error("marks")
	}
}

// TestControl: what is asked of kernels of all ages.
func TestControl(t *testing.T) {
	k := newFakeKernel(t)
	c, err := newControl(k)
	if err != nil || c.legacy || c.features != k.features {
		t.Fatalf("%+v, %v", c, err)
	}
	i, err := c.add(ublkproto.DevInfo{Queues: 1, Depth: 4, RequestBytes: 4096, Device: 3})
	if err != nil || i.Device != 3 || i.State != ublkproto.Dead || i.Flags != ublkproto.IoctlEncode {
		t.Fatalf("%+v, %v", i, err)
	}
	if got, err := c.info(3); got != i || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.node(3); err != nil {
		t.Error(err)
	}
	p := ublkproto.Params{LogicalShift: 9, PhysicalShift: 12, MaxSectors: 8, Sectors: 100}
	if err := c.setParams(&i, p); err != nil {
		t.Error(err)
	}
	if got, err := c.params(&i); got != p || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.remove(&i, true); err != nil || len(k.devices) != 0 {
		t.Error(err)
	}
	// Without privileges: the device's path is in every command.
	k.user = true
	if _, err = c.add(ublkproto.DevInfo{Queues: 1, Depth: 4, RequestBytes: 4096, Device: ublkproto.NewDevice}); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	i, err = c.add(ublkproto.DevInfo{Queues: 1, Depth: 4, RequestBytes: 4096, Device: ublkproto.NewDevice, Flags: ublkproto.Unprivileged})
	if err != nil || c.setParams(&i, p) != nil || c.remove(&i, false) != nil {
		t.Errorf("%+v, %v", i, err)
	}
	// Linux 6.1.
	k.user, k.features = false, 0
	if c, err = newControl(k); err != nil || !c.legacy || c.features&ublkproto.UserRecovery == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	if i, err = c.add(ublkproto.DevInfo{Queues: 1, Depth: 4, RequestBytes: 4096}); err != nil {
		t.Fatal(err)
	}
	if _, err = c.info(0); err != nil {
		t.Error(err)
	}
	if err := c.remove(&i, false); err != nil || len(k.devices) != 0 {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		command ublkproto.Control
		device  uint32
		err     error
		want    string
	}{
		{ublkproto.StopDev, 3, syscall.ENODEV, "/dev/ublkb3 does not exist"},
		{ublkproto.AddDev, 3, syscall.EEXIST, "/dev/ublkb3 exists already"},
		{ublkproto.AddDev, ublkproto.NewDevice, syscall.EPERM, "a ublk device: ADD_DEV: operation not permitted: run as root"},
		{ublkproto.AddDev, 3, syscall.EINVAL, "refuses these parameters"},
		{ublkproto.AddDev, 3, syscall.ENOSPC, "too many devices"},
		{ublkproto.StartUserRecovery, 3, syscall.EINVAL, "cannot be recovered"},
		{ublkproto.StartUserRecovery, 3, syscall.EBUSY, "still has a server"},
		{ublkproto.UpdateSize, 3, syscall.EOPNOTSUPP, "too old"},
		{ublkproto.GetFeatures, 0, &os.PathError{Op: "open", Path: controlPath, Err: syscall.EACCES}, "open /dev/ublk-control: permission denied"},
		{ublkproto.StartDev, 3, syscall.EIO, "START_DEV: input/output error"},
	} {
		err := explain(c.command, c.device, c.err)
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.err) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if explain(ublkproto.StopDev, 3, nil) != nil {
		t.Error("success is an error")
	}
}

// TestHostWithoutDriver runs against the kernel of this host.
func TestHostWithoutDriver(t *testing.T) {
	h := Host{}
	if _, err := os.Stat(controlPath); err == nil {
		t.Skip("this host has the driver: it is not to be touched by tests")
	}
	if _, err := newControl(h); err == nil || !strings.Contains(err.Error(), "modprobe ublk_drv") {
		t.Error(err)
	}
	if len(h.Devices()) != 0 {
		t.Error(h.Devices())
	}
	if err := h.Usable(0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := h.Open(ublkproto.DevInfo{}, false); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := h.LookAt(0, lookAfter); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got := h.CommandLine(os.Getpid()); fmt.Sprint(got) != fmt.Sprint(os.Args) {
		t.Errorf("%q", got)
	}
	if h.CommandLine(0) != nil || !h.Alive(os.Getpid()) {
		t.Error("processes")
	}
}
