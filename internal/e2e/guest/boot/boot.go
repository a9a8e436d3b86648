// Package boot is what a host and process 1 of its machine say to each other.
//
// Guarantee: a Task survives encoding to JSON and back.
//
// Concurrency: plain values.
package boot

import "strconv"

// Files of the initramfs.
const (
	TaskFile   = "/task.json"
	ModulesDir = "/modules"
)

// Lines of the console that are about the machine begin with Prefix and one of
// these words.
const (
	Prefix = "GUEST: "
	Start  = "start"  // the command begins
	Exit   = "exit"   // its exit code
	Failed = "failed" // the machine itself is not usable
)

// RootTag is the name of the host's root among devices of 9p.
const RootTag = "hostroot"

// ShareTag is the name of a folder of Task.Shared.
func ShareTag(i int) string { return "share" + strconv.Itoa(i) }

// Task is what the machine shall do.
type Task struct {
	Args    []string // the program first
	Env     []string
	Dir     string   // where it runs; "" = /
	Modules string   // folder of the host for /lib/modules/VERSION
	Shared  []string // folders of the host that may be written to
}
