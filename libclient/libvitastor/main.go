// Command libvitastor is the Go core of the C library: a client (libclient/client) on
// an event loop that the caller of the C library drives. It is built as
// libvitastor_core.so.0 and loaded by the C shim (folder shim), which is the
// libvitastor_client.so.0 that programs link to; core.h is the boundary.
//
//	QEMU, fio...  ─▶ shim (C): queues, callbacks ─▶ core (Go): client, loop, etcd
//
// Guarantee: C memory of an operation (its vcore_op, its buffers) is not
// touched any more once the operation is in the list of completed ones, or its
// client destroyed. Nothing here calls into C but malloc and free; callbacks
// of programs are run by the shim, after Step has returned.
//
// Concurrency: calls for one client are serialized by the caller and may come
// from different threads; different clients are independent. Goroutines exist
// only inside internal/etcd.
package main

/*
#include <stdlib.h>
#include "core.h"
*/
import "C"

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"
)

// clientsMax limits the clients of one process, half of which may be a
// program's with many disks.
const clientsMax = 4096

// cores are the clients of the process, by slot.
var cores [clientsMax]atomic.Pointer[core]

// registry guards the making and freeing of slots.
var registry struct {
	sync.Mutex
	count int
}

func main() {}

func init() {
	// Long-lived memory is small and operations make no garbage: what is left
	// is events of etcd. Collecting late is cheaper than collecting often.
	debug.SetGCPercent(400)
}

//export vcore_abi
func vcore_abi() C.int { return C.VCORE_ABI }

//export vcore_create
func vcore_create(c *C.vcore, options **C.char, count C.int) C.int {
	slot, err := reserve()
	if err == nil {
		var k *core
		if k, err = newCore(c, pairs(options, int(count))); err == nil {
			c.slot = C.int32_t(slot)
			cores[slot].Store(k)
			return 0
		}
		release(slot)
	}
	setError(c, err)
	return -C.int(c.error_code)
}

//export vcore_step
func vcore_step(slot, mode C.int) {
	cores[slot].Load().step(int(mode))
}

//export vcore_destroy
func vcore_destroy(slot C.int) {
	cores[slot].Load().destroy()
	release(int(slot))
}

// reserve finds a free slot. A thread that waits in a raw system call keeps its
// processor, so there must be more processors than clients: else one client's
// wait would keep the others out.
func reserve() (int, error) {
	registry.Lock()
	defer registry.Unlock()
	for slot := range cores {
		if cores[slot].CompareAndSwap(nil, &core{}) {
			if registry.count++; runtime.GOMAXPROCS(0) < registry.count+2 {
				runtime.GOMAXPROCS(registry.count*2 + 2)
			}
			return slot, nil
		}
	}
	return 0, errTooMany
}

func release(slot int) {
	registry.Lock()
	defer registry.Unlock()
	cores[slot].Store(nil)
	registry.count--
}

// pairs reads key, value, key, value...
func pairs(options **C.char, count int) (list [][2]string) {
	texts := unsafe.Slice(options, count)
	for i := 0; i+1 < count; i += 2 {
		if texts[i] != nil && texts[i+1] != nil {
			list = append(list, [2]string{C.GoString(texts[i]), C.GoString(texts[i+1])})
		}
	}
	return list
}
