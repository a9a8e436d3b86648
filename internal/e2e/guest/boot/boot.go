// Package boot is what a host and process 1 of its machine say to each other.
//
// Guarantee: a Task survives encoding to JSON and back.
//
// Concurrency: plain values.
package boot

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Files of the initramfs.
const (
	TaskFile   = "/task.json"
	ModulesDir = "/modules"
)

// Programs is the folder of the machine that has ours.
const Programs = "/run/programs"

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

// Words of a CaseLine.
const (
	CaseOK     = "ok"
	CaseFailed = "FAIL"
)

// CaseLine tells the result of a test in the machine, which is up for some time
// and was busy with this one.
func CaseLine(word, name string, uptime, took time.Duration) string {
	return fmt.Sprintf("%s%s %s %.1fs (%.1fs)", casePrefix, word, strings.ReplaceAll(name, " ", "_"), uptime.Seconds(), took.Seconds())
}

const casePrefix = "CASE "

// ParseCase reads a CaseLine.
func ParseCase(line string) (word, name, times string, ok bool) {
	line, ok = strings.CutPrefix(line, casePrefix)
	word, line, _ = strings.Cut(line, " ")
	name, times, _ = strings.Cut(line, " ")
	return word, name, times, ok && (word == CaseOK || word == CaseFailed)
}
