package storebench

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// cpuTime is what the process has used, the kernel's threads for its io_uring
// included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory of the process now, and its peak since resetPeak, in
// bytes.
func resident() (now, peak int64, err error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var kib int64
		switch name, rest, _ := strings.Cut(in.Text(), ":"); name {
		case "VmRSS":
			_, err = fmt.Sscan(rest, &kib)
			now = kib << 10
		case "VmHWM":
			_, err = fmt.Sscan(rest, &kib)
			peak = kib << 10
		}
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/self/status: %q: %w", in.Text(), err)
		}
	}
	return now, peak, nil
}

// resetPeak makes the peak of memory begin anew.
func resetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }
