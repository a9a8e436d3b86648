package sim_test

import (
	"fmt"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
	"vitastor/internal/sim"
)

// A crash test: run a program event by event, and at each moment look at disks
// that a power loss may leave, each in a world of its own.
func Example() {
	config := sim.DiskConfig{SizeBytes: 1 << 20, VolatileCache: true}
	w := sim.NewWorld(1, sim.Options{})
	n := w.NewNode("osd")
	d := n.AddDisk("/dev/sda", config)
	buf, _ := pinned.AlignedBuffer(4096)
	buf[0] = 1
	n.Do(func(e *env.Env) { // the program under test
		disk, _ := e.Storage.OpenDisk("/dev/sda", env.DiskOptions{})
		disk.Submit(&env.DiskOp{Kind: env.DiskWrite, Buf: buf, Done: func(*env.DiskOp) {
			disk.Submit(&env.DiskOp{Kind: env.DiskSync, Done: func(*env.DiskOp) {}})
		}})
	})
	for more := true; more; more = w.Step() {
		nothing, everything := 0, 0
		for i, m := range d.PowerLossImages(10) {
			crashed := config
			crashed.Image = m
			w2 := sim.NewWorld(uint64(i), sim.Options{})
			w2.NewNode("osd").AddDisk("/dev/sda", crashed) // and start the program there
			var b [1]byte
			m.ReadAt(b[:], 0)
			nothing += int(1 - b[0])
			everything += int(b[0])
		}
		fmt.Println(d.InFlight(), d.Undurable(), nothing > 0, everything > 0)
	}
	// Output:
	// 1 0 true true
	// 1 1 true true
	// 0 0 false true
}
