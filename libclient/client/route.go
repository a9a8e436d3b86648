package client

import (
	"net/netip"
	"slices"

	"vitastor/internal/clusterview"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/libclient/writeback"
)

// pool is a pool and where its objects are now.
type pool struct {
	id          meta.PoolID
	spec        *schema.Pool
	objectBytes uint64
	granule     uint64
	bitmapBytes int // of a whole object
	lazy        bool
	gone        bool // was removed
	gen         uint32
	pgs         []pg // by number - 1
}

// pg is a placement group as far as clients have to know it.
type pg struct {
	active  bool        // operations may be sent
	primary meta.OSDNum // the last one known
	osd     *osd        // of primary
	// replicas may serve reads, too (wire.md §11): OSDs of the set that are
	// up; nil = only the primary.
	replicas []*osd
	nearest  *osd // one of them
}

// osd is an OSD that is a primary, or was.
type osd struct {
	num     meta.OSDNum
	addrs   []netip.AddrPort
	wanted  bool
	session *session // nil = not connected
	raw     rawQueue // requests that wait for the connection
}

// pgOf is the placement group of an object; nil = the pool has none.
func (p *pool) pgOf(offset uint64) *pg {
	n := meta.PGOf(offset, p.spec.PGStripeBytes, uint32(len(p.pgs)))
	if n == 0 {
		return nil
	}
	return &p.pgs[n-1]
}

// updateRoutes follows a change in etcd. Everything that waits is looked at
// again.
func (c *Client) updateRoutes(ch *clusterview.Changes) {
	for _, n := range ch.OSDs {
		c.updateOSD(n)
	}
	if ch.Placement || ch.Global {
		c.paths.update(c.view.NodePlacement(), c.opts.HostName)
	}
	rebuilt := append(slices.Clone(ch.Pools), ch.PGConfigs...)
	for _, id := range rebuilt {
		c.updatePool(id)
	}
	for _, id := range ch.PGStates {
		if p := c.pools[id.Pool]; p != nil && id.Num > 0 && int(id.Num) <= len(p.pgs) {
			c.updatePG(p, id.Num)
		}
	}
	if len(ch.OSDs) > 0 || ch.Placement || ch.Global {
		for _, id := range c.poolIDs {
			c.updateReplicas(c.pools[id])
		}
	}
	c.kick()
}

// updatePool follows a change of a pool or of its list of PGs.
func (c *Client) updatePool(id meta.PoolID) {
	spec, p := c.view.Pool(id), c.pools[id]
	if spec == nil {
		if p != nil {
			p.gone = true
			delete(c.pools, id)
			c.poolIDs = slices.DeleteFunc(c.poolIDs, func(x meta.PoolID) bool { return x == id })
		}
		return
	}
	if p == nil {
		p = &pool{id: id}
		c.pools[id] = p
		c.poolIDs = append(c.poolIDs, id)
		slices.Sort(c.poolIDs)
	}
	count := int(c.view.PGConfig().Pool(id).Count())
	moved := p.spec == nil || count != len(p.pgs) || p.objectBytes != spec.ObjectBytes() ||
		p.spec.PGStripeBytes != spec.PGStripeBytes
	p.spec, p.objectBytes, p.granule = spec, spec.ObjectBytes(), uint64(spec.GranularityBytes)
	p.bitmapBytes, p.lazy = spec.BitmapBytes()*spec.DataChunks(), spec.Commit != meta.CommitAll
	if moved {
		p.gen++
		p.pgs = make([]pg, count)
		c.loseIf(func(q *writeback.Piece) bool { return q.Inode.Pool() == id })
	}
	for i := range p.pgs {
		c.updatePG(p, meta.PGNum(i+1))
	}
}

// updatePG follows a change of a PG's state or of its target.
func (c *Client) updatePG(p *pool, num meta.PGNum) {
	g := &p.pgs[num-1]
	state := c.view.PGState(meta.PG{Pool: p.id, Num: num})
	target := c.view.PGConfig().Pool(p.id).PG(num)
	g.active = target != nil && !target.Paused(p.spec.PGSize) && state.State&meta.PGActive != 0 && state.Primary != 0
	g.replicas, g.nearest = nil, nil
	if !g.active {
		return
	}
	old := g.primary
	g.primary, g.osd = state.Primary, c.osd(state.Primary)
	if old != 0 && old != g.primary {
		c.loseIf(func(q *writeback.Piece) bool { // its SYNC would not cover them
			if q.Inode.Pool() != p.id || meta.PGOf(q.Offset, p.spec.PGStripeBytes, uint32(len(p.pgs))) != num {
				return false
			}
			s := c.open[q.Tag]
			return s == nil || s.osd.num != g.primary
		})
	}
	if p.spec.LocalReads != schema.ReadPrimary && state.State&^meta.PGLeftOnDead == meta.PGActive {
		for _, n := range schema.NormalSet(slices.Clone(target.OSDSet)) {
			if c.view.OSD(n) != nil {
				g.replicas = append(g.replicas, c.osd(n))
			}
		}
		g.nearest = c.nearest(g)
	}
}

// updateReplicas follows a change of the OSDs that are up, or of their places.
func (c *Client) updateReplicas(p *pool) {
	if p.spec.LocalReads == schema.ReadPrimary {
		return
	}
	for i := range p.pgs {
		c.updatePG(p, meta.PGNum(i+1))
	}
}

// osd finds or makes the record of an OSD.
func (c *Client) osd(n meta.OSDNum) *osd {
	o := c.osds[n]
	if o == nil {
		o = &osd{num: n}
		c.osds[n] = o
		at, _ := slices.BinarySearch(c.osdIDs, n)
		c.osdIDs = slices.Insert(c.osdIDs, at, n)
		c.updateOSD(n)
	}
	return o
}

// updateOSD follows a change of an OSD's state key. When it vanishes, the OSD
// is dead or nobody may rely on it any more: what is on its way there must
// go to the new primary now, not after a timeout.
func (c *Client) updateOSD(n meta.OSDNum) {
	o := c.osds[n]
	if o == nil {
		return
	}
	st := c.view.OSD(n)
	if st == nil {
		o.addrs, o.wanted = nil, false
		c.msgr.Forget(n)
		if o.raw.head != nil {
			c.failedRaw = append(c.failedRaw, o)
			c.admit()
		}
		return
	}
	o.addrs = o.addrs[:0]
	for _, text := range st.Addresses {
		if ip, err := netip.ParseAddr(text); err == nil {
			o.addrs = append(o.addrs, netip.AddrPortFrom(ip, st.Port))
		}
	}
	if len(o.addrs) == 0 {
		c.log.Warn("OSD has no usable address in etcd", "osd", n, "addresses", st.Addresses)
	}
	if o.wanted {
		c.msgr.SetAddresses(n, o.addrs)
	}
}

// want connects to an OSD.
func (c *Client) want(o *osd) {
	if !o.wanted && len(o.addrs) > 0 && !c.ended {
		o.wanted = true
		c.msgr.SetAddresses(o.num, o.addrs)
		c.msgr.Want(o.num)
	}
}
