// Package workload writes to an image in a way that lets every lost, stale or
// mixed-up byte be found, and measures how long operations had to wait.
//
// Every 4 KiB block of the image has one writer that writes it again and again,
// one write at a time, with a version that is part of the contents:
//
//	[image tag u64][block u64][version u64][the rest: random bytes of a generator seeded by these three]
//
// Guarantee: Verify and the reads during Run fail unless each block has contents
// of one single version v with acknowledged <= v <= last begun (a failed or
// unanswered write may have happened), and a read that begins after another
// read of the same block has ended never returns an older version.
//
// Concurrency: Run uses one goroutine per writer and blocks; the rest is called
// from one goroutine while nothing runs.
package workload

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// BlockBytes is the size of what is written at once.
const BlockBytes = 4096

// Image is what is tested; errors are final results of single operations.
type Image interface {
	ReadAt(b []byte, offset int64) (int, error)
	WriteAt(b []byte, offset int64) (int, error)
	Sync() error
}

// Content is what is known about an image.
type Content struct {
	Tag    uint64
	blocks []block
}

// block is one block: only its writer touches it.
type block struct {
	acked  uint64 // newest version that was acknowledged or read
	synced uint64 // newest version before the last successful Sync
	begun  uint64 // newest version of which a write began
}

// New is an image full of zeroes.
func New(tag uint64, bytes int64) *Content {
	return &Content{Tag: tag, blocks: make([]block, bytes/BlockBytes)}
}

// Fill makes the contents of a block; version 0 is zeroes.
func (c *Content) Fill(b []byte, index int, version uint64) {
	clear(b)
	if version == 0 {
		return
	}
	binary.LittleEndian.PutUint64(b, c.Tag)
	binary.LittleEndian.PutUint64(b[8:], uint64(index))
	binary.LittleEndian.PutUint64(b[16:], version)
	r := rand.NewPCG(c.Tag<<32^uint64(index), version)
	for i := 24; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
}

// Version finds out which version a block has, and checks every byte.
func (c *Content) Version(b []byte, index int) (uint64, error) {
	version := binary.LittleEndian.Uint64(b[16:])
	want := make([]byte, len(b))
	c.Fill(want, index, version)
	if slices.Equal(b, want) {
		return version, nil
	}
	at := 0
	for b[at] == want[at] {
		at++
	}
	return 0, fmt.Errorf("block %d does not have the contents of any version: header %x, first wrong byte %d", index, b[:24], at)
}

// check compares what was read with what is possible.
func (c *Content) check(b []byte, index int) error {
	v, err := c.Version(b, index)
	if err != nil {
		return err
	}
	k := &c.blocks[index]
	switch {
	case v < k.acked:
		return fmt.Errorf("block %d is stale or lost: version %d, but %d was acknowledged or read", index, v, k.acked)
	case v > k.begun:
		return fmt.Errorf("block %d has version %d, but only %d were written", index, v, k.begun)
	}
	k.acked = v
	return nil
}

// Verify reads everything.
func (c *Content) Verify(image Image) error {
	const chunk = 64
	b := make([]byte, chunk*BlockBytes)
	for i := 0; i < len(c.blocks); i += chunk {
		part := b[:min(chunk, len(c.blocks)-i)*BlockBytes]
		if _, err := image.ReadAt(part, int64(i)*BlockBytes); err != nil {
			return fmt.Errorf("reading block %d: %w", i, err)
		}
		for j := 0; j < len(part)/BlockBytes; j++ {
			if err := c.check(part[j*BlockBytes:(j+1)*BlockBytes], i+j); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteAll writes a new version of every block.
func (c *Content) WriteAll(image Image) error {
	const chunk = 64
	b := make([]byte, chunk*BlockBytes)
	for i := 0; i < len(c.blocks); i += chunk {
		part := b[:min(chunk, len(c.blocks)-i)*BlockBytes]
		for j := 0; j < len(part)/BlockBytes; j++ {
			c.blocks[i+j].begun++
			c.Fill(part[j*BlockBytes:(j+1)*BlockBytes], i+j, c.blocks[i+j].begun)
		}
		if _, err := image.WriteAt(part, int64(i)*BlockBytes); err != nil {
			return fmt.Errorf("writing block %d: %w", i, err)
		}
		for j := 0; j < len(part)/BlockBytes; j++ {
			c.blocks[i+j].acked = c.blocks[i+j].begun
		}
	}
	return nil
}

// LoseUnsynced says that the client has died: of what was not synced, any
// version from the synced one on may be there.
func (c *Content) LoseUnsynced() {
	for i := range c.blocks {
		c.blocks[i].acked = c.blocks[i].synced
	}
}

// Clone is what a snapshot contains that is made now, while nothing runs.
func (c *Content) Clone() *Content { return &Content{Tag: c.Tag, blocks: slices.Clone(c.blocks)} }

// Options of Run.
type Options struct {
	Writers int           // 0 = 8
	Reads   float64       // share of reads, 0..1
	Pause   time.Duration // after each operation of a writer
	// Bound is about single operations: longer ones end the run with an error.
	// 0 = a minute.
	Bound time.Duration
	// MayFail accepts errors of operations, such as ENOSPC; nil = none.
	MayFail func(error) bool
	// Sync after this many writes of a writer; 0 = never.
	SyncEvery int
}

// Result is what happened.
type Result struct {
	Reads, Writes, Failed uint64
	// Longest is the longest operation, begun At after the start.
	Longest time.Duration
	At      time.Duration
	slow    []Slow
}

// Slow is one operation that took longer than others.
type Slow struct {
	Began, Took time.Duration
	What        string
}

// Slowest lists the operations that took more than limit, by time.
func (r *Result) Slowest(limit time.Duration) []Slow {
	var list []Slow
	for _, s := range r.slow {
		if s.Took > limit {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Slow) int { return int(a.Began - b.Began) })
	return list
}

// slowEnough is kept with details.
const slowEnough = 200 * time.Millisecond

// Run is a running workload.
type Run struct {
	c       *Content
	image   Image
	o       Options
	start   time.Time
	stop    atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	result  Result
	err     error
	current []atomic.Int64 // when the operation of each writer began, 0 = none
}

// Start begins to write and read.
func (c *Content) Start(image Image, o Options) *Run {
	if o.Writers == 0 {
		o.Writers = 8
	}
	if o.Bound == 0 {
		o.Bound = time.Minute
	}
	r := &Run{c: c, image: image, o: o, start: time.Now(), current: make([]atomic.Int64, o.Writers)}
	for w := range o.Writers {
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			r.fail(r.write(w))
		}()
	}
	return r
}

func (r *Run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.err == nil {
		r.err = err
		r.stop.Store(true)
	}
}

// Stop ends the run and returns what happened; the error is the first wrong
// content or unexpected failure. An operation that does not end in time is an
// error, too; its block must not be used any more.
func (r *Run) Stop() (Result, error) {
	r.stop.Store(true)
	done := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(r.o.Bound):
		r.fail(fmt.Errorf("%d operations have not ended within %v", r.pending(), r.o.Bound))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result, r.err
}

func (r *Run) pending() (n int) {
	for i := range r.current {
		if r.current[i].Load() != 0 {
			n++
		}
	}
	return n
}

// Done tells how many operations have ended.
func (r *Run) Done() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result.Reads + r.result.Writes
}

// write is one writer: of the blocks whose number modulo the writers is w.
func (r *Run) write(w int) error {
	rng := rand.New(rand.NewPCG(r.c.Tag, uint64(w)<<32|uint64(time.Now().UnixNano())&0xFFFF_FFFF))
	b := make([]byte, BlockBytes)
	own := (len(r.c.blocks) - w + r.o.Writers - 1) / r.o.Writers
	for n := 1; !r.stop.Load(); n++ {
		index := w + rng.IntN(own)*r.o.Writers
		k := &r.c.blocks[index]
		read := rng.Float64() < r.o.Reads
		began := time.Now()
		r.current[w].Store(began.UnixNano())
		var err error
		if read {
			_, err = r.image.ReadAt(b, int64(index)*BlockBytes)
		} else {
			k.begun++
			r.c.Fill(b, index, k.begun)
			_, err = r.image.WriteAt(b, int64(index)*BlockBytes)
		}
		r.current[w].Store(0)
		r.note(read, index, began, err)
		switch {
		case err != nil && (r.o.MayFail == nil || !r.o.MayFail(err)):
			return fmt.Errorf("operation on block %d: %w", index, err)
		case err != nil:
		case read:
			if err := r.c.check(b, index); err != nil {
				return err
			}
		default:
			k.acked = k.begun
		}
		if r.o.SyncEvery > 0 && n%r.o.SyncEvery == 0 {
			if err := r.sync(w, own); err != nil {
				return err
			}
		}
		if r.o.Pause > 0 {
			time.Sleep(r.o.Pause)
		}
	}
	return nil
}

// sync makes the acknowledged writes of one writer durable.
func (r *Run) sync(w, own int) error {
	if err := r.image.Sync(); err != nil {
		if r.o.MayFail != nil && r.o.MayFail(err) {
			return nil
		}
		return fmt.Errorf("sync: %w", err)
	}
	for i := range own {
		k := &r.c.blocks[w+i*r.o.Writers]
		k.synced = k.acked
	}
	return nil
}

func (r *Run) note(read bool, index int, began time.Time, err error) {
	took, at := time.Since(began), began.Sub(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	if read {
		r.result.Reads++
	} else {
		r.result.Writes++
	}
	if err != nil {
		r.result.Failed++
	}
	if took > r.result.Longest {
		r.result.Longest, r.result.At = took, at
	}
	if took > slowEnough && len(r.result.slow) < 1000 {
		r.result.slow = append(r.result.slow, Slow{at, took, fmt.Sprintf("read=%v block %d err=%v", read, index, err)})
	}
}

// Failed tells whether the run has ended with an error.
func (r *Run) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// Failures tells how many operations have failed so far.
func (r *Run) Failures() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result.Failed
}
