package simcluster

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// The check at rest: OSDs are stopped, their disks are opened by the store
// alone, and every copy of every object is compared (spec osd.md §2, §5, §7).
// When a PG is exactly active, the OSDs of its set have all chunks of each
// object in one stable version, equal or with matching parity, and nobody else
// has anything.

// chunk is what one OSD has of one object.
type chunk struct {
	osd      meta.OSDNum
	id       meta.ObjectID
	version  meta.Version
	unstable bool
	data     []byte
	bitmap   []byte
	err      syscall.Errno
}

// checkAtRest stops all OSDs and judges their disks.
func (k *Cluster) checkAtRest() {
	kv := k.get(k.keys.PGConfig())
	config, err := schema.DecodePGConfig(kv.Key, kv.Value)
	if err != nil {
		k.violate("pg/config", "%v", err)
		return
	}
	for _, n := range k.osds {
		n.held = true
		n.node.Crash()
		n.free()
	}
	objects := map[meta.ObjectID][]chunk{}
	for _, n := range k.osds {
		for _, c := range k.readDisk(n) {
			id := c.id.Object()
			objects[id] = append(objects[id], c)
		}
	}
	ids := make([]meta.ObjectID, 0, len(objects))
	for id := range objects {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, meta.ObjectID.Compare)
	for _, id := range ids {
		if text := k.judgeObject(config, id, objects[id]); text != "" {
			k.violate("replicas", "object %v: %s", id, text)
		}
	}
}

// judgeObject returns what is wrong with the copies of an object, or "".
func (k *Cluster) judgeObject(config *schema.PGConfig, id meta.ObjectID, chunks []chunk) string {
	p := k.pool(id.Inode.Pool())
	pgs := config.Pool(id.Inode.Pool())
	if p == nil || pgs == nil {
		return "belongs to no pool"
	}
	num := meta.PGOf(id.Stripe, k.c.ObjectBytes(p), uint32(len(pgs.PGs)))
	set := pgs.PG(num).OSDSet
	by := make([]*chunk, p.Size)
	for i := range chunks {
		c := &chunks[i]
		role := slices.Index(set, c.osd)
		wantRole := meta.Role(0)
		if p.Scheme != "replicated" && role >= 0 {
			wantRole = meta.Role(role)
		}
		switch {
		case role < 0 || c.id.Role() != wantRole:
			return fmt.Sprintf("OSD %d has role %d, but PG %d is on %v: %s", c.osd, c.id.Role(), num, set, versions(chunks))
		case c.unstable:
			return fmt.Sprintf("OSD %d has unstable versions: %s", c.osd, versions(chunks))
		case c.err != 0:
			return fmt.Sprintf("OSD %d does not read it: %v", c.osd, c.err)
		}
		by[role] = c
	}
	for role, c := range by {
		if c == nil {
			return fmt.Sprintf("OSD %d of %v has nothing: %s", set[role], set, versions(chunks))
		}
		if c.version != by[0].version {
			return "different versions: " + versions(chunks)
		}
	}
	if p.Scheme == "replicated" {
		return judgeReplicas(by)
	}
	return judgeParity(p, by)
}

func versions(chunks []chunk) string {
	text := ""
	for _, c := range chunks {
		text += fmt.Sprintf(" %d@%d:%v", c.id.Role(), c.osd, c.version)
		if c.unstable {
			text += "u"
		}
	}
	return text
}

func judgeReplicas(by []*chunk) string {
	for _, c := range by[1:] {
		if i := differsAt(c.data, by[0].data); i >= 0 {
			return fmt.Sprintf("OSD %d and %d differ at byte %d", by[0].osd, c.osd, i)
		}
		if !bytes.Equal(c.bitmap, by[0].bitmap) {
			return fmt.Sprintf("OSD %d and %d have bitmaps %x and %x", by[0].osd, c.osd, by[0].bitmap, c.bitmap)
		}
	}
	return ""
}

func differsAt(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// judgeParity calculates the parity chunks from the data chunks.
func judgeParity(p *PoolConfig, by []*chunk) string {
	d := p.DataChunks()
	for i := range p.Parity {
		data := make([]byte, len(by[0].data))
		bitmap := make([]byte, len(by[0].bitmap))
		for j := range d {
			f := parityFactor(d, p.Parity, i, j)
			addProduct(data, by[j].data, f)
			addProduct(bitmap, by[j].bitmap, f)
		}
		c := by[d+i]
		if at := differsAt(c.data, data); at >= 0 {
			return fmt.Sprintf("parity %d on OSD %d is wrong at byte %d", i, c.osd, at)
		}
		if !bytes.Equal(c.bitmap, bitmap) {
			return fmt.Sprintf("parity bitmap %d on OSD %d is %x, should be %x", i, c.osd, c.bitmap, bitmap)
		}
	}
	return ""
}

// parityRows are rows of M from spec osd.md §7.2, by data and parity chunks;
// the first row is all ones in every geometry.
var parityRows = map[[2]int][]byte{{2, 2}: {1, 143}, {4, 2}: {1, 70, 143, 200}}

func parityFactor(dataChunks, parity, i, j int) byte {
	if i == 0 {
		return 1
	}
	return parityRows[[2]int{dataChunks, parity}][j]
}

// addProduct adds f * src to dst in GF(2^8) mod 0x11d.
func addProduct(dst, src []byte, f byte) {
	var table [256]byte
	for x := range table {
		a, product := byte(x), byte(0)
		for g := f; g != 0; g >>= 1 {
			if g&1 != 0 {
				product ^= a
			}
			carry := a & 0x80
			if a <<= 1; carry != 0 {
				a ^= 0x1d
			}
		}
		table[x] = product
	}
	for i := range dst {
		dst[i] ^= table[src[i]]
	}
}

// reader lists and reads everything on one disk.
type reader struct {
	k      *Cluster
	n      *osdNode
	st     *store.Store
	buf    []byte
	chunks []chunk
	done   bool
}

// readDisk starts nothing but the store of a stopped OSD.
func (k *Cluster) readDisk(n *osdNode) []chunk {
	n.node.SetProgram(nil)
	if !n.node.Running() {
		n.node.Restart()
	}
	r := &reader{k: k, n: n}
	n.node.Do(func(e *env.Env) { r.open(e) })
	if !k.w.RunUntil(func() bool { return r.done }, time.Minute) {
		k.violate("disk", "OSD %d: the store does not open", n.num)
	}
	n.node.Crash()
	return r.chunks
}

func (r *reader) fail(err error) bool {
	if err != nil && !r.done {
		r.k.violate("disk", "OSD %d: %v", r.n.num, err)
		r.done = true
	}
	return err != nil
}

func (r *reader) open(e *env.Env) {
	o := layout.Options{}
	for name, value := range r.n.layoutOptions() {
		o[name] = value
	}
	sizes := layout.DeviceBytes{Data: uint64(r.k.c.DiskBytes), Meta: uint64(r.k.c.DiskBytes), Buffer: uint64(r.k.c.DiskBytes)}
	data, err := e.Storage.OpenDisk(dataPath, env.DiskOptions{})
	if r.fail(err) {
		return
	}
	disks := store.Disks{Data: data, Meta: data, Buffer: data}
	if r.k.c.Commit == meta.CommitSmall {
		m, err := e.Storage.OpenDisk(metaPath, env.DiskOptions{})
		if r.fail(err) {
			return
		}
		disks.Meta, disks.Buffer = m, m
		sizes.Meta, sizes.Buffer = uint64(m.Info().SizeBytes), uint64(m.Info().SizeBytes)
	}
	p, err := layout.NewParams(o, sizes)
	if r.fail(err) {
		return
	}
	c := store.ConfigOf(p)
	c.OnFatal = func(err error) { r.fail(err) }
	store.Open(e, disks, c, func(st *store.Store, err error) {
		if !r.fail(err) {
			r.st = st
			r.buf, _ = pinned.AlignedBuffer(int(r.k.c.BlockBytes))
			r.list(0)
		}
	})
}

// list lists pool i, reads what is there, and goes on with the next pool.
func (r *reader) list(i int) {
	if i == len(r.k.c.Pools) {
		r.st.Close(func(err error) {
			pinned.Free(r.buf)
			r.done = !r.fail(err) || r.done
		})
		return
	}
	p := &r.k.c.Pools[i]
	r.st.Reshard(p.ID, 1, r.k.c.ObjectBytes(p))
	l := &store.List{Pool: p.ID, PG: 1, PGCount: 1, PGStripeBytes: r.k.c.ObjectBytes(p),
		Min: meta.ObjectID{Inode: meta.MakeInode(p.ID, 0)}, Max: meta.ObjectID{Inode: meta.MakeInode(p.ID, meta.MaxInodeNumber), Stripe: ^uint64(0)}}
	r.st.Submit(&store.Op{Kind: store.OpList, List: l, Done: func(op *store.Op) {
		if op.Err == syscall.EAGAIN { // the index is being made
			r.k.w.After(time.Millisecond, func() { r.n.node.Do(func(*env.Env) { r.list(i) }) })
			return
		}
		for _, v := range l.Unstable {
			r.chunks = append(r.chunks, chunk{osd: r.n.num, id: v.ObjectID, version: v.Version, unstable: true})
		}
		r.read(l.Stable, func() { r.list(i + 1) })
	}})
}

// read reads the listed objects one after the other.
func (r *reader) read(list []meta.ObjectVersion, then func()) {
	if len(list) == 0 {
		then()
		return
	}
	v := list[0]
	c := chunk{osd: r.n.num, id: v.ObjectID, version: v.Version, bitmap: make([]byte, r.st.BitmapBytes())}
	clear(r.buf)
	r.st.Submit(&store.Op{Kind: store.OpRead, OID: v.ObjectID, Version: v.Version, Len: r.k.c.BlockBytes, Buf: r.buf, Bitmap: c.bitmap,
		Done: func(op *store.Op) {
			c.err, c.data = op.Err, append([]byte(nil), r.buf...)
			r.chunks = append(r.chunks, c)
			r.read(list[1:], then)
		}})
}
