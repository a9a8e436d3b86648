package sim

import (
	"fmt"
	"hash/crc32"
)

// traceKind names what happened in the trace; part of the hash, so only append.
type traceKind uint8

const (
	traceTimer traceKind = iota + 1
	tracePost
	traceNode // crash, restart, stop...
	traceDiskSubmit
	traceDiskDone
	traceDiskLoss
	traceNetConnect
	traceNetData
	traceNetClose
	traceNetFault
	traceKV
	tracePlan
	traceNote
)

var traceNames = [...]string{
	traceTimer: "timer", tracePost: "post", traceNode: "node",
	traceDiskSubmit: "disk-submit", traceDiskDone: "disk-done", traceDiskLoss: "disk-loss",
	traceNetConnect: "net-connect", traceNetData: "net-data", traceNetClose: "net-close",
	traceNetFault: "net-fault", traceKV: "kv", tracePlan: "plan", traceNote: "note",
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// trace folds an event into the hash. who is the index of a node, disk or
// stream; a and b tell what happened to it.
func (w *World) trace(k traceKind, who int, a, b uint64) {
	w.hash = mix(mix(mix(w.hash, uint64(w.now)<<8|uint64(k)), uint64(who)<<48^a), b)
	if w.opt.Trace != nil {
		fmt.Fprintf(w.opt.Trace, "%d %s %d %x %x\n", w.now, traceNames[k], who, a, b)
	}
}

// traceText is trace for rare events that are best described in words.
func (w *World) traceText(k traceKind, text string) {
	w.hash = mix(mix(w.hash, uint64(w.now)<<8|uint64(k)), uint64(crc32.Checksum([]byte(text), castagnoli)))
	if w.opt.Trace != nil {
		fmt.Fprintf(w.opt.Trace, "%d %s %s\n", w.now, traceNames[k], text)
	}
}

// Note folds a remark of the harness or of code under test into the trace: a
// history recorded this way is compared by Hash too.
func (w *World) Note(format string, args ...any) {
	w.traceText(traceNote, fmt.Sprintf(format, args...))
}
