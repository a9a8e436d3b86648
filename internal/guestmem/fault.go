package guestmem

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Fault is the error of an access to memory that has vanished.
type Fault struct{ Addr uintptr }

func (f *Fault) Error() string {
	return fmt.Sprintf("the other side has taken memory away that it shares with us (fault at %#x)", f.Addr)
}

// Protect makes faults in this goroutine recoverable; its result is for Recover.
func Protect() (before bool) { return debug.SetPanicOnFault(true) }

// Recover is to be deferred. After a memory fault it puts a *Fault into err; any
// other panic goes on.
func Recover(before bool, err *error) {
	debug.SetPanicOnFault(before)
	switch p := recover().(type) {
	case nil:
	case interface {
		runtime.Error
		Addr() uintptr
	}:
		*err = &Fault{p.Addr()}
	default:
		panic(p)
	}
}
