package storebench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// rig is a loop with a disk, on which stores are opened. The file is
//
//	| buffer area | metadata area | data area | raw area |
//
// where the raw area is as large as the data set and belongs to the other side
// of the pairs.
type rig struct {
	o       Options
	l       *loop.Loop
	ended   sync.WaitGroup
	path    string
	disk    env.Disk
	counted *countedDisk
	cfg     store.Config
	rawFrom int64

	s        *store.Store
	totals   store.Totals
	versions []meta.Version // of the objects; on the loop
	buf      []byte         // data of all operations, one BlockBytes after the other
}

// startLoop runs a loop on a goroutine of its own.
func startLoop(ended *sync.WaitGroup) (*loop.Loop, error) {
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		ended.Go(func() { l.Run(context.Background()) })
	}
	return l, err
}

// call runs f on the loop and waits until it has called finish.
func call(l *loop.Loop, f func(finish func(error))) error {
	done := make(chan error, 1)
	if !l.Post(func() { f(func(err error) { done <- err }) }) {
		return loop.ErrStopped
	}
	return <-done
}

func newRig(o Options) (*rig, error) {
	r := &rig{o: o, versions: make([]meta.Version, o.DataSetBytes/BlockBytes)}
	if err := r.makeFile(); err != nil {
		return nil, err
	}
	var err error
	if r.l, err = startLoop(&r.ended); err != nil {
		os.Remove(r.path)
		return nil, err
	}
	err = call(r.l, func(finish func(error)) {
		d, err := r.l.OpenDisk(r.path, env.DiskOptions{Mode: o.Mode})
		r.disk, r.counted = d, &countedDisk{Disk: d}
		finish(err)
	})
	if err == nil {
		r.buf, err = pinned.AlignedBuffer(bufferCount(o.Jobs) * BlockBytes)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// bufferCount is how many operations are in flight at most.
func bufferCount(jobs []Job) int {
	n := fillDepth
	for _, j := range jobs {
		n = max(n, j.Depth)
	}
	return n
}

// options are the parameters of a store on one file.
func options(path string, dataBytes int64, csumBytes uint32, volatile bool) layout.Options {
	o := layout.Options{"data_device": path, "osd_num": "1", "meta_format": "3", "data_size": strconv.FormatInt(dataBytes, 10),
		"block_size": strconv.Itoa(BlockBytes), "bitmap_granularity": strconv.Itoa(granuleBytes),
		"meta_block_size": strconv.Itoa(metaBlockBytes)}
	if csumBytes != 0 {
		o["data_csum_type"], o["csum_block_size"] = "crc32c", strconv.Itoa(int(csumBytes))
	}
	if !volatile {
		o["disable_data_fsync"], o["immediate_commit"] = true, "all"
	}
	return o
}

// makeFile plans the areas and makes the file.
func (r *rig) makeFile() error {
	dataBytes := r.o.DataSetBytes + max(r.o.DataSetBytes/8/BlockBytes, 1024)*BlockBytes // room for new blocks
	f, err := os.CreateTemp(r.o.Dir, "storebench-")
	if err != nil {
		return err
	}
	defer f.Close()
	r.path = f.Name()
	opt := options(r.path, dataBytes, r.o.CsumBytes, r.o.Volatile)
	opt["meta_reserve"] = "2x,1M"
	opt["journal_size"] = strconv.Itoa(32 << 20)
	p, err := plan(opt, uint64(3*dataBytes))
	if err == nil {
		r.cfg = store.ConfigOf(p)
		r.rawFrom = r.cfg.Areas.DataOffset + r.cfg.Areas.DataLen
		err = f.Truncate(r.rawFrom + r.o.DataSetBytes)
	}
	if err != nil {
		os.Remove(r.path)
	}
	return err
}

// plan places the areas of a store on a device of the given size.
func plan(o layout.Options, deviceBytes uint64) (*layout.Params, error) {
	size := layout.DeviceBytes{Data: deviceBytes}
	p, err := layout.Prepare(o, size, false)
	if err != nil {
		return nil, err
	}
	return layout.NewParams(p.Into(o), size)
}

func (r *rig) close() {
	r.l.Stop()
	r.ended.Wait()
	pinned.Free(r.buf)
	os.Remove(r.path)
}

const fillDepth = 8

// fill writes the whole file, so that no file system has blocks to find for it
// later, then all objects.
func (r *rig) fill() error {
	all := target{r: r, from: 0, bytes: r.rawFrom + r.o.DataSetBytes}
	all.bytes -= all.bytes % BlockBytes
	if err := r.pass(&all); err != nil { // with zeros: a blank disk
		return fmt.Errorf("filling the file: %w", err)
	}
	for i := range r.buf {
		r.buf[i] = byte(i*7 ^ i>>8 ^ i>>16)
	}
	if err := r.openStore(0); err != nil {
		return err
	}
	if err := r.pass(&target{r: r, store: true, bytes: r.o.DataSetBytes}); err != nil {
		return fmt.Errorf("making the objects: %w", err)
	}
	return r.closeStore()
}

// pass writes everything of t once.
func (r *rig) pass(t *target) error {
	d := newDriver(t, Job{Write: true, Sequential: true, Bytes: BlockBytes, Depth: fillDepth})
	d.left = int(t.bytes / BlockBytes)
	return call(r.l, d.start)
}

// openStore opens the store of the file, a new one if it is blank.
func (r *rig) openStore(intentDepth int) error {
	return call(r.l, func(finish func(error)) {
		c := r.cfg
		c.IntentDepth = intentDepth
		c.DiscardGranularityBytes = -1 // a hole in a file costs the next write much more than a trimmed block of a disk
		if r.o.Tune != nil {
			r.o.Tune(&c)
		}
		e := r.l.Env()
		store.Open(e, store.Disks{Data: r.counted, Meta: r.counted, Buffer: r.counted}, c, func(s *store.Store, err error) {
			r.s = s
			finish(err)
		})
	})
}

func (r *rig) closeStore() error {
	return call(r.l, func(finish func(error)) {
		r.totals = r.s.Totals()
		r.s.Close(finish)
	})
}
