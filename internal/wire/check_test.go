package wire

import (
	"errors"
	"fmt"
	"math"
	"syscall"
	"testing"

	"vitastor/internal/meta"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

func TestRwCheck(t *testing.T) {
	for _, c := range []struct {
		offset uint64
		len    uint32
		want   Retval
	}{
		{0, 0, OK}, {4096, 4096, OK}, {0, MaxIOBytes, OK}, {1<<64 - 4096, 4096, OK},
		{1, 4096, EINVAL}, {4096, 1, EINVAL}, {512, 512, EINVAL}, {0, MaxIOBytes + 4096, EINVAL}, {0, 1<<32 - 4096, EINVAL},
	} {
		for _, op := range []Op{OpRead, OpWrite, OpDelete, OpScrub} {
			r := Rw{Op: op, Offset: c.offset, Len: c.len}
			if got := r.Check(4096); got != c.want {
				t.Errorf("%v %x+%x: %v, want %v", op, c.offset, c.len, got, c.want)
			}
		}
	}
}

func TestRwCheckObject(t *testing.T) {
	const ec3 = 3 * 128 * kib // not a power of two
	for _, c := range []struct {
		offset, object uint64
		len            uint32
		want           Retval
	}{
		{0, 128 * kib, 128 * kib, OK}, {124 * kib, 128 * kib, 4096, OK}, {128 * kib, 128 * kib, 0, OK},
		{124 * kib, 128 * kib, 8192, EINVAL}, {0, 128 * kib, 128*kib + 4096, EINVAL},
		{ec3, ec3, ec3, OK}, {5*ec3 - 4096, ec3, 4096, OK}, {5*ec3 - 4096, ec3, 8192, EINVAL},
		{1<<64 - 4096, 128 * kib, 4096, OK}, {1<<64 - 4096, 128 * kib, 8192, EINVAL},
	} {
		r := Rw{Offset: c.offset, Len: c.len}
		if got := r.CheckObject(c.object); got != c.want {
			t.Errorf("%x+%x in objects of %x: %v, want %v", c.offset, c.len, c.object, got, c.want)
		}
	}
}

func TestSecRwCheck(t *testing.T) {
	for _, c := range []struct {
		offset, len, attr uint32
		read, write       Retval
	}{
		{0, 0, 4, OK, OK}, {0, 128 * kib, 4, OK, OK}, {124 * kib, 4096, 0, OK, OK},
		{4096, 4096, 3, OK, EINVAL}, {0, 0, 5, OK, EINVAL}, {0, 0, 1<<32 - 1, OK, EINVAL},
		{512, 4096, 4, EINVAL, EINVAL}, {0, 512, 4, EINVAL, EINVAL},
		{128 * kib, 0, 4, EINVAL, EINVAL}, {124 * kib, 8192, 4, EINVAL, EINVAL},
		{0, 132 * kib, 4, EINVAL, EINVAL}, {1<<32 - 4096, 4096, 4, EINVAL, EINVAL},
		{4096, 1<<32 - 4096, 4, EINVAL, EINVAL},
	} {
		for op, want := range map[Op]Retval{OpSecRead: c.read, OpSecWrite: c.write, OpSecWriteStable: c.write} {
			r := SecRw{Op: op, Offset: c.offset, Len: c.len, AttrLen: c.attr}
			if got := r.Check(128*kib, 4096); got != want {
				t.Errorf("%v %x+%x, %d bytes of bitmap: %v, want %v", op, c.offset, c.len, c.attr, got, want)
			}
		}
	}
	// The 64 MiB limit holds below the block size too.
	r := SecRw{Op: OpSecRead, Len: MaxIOBytes + 4096}
	if got := r.Check(128*mib, 4096); got != EINVAL {
		t.Errorf("more than 64 MiB: %v", got)
	}
	r.Len = MaxIOBytes
	if got := r.Check(128*mib, 4096); got != OK {
		t.Errorf("64 MiB: %v", got)
	}
}

func TestSecListCheck(t *testing.T) {
	good := PeeringList(meta.PG{Pool: 2, Num: 16}, 16, 4096)
	for name, c := range map[string]struct {
		change func(*SecList)
		want   Retval
	}{
		"good":            {func(*SecList) {}, OK},
		"min > max":       {func(l *SecList) { l.Min, l.Max = l.Max, l.Min }, OK},
		"zero":            {func(l *SecList) { *l = SecList{} }, EINVAL},
		"no pool":         {func(l *SecList) { l.Min.Inode, l.Max.Inode = 1, 1 }, EINVAL},
		"two pools":       {func(l *SecList) { l.Max.Inode++ }, EINVAL},
		"PG 0":            {func(l *SecList) { l.PG = 0 }, EINVAL},
		"PG 17 of 16":     {func(l *SecList) { l.PG = 17 }, EINVAL},
		"no PGs":          {func(l *SecList) { l.PG, l.PGCount = 0, 0 }, EINVAL},
		"short PG stripe": {func(l *SecList) { l.PGStripeBytes = 4095 }, EINVAL},
	} {
		l := good
		if c.change(&l); l.Check() != c.want {
			t.Errorf("%s: %v, want %v", name, l.Check(), c.want)
		}
	}
}

func TestSecListCheckPrimary(t *testing.T) {
	inode := meta.MakeInode(2, 7)
	good := SecList{PG: 3, Min: chunkID(inode, 0), Max: chunkID(inode, 1<<64-1), Flags: ListPrimary}
	for name, c := range map[string]struct {
		change  func(*SecList)
		pgCount uint32 // of the pool; its PG stripe is 4096
		want    Retval
	}{
		"good":             {func(*SecList) {}, 16, OK},
		"same count":       {func(l *SecList) { l.PGCount = 16 }, 16, OK},
		"same stripe":      {func(l *SecList) { l.PGStripeBytes = 4096 }, 16, OK},
		"unknown pool":     {func(*SecList) {}, 0, EINVAL},
		"PG 0":             {func(l *SecList) { l.PG = 0 }, 16, EINVAL},
		"two inodes":       {func(l *SecList) { l.Max.Inode++ }, 16, EINVAL},
		"no pool":          {func(l *SecList) { l.Min.Inode, l.Max.Inode = 7, 7 }, 16, EINVAL},
		"with a limit":     {func(l *SecList) { l.StableLimit = 1 }, 16, EINVAL},
		"another count":    {func(l *SecList) { l.PGCount = 15 }, 16, EINVAL},
		"another stripe":   {func(l *SecList) { l.PGStripeBytes = 8192 }, 16, EINVAL},
		"PG not ours (32)": {func(l *SecList) { l.PG = 32 }, 16, OK},
	} {
		l := good
		if c.change(&l); l.CheckPrimary(c.pgCount, 4096) != c.want {
			t.Errorf("%s: %v, want %v", name, l.CheckPrimary(c.pgCount, 4096), c.want)
		}
	}
}

func TestSecLockCheck(t *testing.T) {
	for _, c := range []struct {
		lock  SecLock
		owner meta.OSDNum
		want  Retval
	}{
		{SecLock{Flags: LockAcquire, Pool: 1, PG: 1}, 1, OK},
		{SecLock{Flags: LockRelease, Pool: 65535, PG: 1<<32 - 1}, 1, OK},
		{SecLock{Flags: LockAcquire, Pool: 65536, PG: 1}, 1, OK},
		{SecLock{Flags: LockAcquire, Pool: 0, PG: 1}, 1, OK}, // ENOENT later
		{SecLock{Flags: LockAcquire, Pool: 1, PG: 1}, 0, EINVAL},
		{SecLock{Flags: 0, Pool: 1, PG: 1}, 1, EINVAL},
		{SecLock{Flags: 3, Pool: 1, PG: 1}, 1, EINVAL},
		{SecLock{Flags: LockAcquire, Pool: 65537, PG: 1}, 1, EINVAL},
		{SecLock{Flags: LockAcquire, Pool: 1, PG: 0}, 1, EINVAL},
		{SecLock{Flags: LockAcquire, Pool: 1, PG: 1 << 32}, 1, EINVAL},
	} {
		if got := c.lock.Check(c.owner); got != c.want {
			t.Errorf("%+v of %d: %v, want %v", c.lock, c.owner, got, c.want)
		}
	}
}

func TestDescribeBounds(t *testing.T) {
	for _, c := range []struct{ limit, want uint64 }{
		{0, 1048576}, {1, 1}, {1048576, 1048576}, {1048577, 1048576}, {1<<64 - 1, 1048576},
	} {
		if got := (&Describe{Limit: c.limit}).MaxItems(); got != c.want {
			t.Errorf("limit %d: %d", c.limit, got)
		}
	}
	if (&Describe{}).UpTo() != meta.MaxObjectID {
		t.Error("max 0/0 is a bound")
	}
	if last := chunkID(0, 1); (&Describe{Max: last}).UpTo() != last {
		t.Error("max 0/1 is not a bound")
	}
}

func TestRetval(t *testing.T) {
	for r, name := range map[Retval]string{
		0: "0", 4096: "4096", -2: "ENOENT", -4: "EINTR", -5: "EIO", -11: "EAGAIN", -16: "EBUSY", -17: "EEXIST",
		-22: "EINVAL", -28: "ENOSPC", -30: "EROFS", -32: "EPIPE", -33: "EDOM", -34: "ERANGE", -110: "ETIMEDOUT",
		-95: "errno 95", -4095: "errno 4095", -4096: "-4096", math.MinInt64: "-9223372036854775808",
	} {
		if r.String() != name {
			t.Errorf("%d is called %s", int64(r), r)
		}
		if r.Failed() != (r < 0) || (r.Err() != nil) != (r < 0) {
			t.Errorf("%v: failed %v, error %v", r, r.Failed(), r.Err())
		}
		if r < 0 && r >= -maxErrno && (RetvalOf(r.Err()) != r || r.Errno() != syscall.Errno(-r)) {
			t.Errorf("%v: error %v comes back as %v", r, r.Err(), RetvalOf(r.Err()))
		}
	}
	// The numbers are those of this system's errors, which is a Linux.
	for r, errno := range map[Retval]syscall.Errno{EPIPE: syscall.EPIPE, EDOM: syscall.EDOM, EROFS: syscall.EROFS,
		EAGAIN: syscall.EAGAIN, ETIMEDOUT: syscall.ETIMEDOUT, math.MinInt64: syscall.EIO, -4096: syscall.EIO} {
		if !errors.Is(r.Err(), errno) {
			t.Errorf("%v is not %v", r, errno)
		}
	}
	for err, want := range map[error]Retval{
		nil:                                     OK,
		syscall.ENOSPC:                          ENOSPC,
		fmt.Errorf("write: %w", syscall.ENOSPC): ENOSPC,
		errors.New("no number"):                 EIO,
		syscall.Errno(0):                        EIO,
		syscall.Errno(1 << 40):                  EIO,
	} {
		if got := RetvalOf(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

func TestOps(t *testing.T) {
	// The order of keys in op_stats: etcd.md.
	stats := []string{"", "read", "write", "write_stable", "sync", "stabilize", "rollback", "delete", "sync_stab_all",
		"list", "show_config", "primary_read", "primary_write", "primary_sync", "primary_delete", "ping",
		"sec_read_bmp", "scrub", "describe", "sec_lock", ""}
	readonly := map[string]bool{"SEC_READ": true, "SEC_LOCK": true, "SEC_LIST": true, "READ": true, "SEC_READ_BMP": true,
		"SCRUB": true, "DESCRIBE": true, "SHOW_CONFIG": true, "PING": true}
	seen := map[string]bool{}
	for op := Op(0); int(op) < len(stats); op++ {
		if op.StatName() != stats[op] || op.Valid() != (stats[op] != "") {
			t.Errorf("%d: statistic %q, want %q", op, op.StatName(), stats[op])
		}
		if op.AllowedReadonly() != readonly[op.String()] {
			t.Errorf("%v: allowed %v", op, op.AllowedReadonly())
		}
		if op.Valid() && (seen[op.String()] || op.String() == "") {
			t.Errorf("%d has no name of its own", op)
		}
		seen[op.String()] = true
	}
	if Op(20).String() != "opcode 20" || Op(1<<63|1).AllowedReadonly() || OpSecWriteStable.String() != "SEC_WRITE_STABLE" {
		t.Error("names")
	}
}

func TestPacketString(t *testing.T) {
	var p Packet
	if got, want := p.String(), "packet with unknown magic 0000000000000000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	(&Rw{ID: 5, Op: OpWrite, Inode: meta.MakeInode(1, 5), Len: 4096}).Encode(&p)
	want := "WRITE request &{ID:5 Op:WRITE Inode:1/5 Offset:0 Len:4096 Flags:0 MetaRevision:0 Version:0.0}"
	if got := p.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	(&SecLockReply{ID: 5, Retval: EBUSY, CurPrimary: 3}).Encode(&p)
	if got, want := p.String(), "SEC_LOCK reply &{ID:5 Retval:EBUSY CurPrimary:3}"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if p.SetID(6); p.ID() != 6 || p.Kind().String() != "reply" || KindUnknown.String() != "unknown packet" {
		t.Error("header")
	}
}

func TestMessageTypes(t *testing.T) {
	structs := map[Op][2]string{
		OpSecRead: {"SecRw", "SecRwReply"}, OpSecWrite: {"SecRw", "SecRwReply"}, OpSecWriteStable: {"SecRw", "SecRwReply"},
		OpSecSync: {"SecSync", "StatusReply"}, OpSecStabilize: {"SecStab", "StatusReply"},
		OpSecRollback: {"SecStab", "StatusReply"}, OpSecDelete: {"SecDel", "SecDelReply"},
		OpTestSyncStab: {"HeaderOnly", "StatusReply"}, OpSecList: {"SecList", "SecListReply"},
		OpShowConfig: {"ShowConfig", "StatusReply"}, OpRead: {"Rw", "RwReply"}, OpWrite: {"Rw", "RwReply"},
		OpSync: {"HeaderOnly", "StatusReply"}, OpDelete: {"Rw", "DeleteReply"}, OpPing: {"HeaderOnly", "StatusReply"},
		OpSecReadBmp: {"SecReadBmp", "StatusReply"}, OpScrub: {"Rw", "RwReply"},
		OpDescribe: {"Describe", "DescribeReply"}, OpSecLock: {"SecLock", "SecLockReply"},
		0: {"HeaderOnly", "StatusReply"}, MaxOp + 1: {"HeaderOnly", "StatusReply"},
	}
	for op := Op(0); op <= MaxOp+1; op++ {
		var p Packet
		(&HeaderOnly{Op: op}).Encode(&p)
		if got := fmt.Sprintf("%T", p.Message()); got != "*wire."+structs[op][0] {
			t.Errorf("request of %v is %s", op, got)
		}
		(&StatusReply{Op: op}).Encode(&p)
		if got := fmt.Sprintf("%T", p.Message()); got != "*wire."+structs[op][1] {
			t.Errorf("reply of %v is %s", op, got)
		}
	}
}
