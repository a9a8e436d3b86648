package sys

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenDiskFlags select how a disk is opened.
type OpenDiskFlags struct {
	ReadOnly, Direct, Sync bool
}

// OpenDisk opens a block device or file for positioned I/O.
func OpenDisk(path string, f OpenDiskFlags) (int, syscall.Errno) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if f.ReadOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC
	}
	if f.Direct {
		flags |= unix.O_DIRECT
	}
	if f.Sync {
		flags |= unix.O_DSYNC
	}
	for {
		fd, err := unix.Open(path, flags, 0)
		if err == nil {
			return fd, 0
		}
		if err != unix.EINTR {
			return -1, err.(syscall.Errno)
		}
	}
}

// LockExclusive takes the whole-file lock that keeps a second opener away.
// EWOULDBLOCK: somebody holds it, see LockHolder.
func LockExclusive(fd int) syscall.Errno {
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return 0
		}
		if err != unix.EINTR {
			return err.(syscall.Errno)
		}
	}
}

// LockHolder names the process that holds the lock on fd's file, as "pid 123
// (name)", or "" when it cannot be found. alive is false when there is no such
// process any more: then the kernel is still busy with what it left behind.
func LockHolder(fd int) (who string, alive bool) {
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(fd, &st) != nil {
		return "", false
	}
	pid := lockHolder(string(locks), unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	if pid <= 0 {
		return "", false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return fmt.Sprintf("pid %d (%s)", pid, strings.TrimSpace(string(name))), err == nil && !zombie(pid)
}

// zombie tells whether the process has ended and only waits for its parent.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}

// lockHolder looks for the lock in the text of /proc/locks, with lines like
//
//	1: FLOCK  ADVISORY  WRITE 708 08:01:2890 0 EOF
func lockHolder(locks string, major, minor uint32, inode uint64) int {
	want := fmt.Sprintf("%02x:%02x:%d", major, minor, inode)
	for line := range strings.Lines(locks) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[5] == want {
			pid, _ := strconv.Atoi(f[4])
			return pid
		}
	}
	return 0
}

// DiskFacts is what the kernel tells about an open disk. Sizes are in bytes.
type DiskFacts struct {
	SizeBytes          int64
	BlockDevice        bool
	BlockBytes         int // unit of direct I/O
	PhysicalBytes      int // unit that the device writes as a whole; at least BlockBytes
	AtomicBytes        int // largest RWF_ATOMIC write; 0 = not supported
	DiscardGranularity int64
	Rotational         bool
	Memory             bool // a file in memory (tmpfs, ramfs): transfers are copies, they wait for no device
	DeviceID           string
}

// ProbeDisk collects the facts. What the kernel is too old to tell gets the
// value that is safe everywhere.
func ProbeDisk(fd int) (DiskFacts, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return DiskFacts{}, os.NewSyscallError("fstat", err)
	}
	f := DiskFacts{SizeBytes: st.Size, BlockBytes: 4096}
	device := st.Dev // for a file, the device that its file system is on
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.DiscardGranularity = 4096 // by punching holes
		f.Memory = inMemory(fd)
	case unix.S_IFBLK:
		f.BlockDevice, device = true, st.Rdev
		size, err := DeviceBytes(fd)
		if err != nil {
			return f, os.NewSyscallError("BLKGETSIZE64", err)
		}
		f.SizeBytes = size
	default:
		return f, fmt.Errorf("it is neither a block device nor a regular file")
	}
	sysfs := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device))
	f.fromSysfs(sysfs)
	f.fromStatx(fd)
	f.PhysicalBytes = max(f.PhysicalBytes, f.BlockBytes)
	return f, nil
}

// inMemory tells whether the file system of fd keeps files in memory only.
func inMemory(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}

// fromSysfs reads the directory of a block device; a partition's parent knows
// more. For a file only the facts about the medium apply.
func (f *DiskFacts) fromSysfs(dir string) {
	if _, err := os.Stat(dir + "/queue"); err != nil {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = filepath.Dir(real)
		}
	}
	f.Rotational = sysfsNumber(dir+"/queue/rotational") == 1
	for _, name := range []string{"/wwid", "/device/wwid", "/device/serial", "/serial"} {
		if b, err := os.ReadFile(dir + name); err == nil && f.DeviceID == "" {
			f.DeviceID = strings.TrimSpace(string(b))
		}
	}
	if !f.BlockDevice {
		return
	}
	if n := sysfsNumber(dir + "/queue/logical_block_size"); n > 0 {
		f.BlockBytes = int(n)
	}
	f.PhysicalBytes = int(sysfsNumber(dir + "/queue/physical_block_size"))
	if sysfsNumber(dir+"/queue/discard_max_bytes") > 0 {
		f.DiscardGranularity = max(sysfsNumber(dir+"/queue/discard_granularity"), int64(f.BlockBytes))
	}
}

func sysfsNumber(path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// fromStatx asks for the alignment of direct I/O (kernel 6.1) and for the size
// of atomic writes (6.11).
func (f *DiskFacts) fromStatx(fd int) {
	var x unix.Statx_t
	const want = unix.STATX_DIOALIGN | unix.STATX_WRITE_ATOMIC
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, want, &x) != nil {
		return
	}
	if x.Mask&unix.STATX_DIOALIGN != 0 && x.Dio_offset_align > 0 {
		f.BlockBytes = int(max(x.Dio_offset_align, x.Dio_mem_align))
	}
	if x.Mask&unix.STATX_WRITE_ATOMIC != 0 {
		f.AtomicBytes = int(max(x.Atomic_write_unit_max, x.Atomic_write_unit_max_opt))
	}
}

// PunchHole frees a range of a file; it reads as zeros afterwards. It blocks.
func PunchHole(fd int, offset, length int64) syscall.Errno {
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	return errno(err)
}

// SyncData makes completed writes durable. It blocks.
func SyncData(fd int) syscall.Errno { return errno(unix.Fdatasync(fd)) }

func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return err.(syscall.Errno)
}

// Flags of single transfers (RWF_*).
const (
	WriteDurable = unix.RWF_DSYNC
	WriteAtomic  = unix.RWF_ATOMIC
)
