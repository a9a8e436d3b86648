package csi

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"
)

var quietLog = slog.New(slog.DiscardHandler)

// TestHandles are those of the reference, and ours, which are the same.
func TestHandles(t *testing.T) {
	for text, want := range map[string]handle{
		`{"configPath":"/etc/vitastor/vitastor.conf","name":"pvc-1"}`:                             {ConfigPath: "/etc/vitastor/vitastor.conf", Name: "pvc-1"},
		`{"configPath":"/c","name":"p","snapshot":"s"}`:                                           {ConfigPath: "/c", Name: "p", Snapshot: "s"},
		`{"configPath":"/c","name":"p","pool":"fs","vitastorfs":"meta"}`:                          {ConfigPath: "/c", Name: "p", Pool: "fs", VitastorFS: "meta"},
		`{"configPath":"/c","etcdPrefix":"/vitastor","etcdUrl":["http://a"],"name":"p","pool":5}`: {ConfigPath: "/c", Name: "p", Pool: 5.0},
		`{"name":"p"}`: {ConfigPath: "/default", Name: "p"},
	} {
		h, err := parseHandle(text, "/default")
		if err != nil || h != want {
			t.Errorf("%s: %+v, %v", text, h, err)
		}
		if !strings.Contains(text, "etcd") && strings.Contains(text, "configPath") && h.String() != text {
			t.Errorf("%s is written as %s", text, h)
		}
	}
	for _, text := range []string{"", "x", "5", "null", "[]", `{"name":""}`, `{"name":"a@b"}`, `{"name":"a","snapshot":"@"}`} {
		if h, err := parseHandle(text, "/default"); err == nil {
			t.Errorf("%s: %+v", text, h)
		}
	}
}

func FuzzHandle(f *testing.F) {
	f.Add(`{"configPath":"/c","name":"p","pool":"fs","vitastorfs":"meta"}`)
	f.Add(`{"configPath":"/c","name":"p","snapshot":"s"}`)
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHandle(text, "/default")
		if err != nil {
			return
		}
		again, err := parseHandle(h.String(), "/default")
		if err != nil || again.key() != h.key() || again.image() != h.image() || again.VitastorFS != h.VitastorFS {
			t.Errorf("%+v, %+v, %v", h, again, err)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(tokenOf(handle{ConfigPath: "/c", Name: "b"}))
	f.Add("after:")
	items := []item{{at: handleOf("/c", "a")}, {at: handleOf("/c", "b")}, {at: handleOf("/c", "b@s")}, {at: handleOf("/d", "a")}}
	f.Fuzz(func(t *testing.T, token string) {
		if got, _, err := page(items, token, 0); err == nil && token != "" && len(got) > len(items) {
			t.Error(got)
		}
	})
}

func FuzzMounts(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("1 2 3 4 5 6 - 7 8")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range parseMounts(text) {
			if m.target == "" && !strings.Contains(text, "  ") {
				t.Errorf("%+v", m)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"configPath":"/c","vdpaId":"v","image":"i","blockdev":"/dev/vda","readonly":false,"pidFile":"/p"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseState(text); err == nil && (s.Image == "" || s.BlockDev == "") {
			t.Errorf("%+v", s)
		}
	})
}

func TestMounts(t *testing.T) {
	list := parseMounts("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/r\\134oot rw\nbroken\n37 35 0:5 /vda /x ro - devtmpfs udev rw\n")
	if len(list) != 2 || list[0].target != "/mnt 2" || list[0].source != `/dev/r\oot` || list[0].device != "98:0" || list[0].readOnly() || !list[1].readOnly() || list[1].root != "/vda" {
		t.Errorf("%+v", list)
	}
	if got := numberText(syscallMakedev(259, 1048575)); got != "259:1048575" {
		t.Error(got)
	}
}

// syscallMakedev is how Linux packs device numbers.
func syscallMakedev(major, minor uint64) uint64 {
	return major&0xfff<<8 | major&^0xfff<<32 | minor&0xff | minor&^0xff<<12
}

// TestSizeChoice: sizes are what was asked for, or refused.
func TestSizeChoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &spec.CapacityRange{RequiredBytes: rapid.Int64Range(0, 1<<40).Draw(t, "required"), LimitBytes: rapid.Int64Range(0, 1<<40).Draw(t, "limit")}
		s, err := sizesOf(r)
		if err != nil {
			if r.LimitBytes >= r.RequiredBytes || r.LimitBytes == 0 {
				t.Fatal(err)
			}
			return
		}
		size, err := s.choose(sizeDefault)
		possible := r.LimitBytes == 0 || (r.LimitBytes/sizeAlign)*sizeAlign >= max(r.RequiredBytes, 1)
		if (err == nil) != possible {
			t.Fatalf("%v: %d, %v", r, size, err)
		}
		if err == nil && (!s.allow(size) || size%sizeAlign != 0 || size == 0) {
			t.Fatalf("%v: %d", r, size)
		}
	})
	for text, c := range map[int64]codes.Code{-1: codes.InvalidArgument, 1<<63 - 1: codes.OutOfRange} {
		_, err := sizesOf(&spec.CapacityRange{RequiredBytes: text})
		wantCode(t, err, c)
	}
	if size, err := (sizes{}).choose(5); size != sizeUnit || err != nil {
		t.Error(size, err)
	}
}

// TestErrorCodes: exit statuses of vitastor-cli become codes.
func TestErrorCodes(t *testing.T) {
	for errno, want := range map[syscall.Errno]codes.Code{1: codes.Unavailable, syscall.EINVAL: codes.InvalidArgument, syscall.ENOENT: codes.NotFound,
		syscall.EEXIST: codes.AlreadyExists, syscall.EAGAIN: codes.Aborted, syscall.ENOSPC: codes.ResourceExhausted, syscall.EIO: codes.Internal} {
		wantCode(t, statusOf(&cliError{errno, "said so"}, "doing %s", "it"), want, "doing it: said so")
	}
	wantCode(t, statusOf(context.DeadlineExceeded, "x"), codes.DeadlineExceeded)
	wantCode(t, statusOf(notFound("x"), "y"), codes.NotFound)
	if statusOf(nil, "x") != nil {
		t.Error("an error of nothing")
	}
}

// TestExec: programs, their exit codes, and how they are interrupted.
func TestExec(t *testing.T) {
	e := Exec{quietLog}
	r, err := e.Run(context.Background(), Command{"sh", []string{"-c", "echo out; echo err >&2; exit 7"}})
	if err != nil || r != (Result{"out\n", "err\n", 7}) {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = e.Run(context.Background(), Command{"sh", []string{"-c", "kill -9 $$"}})
	if err != nil || r.Code != 137 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err = e.Run(context.Background(), Command{"no-such-program", nil}); err == nil || !strings.Contains(err.Error(), "is it installed") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err = e.Run(ctx, Command{"sleep", []string{"60"}}); err == nil || ctx.Err() == nil {
		t.Error(err)
	}
}

// TestStateFiles: ours, the reference's, and those that are neither.
func TestStateFiles(t *testing.T) {
	s := states{t.TempDir(), quietLog}
	for name, text := range map[string]string{
		"vitastor-vduse-5f3a.json": `{"configPath":"/c","vdpaId":"vitastor-vduse-5f3a","image":"a","blockdev":"/dev/vda","readonly":false,"pidFile":"/run/vitastor-csi/vitastor-vduse-5f3a.pid"}`,
		"vitastor-ublk-3.json":     `{"configPath":"/c","image":"b","blockdev":"/dev/ublkb3","readonly":true,"pidFile":"/p"}`,
		"vitastor-nfs-00.json":     `{"configPath":"/c","fsName":"fs","pool":"p","path":"/x","port":1}`,
		"vitastor-ublk-4.json":     `{`,
		"vitastor-ublk-5.json":     `{"image":"x"}`,
		"other.json":               `{}`,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mine := Attachment{Method: "nbd", Device: "/dev/nbd7", ConfigPath: "/c", Image: "d"}
	id := Attachment{Method: "vduse", Device: "/dev/vdb", ConfigPath: "/c", Image: "e", ID: deviceID("/c", "e")}
	for range 2 {
		if err := s.save(&mine); err != nil {
			t.Fatal(err)
		}
		if err := s.save(&id); err != nil {
			t.Fatal(err)
		}
	}
	want := []Attachment{mine, {Method: "ublk", Device: "/dev/ublkb3", ConfigPath: "/c", Image: "b", ReadOnly: true, PIDFile: "/p"},
		{Method: "vduse", Device: "/dev/vda", ConfigPath: "/c", Image: "a", ID: "vitastor-vduse-5f3a", PIDFile: "/run/vitastor-csi/vitastor-vduse-5f3a.pid"}, id}
	got := s.load()
	slices.SortFunc(got, func(a, b Attachment) int { return strings.Compare(a.Device, b.Device) })
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	for _, a := range got {
		other := a
		other.Image = "another"
		if err := s.forget(&other); err != nil {
			t.Error(err)
		}
		if err := s.forget(&a); err != nil {
			t.Error(err)
		}
	}
	left, _ := os.ReadDir(s.dir)
	if len(s.load()) != 0 || len(left) != 4 {
		t.Errorf("left: %v", left)
	}
}

// TestCommandLine reads flags and variables of the reference's driver, and ours.
func TestCommandLine(t *testing.T) {
	parse := func(env map[string]string, args ...string) (Config, error) {
		tool := Tool{Out: io.Discard, Err: io.Discard, Env: func(name string) string { return env[name] }}
		c, _, err := tool.parse(args)
		return c, err
	}
	c, err := parse(map[string]string{"CSI_ENDPOINT": "unix:///x", "NODE_ID": "n", "STATE_DIR": "/s", "RESTART_INTERVAL": "0"})
	if err != nil || c.Endpoint != "unix:///x" || c.Node != "n" || c.StateDir != "/s" || c.RestoreInterval != 0 || c.ConfigPath != defaultConfigPath {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = parse(map[string]string{"RESTART_INTERVAL": "5"}, "-endpoint", "tcp://a:1", "-node", "m", "--attach=ublk", "--config_path", "/c", "--max_volumes", "9", "--drivername", "d")
	if err != nil || c.Endpoint != "tcp://a:1" || c.Node != "m" || c.Method != "ublk" || c.ConfigPath != "/c" || c.MaxVolumes != 9 || c.Driver != "d" || c.RestoreInterval != 5*time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = parse(nil); err != nil || c.Node == "" || c.RestoreInterval != defaultRestoreInterval || c.StateDir != defaultStateDir {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"--attach", "iscsi"}, {"more"}, {"--nono"}, {"--max_volumes", "-1"}} {
		if _, err := parse(nil, args...); err == nil {
			t.Errorf("%v", args)
		}
	}
	if _, err := parse(map[string]string{"RESTART_INTERVAL": "often"}); err == nil {
		t.Error("RESTART_INTERVAL")
	}
}
