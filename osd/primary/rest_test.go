package primary

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"vitastor/internal/ec"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/osd/secondary"
	"vitastor/osd/store"
)

// chunkAt is what an OSD has of a chunk.
type chunkAt struct {
	osd     meta.OSDNum
	version meta.Version
	bitmap  []byte
	data    []byte
}

// readChunk reads the newest version of a chunk from the store of an OSD.
func (r *rig) readChunk(num meta.OSDNum, id meta.ObjectID) *chunkAt {
	r.t.Helper()
	o := r.osds[num]
	buf, err := pinned.AlignedBuffer(int(r.block))
	if err != nil {
		r.t.Fatal(err)
	}
	defer pinned.Free(buf)
	done := false
	op := &secondary.Op{Op: store.Op{Kind: store.OpRead, OID: id, Version: meta.NewestVersion, Len: r.block, Buf: buf, Bitmap: make([]byte, meta.BitmapBytes(r.block, testGran))},
		Done: func(*secondary.Op) { done = true }}
	o.node.Do(func(*env.Env) { o.sec.Submit(op) })
	if !r.w.RunUntil(func() bool { return done }, time.Minute) {
		r.t.Fatal("read does not end")
	}
	if op.Err != 0 {
		return nil
	}
	return &chunkAt{osd: num, version: op.Version, bitmap: slices.Clone(op.Bitmap), data: slices.Clone(buf)}
}

// atRest checks that every object of a PG, where nothing runs, is the same
// everywhere, that the code is right, bitmaps included, and that the primary's
// buffers are free.
func (r *rig) atRest(p *rigPG) {
	r.t.Helper()
	r.w.RunFor(10 * time.Millisecond)
	if err := r.checkRest(p); err != nil {
		r.t.Fatal(err)
	}
	r.idle()
}

func (r *rig) checkRest(p *rigPG) error {
	objects := map[meta.ObjectID]bool{}
	for _, m := range p.members {
		o := r.osds[m]
		if !o.up {
			continue
		}
		stable, unstable := r.list(o, p.id)
		if len(unstable) > 0 {
			return fmt.Errorf("OSD %d has unstable %v", m, unstable)
		}
		for _, v := range stable {
			role := slices.Index(p.set, m)
			if r.pools[p.id.Pool].Scheme == meta.Replicated && role > 0 {
				role = 0
			}
			if role != int(v.Role()) {
				return fmt.Errorf("OSD %d has %v, which does not belong there", m, v)
			}
			objects[v.Object()] = true
		}
	}
	for id := range objects {
		if err := r.checkObject(p, id); err != nil {
			return fmt.Errorf("%v: %w", id, err)
		}
	}
	if n := r.osds[p.primary].pri.Objects(p.id).Counts(); int(n.Total) != len(objects) || n.Clean != n.Total {
		return fmt.Errorf("%d objects, counted %+v", len(objects), n)
	}
	return nil
}

func (r *rig) checkObject(p *rigPG, id meta.ObjectID) error {
	pool := r.pools[p.id.Pool]
	var chunks []*chunkAt
	for role, osd := range p.set {
		chunk := id
		if pool.Scheme != meta.Replicated {
			chunk = id.WithRole(meta.Role(role))
		}
		c := r.readChunk(osd, chunk)
		if c == nil {
			return fmt.Errorf("OSD %d has no %v", osd, chunk)
		}
		if chunks = append(chunks, c); c.version != chunks[0].version {
			return fmt.Errorf("OSD %d has version %v, OSD %d %v", osd, c.version, chunks[0].osd, chunks[0].version)
		}
	}
	if pool.Scheme == meta.Replicated {
		for _, c := range chunks {
			if !bytes.Equal(c.data, chunks[0].data) || !bytes.Equal(c.bitmap, chunks[0].bitmap) {
				return fmt.Errorf("OSD %d differs", c.osd)
			}
		}
		return nil
	}
	return checkParity(pool.Scheme, pool.DataChunks(), chunks)
}

func checkParity(scheme meta.Scheme, k int, chunks []*chunkAt) error {
	kind := ec.ReedSolomon
	if scheme == meta.XOR {
		kind = ec.XOR
	}
	code, err := ec.New(kind, k, len(chunks)-k)
	if err != nil {
		return err
	}
	for _, what := range []struct {
		name string
		of   func(c *chunkAt) []byte
	}{{"data", func(c *chunkAt) []byte { return c.data }}, {"bitmap", func(c *chunkAt) []byte { return c.bitmap }}} {
		var data, parity [][]byte
		for i, c := range chunks {
			if i < k {
				data = append(data, what.of(c))
			} else {
				parity = append(parity, make([]byte, len(what.of(c))))
			}
		}
		if err := code.Encode(data, parity); err != nil {
			return err
		}
		for i, want := range parity {
			if got := what.of(chunks[k+i]); !bytes.Equal(got, want) {
				return fmt.Errorf("%s of parity %d is wrong: %s", what.name, i, differ(got, want))
			}
		}
	}
	return nil
}

// idle checks that nothing of finished operations is left anywhere.
func (r *rig) idle() {
	r.t.Helper()
	for _, o := range r.sortedOSDs() {
		if !o.up {
			continue
		}
		if err := o.pri.leaks(); err != nil {
			r.t.Fatalf("OSD %d: %v", o.num, err)
		}
		for _, p := range o.m.Pools() {
			if st := p.Stats(); st.UsedBytes != 0 {
				r.t.Fatalf("OSD %d: %s: %d bytes are not free", o.num, st.Name, st.UsedBytes)
			}
		}
		if o.fatal != nil {
			r.t.Fatalf("OSD %d: %v", o.num, o.fatal)
		}
	}
}

// leaks looks for what a server without operations must not have.
func (s *Server) leaks() error {
	ops, subs := 0, 0
	for o := s.freeOps; o != nil; o = o.next {
		ops++
	}
	for b := s.freeSubs; b != nil; b = b.next {
		subs++
	}
	for i, o := range s.objects.buckets {
		if o != nil {
			return fmt.Errorf("object %v in bucket %d is held in phase %d", o.oid, i, o.phase)
		}
	}
	switch {
	case ops != s.opsMade:
		return fmt.Errorf("%d of %d operations are free", ops, s.opsMade)
	case subs != s.subsMade:
		return fmt.Errorf("%d of %d subops are free", subs, s.subsMade)
	case s.memory.pool != nil && s.memory.pool.Stats().UsedBytes != 0 || s.memory.long != 0:
		return fmt.Errorf("memory is in use")
	case s.ready.head != nil || s.memWaiters.head != nil:
		return fmt.Errorf("operations wait")
	}
	return nil
}
