package machine

import "strconv"

// QEMU is the program that runs machines.
const QEMU = "qemu-system-x86_64"

// CommandLine is that of the kernel. Under TCG the TSC may be calibrated
// wrongly on busy hosts, and then time in the machine runs too fast.
const CommandLine = "console=ttyS0 panic=-1 quiet nokaslr mitigations=off clocksource=hpet tsc=unstable no_timer_check " +
	"rcupdate.rcu_cpu_stall_suppress=1 net.ifnames=0"

// QEMUArgs begin the command line of QEMU: a machine without devices, its
// console on standard input and output.
func QEMUArgs(memoryMiB int) []string {
	return []string{QEMU, "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(memoryMiB), "-M", "q35",
		"-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"}
}
