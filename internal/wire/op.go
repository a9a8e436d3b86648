package wire

import "fmt"

// Op is an opcode. Its String is the name used in logs ("SEC_READ"), StatName
// the one used for statistics in etcd ("read").
type Op uint64

// Opcodes (§3) and the structs of their requests and replies.
const (
	OpSecRead        Op = 1  // SecRw -> SecRwReply
	OpSecWrite       Op = 2  // SecRw -> SecRwReply
	OpSecWriteStable Op = 3  // SecRw -> SecRwReply
	OpSecSync        Op = 4  // SecSync -> StatusReply
	OpSecStabilize   Op = 5  // SecStab -> StatusReply
	OpSecRollback    Op = 6  // SecStab -> StatusReply
	OpSecDelete      Op = 7  // SecDel -> SecDelReply
	OpTestSyncStab   Op = 8  // HeaderOnly -> StatusReply, always EINVAL
	OpSecList        Op = 9  // SecList -> SecListReply
	OpShowConfig     Op = 10 // ShowConfig -> StatusReply
	OpRead           Op = 11 // Rw -> RwReply
	OpWrite          Op = 12 // Rw -> RwReply
	OpSync           Op = 13 // HeaderOnly -> StatusReply
	OpDelete         Op = 14 // Rw -> DeleteReply
	OpPing           Op = 15 // HeaderOnly -> StatusReply
	OpSecReadBmp     Op = 16 // SecReadBmp -> StatusReply
	OpScrub          Op = 17 // Rw -> RwReply
	OpDescribe       Op = 18 // Describe -> DescribeReply
	OpSecLock        Op = 19 // SecLock -> SecLockReply
)

// MaxOp is the largest opcode; 1..MaxOp all exist. Statistics are arrays of
// MaxOp+1 elements indexed by Op.
const MaxOp = OpSecLock

var opNames = [MaxOp + 1]struct{ name, stat string }{
	OpSecRead:        {"SEC_READ", "read"},
	OpSecWrite:       {"SEC_WRITE", "write"},
	OpSecWriteStable: {"SEC_WRITE_STABLE", "write_stable"},
	OpSecSync:        {"SEC_SYNC", "sync"},
	OpSecStabilize:   {"SEC_STABILIZE", "stabilize"},
	OpSecRollback:    {"SEC_ROLLBACK", "rollback"},
	OpSecDelete:      {"SEC_DELETE", "delete"},
	OpTestSyncStab:   {"TEST_SYNC_STAB_ALL", "sync_stab_all"},
	OpSecList:        {"SEC_LIST", "list"},
	OpShowConfig:     {"SHOW_CONFIG", "show_config"},
	OpRead:           {"READ", "primary_read"},
	OpWrite:          {"WRITE", "primary_write"},
	OpSync:           {"SYNC", "primary_sync"},
	OpDelete:         {"DELETE", "primary_delete"},
	OpPing:           {"PING", "ping"},
	OpSecReadBmp:     {"SEC_READ_BMP", "sec_read_bmp"},
	OpScrub:          {"SCRUB", "scrub"},
	OpDescribe:       {"DESCRIBE", "describe"},
	OpSecLock:        {"SEC_LOCK", "sec_lock"},
}

// Valid tells whether the opcode exists. Others are answered with EINVAL.
func (o Op) Valid() bool { return o >= 1 && o <= MaxOp }

func (o Op) String() string {
	if !o.Valid() {
		return fmt.Sprintf("opcode %d", uint64(o))
	}
	return opNames[o].name
}

// StatName is the key of the operation in op_stats and subop_stats (etcd.md);
// empty for an opcode that does not exist.
func (o Op) StatName() string {
	if !o.Valid() {
		return ""
	}
	return opNames[o].stat
}

// readonlyOps is a set of bits 1<<op.
const readonlyOps = 1<<OpSecRead | 1<<OpSecLock | 1<<OpSecList | 1<<OpRead |
	1<<OpSecReadBmp | 1<<OpScrub | 1<<OpDescribe | 1<<OpShowConfig | 1<<OpPing

// AllowedReadonly tells whether an OSD in readonly mode executes the operation;
// all others are answered with EROFS (§10).
func (o Op) AllowedReadonly() bool { return o.Valid() && readonlyOps>>o&1 != 0 }
