package storebench

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// StartUpOptions describe the store whose opening is measured.
type StartUpOptions struct {
	Dir       string // for the file, which is deleted afterwards; "" = the current one
	Objects   int    // default 8000000
	Intents   int    // of these: written in place shortly before a crash, to be verified. Default 4096; negative = none
	CsumBytes uint32
	Mode      env.DiskMode // DiskDirect reads from the disk whatever the page cache has
}

// StartUpReport is what opening took and what the open store takes.
type StartUpReport struct {
	Options     StartUpOptions
	MetaBytes   int64         // the area that was read
	Generate    time.Duration // making the file
	Open        time.Duration
	CPU         time.Duration // of Open
	MemoryBytes int64         // what the store says its objects take
	// Resident memory of the process, which grew by opening, and its peak
	// meanwhile.
	Before, Steady, Peak int64
	HeapBytes            int64   // growth of the Go heap
	PeakRatio            float64 // Peak / Steady
	PerObject            float64 // MemoryBytes / objects
	ResidentPerObject    float64 // (Steady - Before) / objects
}

// StartUp generates a store, opens it and measures.
func StartUp(o StartUpOptions) (StartUpReport, error) {
	orDefault(&o.Objects, 8000000)
	orDefault(&o.Intents, 4096)
	if o.Dir == "" {
		o.Dir = "."
	}
	rep := StartUpReport{Options: o}
	f, err := os.CreateTemp(o.Dir, "storebench-")
	if err != nil {
		return rep, err
	}
	f.Close()
	defer os.Remove(f.Name())
	m, err := newImage(f.Name(), o.Objects, max(o.Intents, 0), o.CsumBytes)
	if err != nil {
		return rep, err
	}
	rep.MetaBytes = int64(m.params.Meta.Bytes)
	begin := time.Now()
	if err := m.write(f.Name()); err != nil {
		return rep, fmt.Errorf("making a store of %v: %w", m, err)
	}
	rep.Generate = time.Since(begin)
	var ended sync.WaitGroup
	l, err := startLoop(&ended)
	if err != nil {
		return rep, err
	}
	defer ended.Wait()
	defer l.Stop()
	return rep, rep.measure(l, m, f.Name())
}

// measure opens the store between two looks at the memory of the process.
func (rep *StartUpReport) measure(l *loop.Loop, m *image, path string) error {
	before, err := lookAtMemory()
	if err != nil {
		return err
	}
	if err := resetPeak(); err != nil {
		return fmt.Errorf("the peak of memory cannot be measured: %w", err)
	}
	cpu, begin := cpuTime(), time.Now()
	s, err := openImage(l, m, path, rep.Options.Mode)
	if err != nil {
		return fmt.Errorf("opening a store of %v: %w", m, err)
	}
	rep.Open, rep.CPU = time.Since(begin), cpuTime()-cpu
	_, rep.Peak, err = resident()
	if err != nil {
		return err
	}
	after, err := lookAtMemory()
	if err != nil {
		return err
	}
	var t store.Totals
	err = call(l, func(finish func(error)) {
		t = s.Totals()
		if err := m.check(s, t); err != nil {
			finish(err)
			return
		}
		s.Close(finish)
	})
	rep.MemoryBytes, rep.Before, rep.Steady = t.MemoryBytes, before.resident, after.resident
	rep.HeapBytes = after.heap - before.heap
	rep.PeakRatio = float64(rep.Peak) / float64(rep.Steady)
	rep.PerObject = float64(rep.MemoryBytes) / float64(m.objects)
	rep.ResidentPerObject = float64(rep.Steady-rep.Before) / float64(m.objects)
	return err
}

type memory struct{ resident, heap int64 }

// lookAtMemory counts what is really in use: garbage is collected before.
func lookAtMemory() (memory, error) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	now, _, err := resident()
	return memory{now, int64(m.HeapAlloc)}, err
}

func openImage(l *loop.Loop, m *image, path string, mode env.DiskMode) (s *store.Store, err error) {
	err = call(l, func(finish func(error)) {
		d, err := l.OpenDisk(path, env.DiskOptions{Mode: mode})
		if err != nil {
			finish(err)
			return
		}
		store.Open(l.Env(), store.Disks{Data: d, Meta: d, Buffer: d}, m.config(), func(opened *store.Store, err error) {
			s = opened
			finish(err)
		})
	})
	return s, err
}

// check makes sure that the store has the objects.
func (m *image) check(s *store.Store, t store.Totals) error {
	if t.Objects != m.objects {
		return fmt.Errorf("it has %d objects after start-up", t.Objects)
	}
	for _, i := range []uint64{0, m.objects / 2, m.objects - 1} {
		if v, ok := s.Stat(m.object(i), meta.NewestVersion, nil); !ok || v != 1 {
			return errors.New("object " + m.object(i).String() + " is not there after start-up")
		}
	}
	return nil
}
