package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"

	"vitastor/internal/env"
	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// format makes a file with an OSD superblock and empty areas.
func format(path string, bytes int64, csum bool) error {
	o := layout.Options{"osd_num": "1", "meta_format": "3", "data_device": path, "meta_reserve": "2x,1M",
		"journal_size": fmt.Sprint(16 << 20), "disable_data_fsync": true, "immediate_commit": "all"}
	if csum {
		o["data_csum_type"] = "crc32c"
	}
	p, err := layout.Prepare(o, layout.DeviceBytes{Data: uint64(bytes)}, false)
	if err != nil {
		return err
	}
	sb, err := layout.EncodeSuperblock(p.Into(o))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		return err
	}
	_, err = f.WriteAt(sb, 0)
	return err
}

// opened is a store on its own loop.
type opened struct {
	l     *loop.Loop
	ended sync.WaitGroup
	disk  env.Disk
	s     *store.Store
}

func open(path string) (*opened, error) {
	p, err := params(path)
	if err != nil {
		return nil, err
	}
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	o := &opened{l: l}
	o.ended.Go(func() { l.Run(context.Background()) })
	failed := make(chan error, 1)
	l.Post(func() {
		var err error
		if o.disk, err = l.OpenDisk(path, env.DiskOptions{}); err != nil {
			failed <- err
			return
		}
		c := store.ConfigOf(p)
		c.OnFatal = func(err error) { exitOn(err) }
		store.Open(l.Env(), store.Disks{Data: o.disk, Meta: o.disk, Buffer: o.disk}, c, func(s *store.Store, err error) {
			o.s = s
			failed <- err
		})
	})
	if err := <-failed; err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func params(path string) (*layout.Params, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 4096)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	o, err := layout.DecodeSuperblock(head)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return layout.NewParams(o, layout.DeviceBytes{Data: uint64(size)})
}

func (o *opened) close() {
	if o.s != nil {
		closed := make(chan error, 1)
		o.l.Post(func() { o.s.Close(func(err error) { closed <- err }) })
		<-closed
	}
	o.l.Stop()
	o.ended.Wait()
}

const writerDepth = 16

// writer writes one granule after the other; it owns the objects whose number
// is its own modulo writerDepth, so that no object has two writes in flight.
type writer struct {
	o     *opened
	op    store.Op
	at    place
	rnd   *rand.Rand
	slot  int
	ack   [ackBytes]byte
	out   io.Writer
	phase func()
}

// writeUntilKilled is the child: it never ends by itself.
func writeUntilKilled(path string, seed uint64, out io.Writer) error {
	o, err := open(path)
	if err != nil {
		return err
	}
	for slot := range writerDepth {
		buf, err := pinned.AlignedBuffer(granule)
		if err != nil {
			return err
		}
		w := &writer{o: o, rnd: rand.New(rand.NewPCG(seed, uint64(slot))), slot: slot, out: out}
		w.op.Buf = buf
		w.op.Done = func(*store.Op) { w.phase() }
		o.l.Post(w.next)
	}
	o.ended.Wait()
	return fmt.Errorf("the loop ended")
}

// next asks for the current version of some object, as a primary does.
func (w *writer) next() {
	w.at = place{w.rnd.IntN(objects/writerDepth)*writerDepth + w.slot, w.rnd.IntN(granules)}
	buf := w.op.Buf[:granule]
	w.op = store.Op{Kind: store.OpRead, OID: w.at.oid(), Version: meta.NewestVersion, Buf: buf[:0], Done: w.op.Done}
	w.phase = func() { w.write(buf) }
	w.o.s.Submit(&w.op)
}

func (w *writer) write(buf []byte) {
	version := w.op.Version + 1
	if w.op.Err != 0 { // ENOENT: its first write
		version = 1
	}
	w.at.fill(buf, version)
	w.op = store.Op{Kind: store.OpWriteStable, OID: w.at.oid(), Version: version,
		Offset: uint32(w.at.granule) * granule, Len: granule, Buf: buf, Done: w.op.Done}
	w.phase = w.written
	w.o.s.Submit(&w.op)
}

func (w *writer) written() {
	if w.op.Err != 0 {
		exitOn(fmt.Errorf("write of %+v: %w", w.at, w.op.Err))
	}
	putAck(w.ack[:], w.at, w.op.Version)
	if _, err := w.out.Write(w.ack[:]); err != nil {
		exitOn(err)
	}
	w.next()
}

// verify reads every acknowledged place back.
func verify(path string, a *acks) (checked int, err error) {
	o, err := open(path)
	if err != nil {
		return 0, err
	}
	defer o.close()
	buf, err := pinned.AlignedBuffer(granule)
	if err != nil {
		return 0, err
	}
	defer pinned.Free(buf)
	done := make(chan struct{}, 1)
	op := store.Op{Done: func(*store.Op) { done <- struct{}{} }}
	for p, acked := range a.newest {
		op = store.Op{Kind: store.OpRead, OID: p.oid(), Version: meta.NewestVersion,
			Offset: uint32(p.granule) * granule, Len: granule, Buf: buf, Done: op.Done}
		o.l.Post(func() { o.s.Submit(&op) })
		<-done
		if op.Err != 0 {
			return checked, fmt.Errorf("%+v, acknowledged at version %d: %w", p, acked, op.Err)
		}
		found, err := p.check(buf)
		if err != nil {
			return checked, err
		}
		if found < acked || op.Version < acked {
			return checked, fmt.Errorf("%+v: version %d was acknowledged, found %d of object version %d", p, acked, found, op.Version)
		}
		checked++
	}
	return checked, nil
}
