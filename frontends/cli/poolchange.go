package cli

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// poolsAt is config/pools as it was read, to be changed.
type poolsAt struct {
	*schema.Pools
	rev      int64
	defaults schema.PoolDefaults
	global   *schema.Object
}

// readPools reads config/pools past the client: it is about to be rewritten.
func (c *cluster) readPools() (*poolsAt, error) {
	k := c.keys
	got, _, err := c.read(getOp(k.Pools()), getOp(k.Global()))
	if err != nil {
		return nil, err
	}
	p := &poolsAt{}
	var global, pools []byte
	if kv := first(got[0]); kv != nil {
		pools, p.rev = kv.Value, kv.ModRevision
	}
	if kv := first(got[1]); kv != nil {
		global = kv.Value
	}
	o, err := schema.DecodeObject(k.Global(), global)
	if err != nil {
		return nil, fail(syscall.EINVAL, "%v", err)
	}
	p.global = &o
	p.defaults, _ = schema.GlobalPoolDefaults(k.Global(), p.global)
	p.Pools, err = schema.DecodePools(k.Pools(), pools, p.defaults)
	if err != nil && len(p.Valid)+len(p.Invalid) == 0 && len(pools) > 0 && p.Config.Len() == 0 && decodeAny(pools) == nil {
		return nil, fail(syscall.EINVAL, "%v: correct it before changing pools", err)
	}
	return p, nil
}

// find is a pool by its id or name, also one with wrong parameters.
func (p *poolsAt) find(name string) (meta.PoolID, *schema.Object) {
	found, object := meta.PoolID(0), (*schema.Object)(nil)
	for id, raw := range p.Config.All() {
		n, ok := parseNumber(id)
		o, err := schema.DecodeObject(id, raw)
		if !ok || err != nil {
			continue
		}
		if id == name {
			return meta.PoolID(n), &o
		}
		if found == 0 && specOf(&o).text("name") == name {
			found, object = meta.PoolID(n), &o
		}
	}
	return found, object
}

// replacePools stores all pools unless somebody was faster.
func (c *cluster) replacePools(all *schema.Object, rev int64) (done bool, err error) {
	t := c.keys.PutPools(all.Encode(), rev)
	answer, err := c.txn(&t)
	if err != nil {
		return false, err
	}
	if answer.Succeeded {
		return true, c.until(answer.Revision)
	}
	return false, nil
}

func (r *run) createPool() (result, error) {
	spec, err := r.poolOptions()
	if err != nil {
		return result{}, err
	}
	if len(r.words) > 0 {
		spec["name"] = r.words[0]
	}
	spec.fill()
	if err := spec.check(); err != nil {
		return result{}, err
	}
	spec.tidy()
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	name := spec.text("name")
	for range attemptsMax {
		pools, err := c.readPools()
		if err != nil {
			return result{}, err
		}
		if id, _ := pools.find(name); id != 0 {
			return result{}, fail(syscall.EAGAIN, "Pool %s already exists", name)
		}
		if !r.flag("force") {
			if err := r.enoughOSDs(spec, pools); err != nil {
				return result{}, err
			}
		}
		id, err := pools.NextID()
		if err != nil {
			return result{}, fail(syscall.ENOSPC, "%v", err)
		}
		stored := spec.stored(&schema.Object{})
		if _, err := spec.decode(c.keys.Pools(), id, stored, pools.defaults); err != nil {
			return result{}, err
		}
		all := pools.With(id, stored)
		done, err := c.replacePools(&all, pools.rev)
		if err != nil {
			return result{}, err
		}
		if done {
			return result{text: "Pool " + name + " created", data: object(spec)}, r.waitPool(id, name, pools.global)
		}
	}
	return result{}, fail(syscall.EAGAIN, "Pool %s: others keep changing pools: try again", name)
}

// waitPool waits for active PGs if that is wanted.
func (r *run) waitPool(id meta.PoolID, name string, global *schema.Object) error {
	if !r.flag("wait") {
		return nil
	}
	pause := time.Second
	if ms, ok := asFloat(decodeAny(global.Get("mon_change_timeout"))); ok && ms > 0 {
		pause = time.Duration(ms) * time.Millisecond
	}
	for range 5 {
		time.Sleep(pause)
		s, err := r.conn.state()
		if err != nil {
			return err
		}
		if p := s.pools[id]; p != nil {
			info := &poolInfo{pool: p, targets: s.targets.Pool(id)}
			if info.placement(s, nil); info.status != "inactive" && info.targets.Count() == p.PGCount {
				return nil
			}
		}
	}
	return fail(syscall.EAGAIN, "Pool %s was created, but its PGs are not active yet: look at vitastor-cli pgs --pool %s", name, name)
}

// enoughOSDs refuses pools that could only be degraded. It also chooses
// parameters on which all matching OSDs agree.
func (r *run) enoughOSDs(spec poolSpec, pools *poolsAt) error {
	s, err := r.conn.state()
	if err != nil {
		return err
	}
	osds, err := r.conn.osds()
	if err != nil {
		return err
	}
	inventory := inventoryOf(s, osds, pools.global)
	in := inventory.OSDs()
	tags, _ := spec["osd_tags"].([]string)
	osds = slices.DeleteFunc(osds, func(o *osdInfo) bool {
		return !slices.Contains(in, o.num) || slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(o.config.Tags, t) })
	})
	r.chooseLayout(spec, osds, pools.defaults)
	pool, err := spec.decode("", 1, spec.stored(&schema.Object{}), pools.defaults)
	if err != nil {
		return err
	}
	// Nodes are counted below the level; the OSDs of a PG are never the same.
	nodes := map[string]bool{}
	tree := inventory.Tree(pool)
	if pool.RootNode == "" || tree.Find(pool.RootNode) != nil || len(tree.Leaves()) > 0 {
		for _, leaf := range tree.Leaves() {
			if n := leaf.At(pool.FailureDomain); n != nil && leaf.OSD != 0 {
				nodes[n.ID] = true
			}
		}
	}
	if len(nodes) >= pool.PGSize {
		return nil
	}
	return fail(syscall.EINVAL, "Not enough matching OSDs to create pool. Change parameters or add --force to create a degraded pool.\n\n"+
		"At least %d (pg_size=%d) OSDs should have:\n- %s", pool.PGSize, pool.PGSize, strings.Join(requirements(pool), "\n- "))
}

func requirements(pool *schema.Pool) []string {
	list := []string{"block_size " + shortSize(uint64(pool.BlockBytes)), "bitmap_granularity " + shortSize(uint64(pool.GranularityBytes)),
		"immediate_commit " + pool.Commit.String()}
	if len(pool.OSDTags) > 0 {
		word := " tag"
		if len(pool.OSDTags) > 1 {
			word = " tags"
		}
		list = append(list, "'"+strings.Join(pool.OSDTags, "', '")+"'"+word)
	}
	if pool.RootNode != "" {
		list = append(list, "a place below the node '"+pool.RootNode+"'")
	}
	if pool.FailureDomain != schema.LevelOSD {
		list = append(list, "different parent '"+pool.FailureDomain+"' nodes")
	}
	return list
}

// chooseLayout takes over parameters that all OSDs have, unless they are given
// or the default.
func (r *run) chooseLayout(spec poolSpec, osds []*osdInfo, defaults schema.PoolDefaults) {
	choose := func(name, def string, of func(*schema.OSDStats) (text string, value any)) {
		if spec[name] != nil || len(osds) == 0 {
			return
		}
		text, value := of(&osds[0].stats)
		for _, o := range osds {
			if t, _ := of(&o.stats); t != text {
				return
			}
		}
		if text != "" && text != "0" && text != def {
			spec[name] = value
			r.note("Selected %s %s: all matching OSDs have it", name, text)
		}
	}
	choose("block_size", shortSize(uint64(defaults.BlockBytes)), func(s *schema.OSDStats) (string, any) { return shortSize(uint64(s.BlockBytes)), s.BlockBytes })
	choose("bitmap_granularity", shortSize(uint64(defaults.GranularityBytes)), func(s *schema.OSDStats) (string, any) {
		return shortSize(uint64(s.GranularityBytes)), s.GranularityBytes
	})
	choose("immediate_commit", defaults.Commit.String(), func(s *schema.OSDStats) (string, any) { return s.ImmediateCommit, s.ImmediateCommit })
}

// inventoryOf are the OSDs that may get data, as the monitor sees them.
func inventoryOf(s *state, osds []*osdInfo, global *schema.Object) *placement.Inventory {
	levels, _ := schema.DecodeObject("placement_levels", global.Get("placement_levels"))
	outTime := 600.0
	if v, ok := asFloat(decodeAny(global.Get("osd_out_time"))); ok {
		outTime = v
	}
	in := &placement.Input{Levels: placement.NewLevels(&levels), Nodes: s.nodes, NowMillis: uint64(now().UnixMilli()),
		OutTime: time.Duration(outTime * float64(time.Second))}
	for _, o := range osds {
		in.OSDs = append(in.OSDs, placement.OSD{Num: o.num, Stats: &o.stats, Config: o.config, HasState: o.up})
	}
	return placement.Build(in)
}

func (r *run) modifyPool() (result, error) {
	if len(r.words) == 0 {
		return result{}, fail(syscall.ENOENT, "Pool ID or name is required to modify it")
	}
	change, err := r.poolOptions()
	if err != nil {
		return result{}, err
	}
	c, err := r.connect()
	if err != nil {
		return result{}, err
	}
	for range attemptsMax {
		pools, err := c.readPools()
		if err != nil {
			return result{}, err
		}
		id, before := pools.find(r.words[0])
		if before == nil {
			return result{}, fail(syscall.ENOENT, "Pool %s does not exist", r.words[0])
		}
		spec, err := r.changedPool(change, id, before, pools)
		if err != nil {
			return result{}, err
		}
		stored := spec.stored(before)
		if _, err := spec.decode(c.keys.Pools(), id, stored, pools.defaults); err != nil {
			return result{}, err
		}
		all := pools.With(id, stored)
		done, err := c.replacePools(&all, pools.rev)
		if err != nil {
			return result{}, err
		}
		if done {
			return result{text: "Pool " + specOf(before).text("name") + " updated", data: decodeAny(all.Encode())}, nil
		}
	}
	return result{}, fail(syscall.EAGAIN, "Pool %s: others keep changing pools: try again", r.words[0])
}

// changedPool applies options to a stored pool and refuses what would lose data.
func (r *run) changedPool(change poolSpec, id meta.PoolID, before *schema.Object, pools *poolsAt) (poolSpec, error) {
	old, spec := specOf(before), specOf(before)
	for name, v := range change {
		spec[name] = v
	}
	if other, _ := pools.find(spec.text("name")); change["name"] != nil && other != 0 && other != id && specOf(before).text("name") != spec.text("name") {
		return nil, fail(syscall.EEXIST, "Pool %s already exists", spec.text("name"))
	}
	if !r.flag("force") {
		if err := keepsData(old, spec, change); err != nil {
			return nil, err
		}
		if app := change.text("used_for_app") + change.text("used_for_fs"); app != "" {
			if err := r.unusedPool(id, old, spec); err != nil {
				return nil, err
			}
		}
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	spec.tidy()
	return spec, nil
}

// keepsData refuses changes after which existing data could not be read.
func keepsData(old, spec, change poolSpec) error {
	switch {
	case old.text("scheme") != spec.text("scheme"):
		return fail(syscall.EINVAL, "Changing scheme for an existing pool will lead to data loss. Use --force to proceed")
	case spec.text("scheme") != "replicated" && old.dataChunks() != spec.dataChunks():
		return fail(syscall.EINVAL, "Changing EC data chunk count for an existing pool will lead to data loss. Use --force to proceed")
	}
	differs := func(name string) bool {
		return change[name] != nil && fmt.Sprint(old[name]) != fmt.Sprint(spec[name])
	}
	switch {
	case differs("block_size") || differs("bitmap_granularity") || differs("immediate_commit"):
		return fail(syscall.EINVAL, "Changing block_size, bitmap_granularity or immediate_commit for an existing pool will lead to incomplete PGs. Use --force to proceed")
	case differs("pg_stripe_size"):
		return fail(syscall.EINVAL, "Changing pg_stripe_size for an existing pool will lead to data loss. Use --force to proceed")
	}
	return nil
}

// unusedPool refuses to give a pool with images to an application; its own
// metadata image does not count.
func (r *run) unusedPool(id meta.PoolID, old, spec poolSpec) error {
	s, err := r.conn.state()
	if err != nil {
		return err
	}
	app := spec.text("used_for_app")
	if fs := spec.text("used_for_fs"); fs != "" {
		app = "fs:" + fs
	}
	for _, inode := range s.order {
		if inode.Pool() == id && "fs:"+s.inodes[inode].Name != app {
			return fail(syscall.ENOENT, "Pool %s has block images, delete them before using it for VitastorFS, S3 or another app", old.text("name"))
		}
	}
	return nil
}

func (r *run) rmPool() (result, error) {
	if len(r.words) == 0 {
		return result{}, fail(syscall.EINVAL, "Pool name or id must be given")
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	c := r.conn
	for range attemptsMax {
		pools, err := c.readPools()
		if err != nil {
			return result{}, err
		}
		id, before := pools.find(r.words[0])
		if before == nil {
			return result{}, fail(syscall.ENOENT, "Pool %s does not exist", r.words[0])
		}
		name := specOf(before).text("name")
		var images []string
		for _, inode := range s.order {
			if inode.Pool() == id {
				images = append(images, s.inodes[inode].Name)
			}
		}
		if len(images) > 0 && !r.flag("force") {
			return result{}, fail(syscall.ENOTEMPTY, "Pool %s cannot be removed as it still has the following images/snapshots associated with it: %s", name, strings.Join(images, ", "))
		}
		all := pools.Without(id)
		done, err := c.replacePools(&all, pools.rev)
		if err != nil {
			return result{}, err
		}
		if done {
			return result{text: "Pool " + name + " deleted", data: decodeAny(all.Encode())}, nil
		}
	}
	return result{}, fail(syscall.EAGAIN, "Pool %s: others keep changing pools: try again", r.words[0])
}
