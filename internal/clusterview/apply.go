package clusterview

import (
	"bytes"
	"errors"
	"slices"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// apply brings the state up to date with one message, and tells about it once.
func (v *View) apply(b *Batch) {
	v.changes = &Changes{Reloaded: b.Reloaded, Revision: b.Revision}
	pools := false
	for i := range b.Events {
		pools = v.applyEvent(&b.Events[i]) == schema.KindPools || pools
	}
	if renewed := b.Reloaded && v.renewDefaults(); renewed || pools {
		v.applyPools()
	}
	c := v.changes
	v.changes = nil
	c.sort()
	if !c.empty() {
		v.config.Changed(c)
	}
}

func (c *Changes) sort() {
	slices.Sort(c.Pools)
	c.Pools = slices.Compact(c.Pools)
	slices.Sort(c.PGConfigs)
	c.PGConfigs = slices.Compact(c.PGConfigs)
	slices.SortFunc(c.PGStates, meta.PG.Compare)
	slices.SortFunc(c.PGHistories, meta.PG.Compare)
	slices.Sort(c.OSDs)
	slices.Sort(c.Inodes)
}

func (c *Changes) empty() bool {
	return !c.Reloaded && !c.Global && !c.Placement && len(c.Pools) == 0 && len(c.PGConfigs) == 0 &&
		len(c.PGStates) == 0 && len(c.PGHistories) == 0 && len(c.OSDs) == 0 && len(c.Inodes) == 0
}

func (v *View) applyEvent(e *env.WatchEvent) schema.Kind {
	k, ok := v.config.Keys.Parse(e.KV.Key)
	if !ok {
		v.config.Log.Debug("unknown key in etcd", "key", e.KV.Key)
	}
	kv := e.KV
	if e.Deleted || isNull(kv.Value) {
		kv.Value = nil // the decoders' form of "does not exist"
	}
	switch k.Kind {
	case schema.KindGlobal:
		v.applyGlobal(&kv)
	case schema.KindNodePlacement:
		v.applyPlacement(&kv)
	case schema.KindPools:
		v.poolsText = kv // for applyPools
	case schema.KindPGConfig:
		v.applyPGConfig(&kv, &v.pgConfig)
	case schema.KindLegacyPGConfig:
		v.applyPGConfig(&kv, &v.legacy)
	case schema.KindPGState:
		v.applyPGState(&kv, k.PGID())
	case schema.KindPGHistory:
		v.applyPGHistory(&kv, k.PGID())
	case schema.KindOSDState:
		v.applyOSD(&kv, k.OSD)
	case schema.KindInodeConfig:
		v.applyInode(&kv, k.Inode())
	}
	return k.Kind
}

// isNull: for every reader such a value is a missing key (etcd.md §1).
func isNull(value []byte) bool {
	text := bytes.TrimSpace(value)
	return len(text) == 0 || string(text) == "null"
}

// unreadable tells that the value as a whole makes no sense, not just a field.
func unreadable(err error) bool {
	var f *schema.FieldError
	return errors.As(err, &f) && f.Field == ""
}

// complain logs why a value, or a part of it, is not used.
func (v *View) complain(kv *env.KeyValue, err error) {
	v.config.Log.Warn("bad value in etcd is ignored", "key", kv.Key, "revision", kv.ModRevision, "err", err)
}

func (v *View) applyGlobal(kv *env.KeyValue) {
	global, err := schema.DecodeObject(kv.Key, kv.Value)
	if err != nil {
		v.complain(kv, err)
		return
	}
	v.global = &global
	v.changes.Global = true
}

func (v *View) applyPlacement(kv *env.KeyValue) {
	nodes, err := schema.DecodeNodePlacement(kv.Key, kv.Value)
	if err != nil {
		v.complain(kv, err)
	}
	if unreadable(err) {
		return
	}
	v.placement = nodes
	v.changes.Placement = true
}

// renewDefaults takes the defaults of pools from config/global, which counts
// only at loads (etcd.md 2.1), and tells whether they have changed.
func (v *View) renewDefaults() bool {
	defaults, err := schema.GlobalPoolDefaults(v.config.Keys.Global(), v.global)
	if err != nil {
		v.config.Log.Warn("bad value in etcd is ignored", "err", err)
	}
	changed := defaults != v.defaults
	v.defaults = defaults
	return changed
}

func (v *View) applyPools() {
	kv := &v.poolsText
	pools, err := schema.DecodePools(kv.Key, kv.Value, v.defaults)
	if err != nil {
		v.complain(kv, err)
	}
	if unreadable(err) {
		return
	}
	for _, w := range pools.Warnings {
		v.config.Log.Warn("pool parameter in etcd", "err", w)
	}
	for id := range v.pools {
		if pools.Valid[id] == nil && pools.Invalid[id] == nil {
			delete(v.pools, id)
			v.changes.Pools = append(v.changes.Pools, id)
		}
	}
	for id := range v.poolErrs {
		if pools.Valid[id] == nil && pools.Invalid[id] == nil {
			v.changes.Pools = append(v.changes.Pools, id)
		}
	}
	for id, p := range pools.Valid {
		if v.poolErrs[id] != nil || !samePool(v.pools[id], p) {
			v.pools[id] = p
			v.changes.Pools = append(v.changes.Pools, id)
		}
	}
	for id, err := range pools.Invalid {
		if v.poolErrs[id] == nil || v.poolErrs[id].Error() != err.Error() {
			v.changes.Pools = append(v.changes.Pools, id)
		}
	}
	v.poolErrs = pools.Invalid
}

// samePool compares the stored form and what defaults make of it.
func samePool(a, b *schema.Pool) bool {
	return a != nil && a.BlockBytes == b.BlockBytes && a.GranularityBytes == b.GranularityBytes &&
		a.Commit == b.Commit && bytes.Equal(a.Config.Encode(), b.Config.Encode())
}

// applyPGConfig sets one of the two places of the configuration.
func (v *View) applyPGConfig(kv *env.KeyValue, place **schema.PGConfig) {
	before := v.PGConfig()
	var config *schema.PGConfig
	if kv.Value != nil {
		c, err := schema.DecodePGConfig(kv.Key, kv.Value)
		if err != nil {
			v.complain(kv, err)
		}
		if unreadable(err) {
			return
		}
		config = c
	}
	*place = config
	v.diffPGConfig(before, v.PGConfig())
}

func (v *View) diffPGConfig(a, b *schema.PGConfig) {
	changed := func(p meta.PoolID) { v.changes.PGConfigs = append(v.changes.PGConfigs, p) }
	for i := range a.Pools {
		if b.Pool(a.Pools[i].Pool) == nil {
			changed(a.Pools[i].Pool)
		}
	}
	for i := range b.Pools {
		if p := &b.Pools[i]; !samePGs(a.Pool(p.Pool), p) {
			changed(p.Pool)
		}
	}
	for _, p := range a.Backfillfull {
		if !slices.Contains(b.Backfillfull, p) {
			changed(p)
		}
	}
	for _, p := range b.Backfillfull {
		if !slices.Contains(a.Backfillfull, p) {
			changed(p)
		}
	}
}

func samePGs(a, b *schema.PoolPGs) bool {
	return a != nil && a.Count() == b.Count() && slices.EqualFunc(a.PGs, b.PGs, func(s, t schema.PGTarget) bool {
		return s.Num == t.Num && s.Primary == t.Primary && s.Pause == t.Pause && s.Broken == t.Broken &&
			slices.Equal(s.OSDSet, t.OSDSet)
	})
}

func (v *View) applyPGState(kv *env.KeyValue, pg meta.PG) {
	s, err := schema.DecodePGState(kv.Key, kv.Value)
	if err != nil {
		v.complain(kv, err)
		return
	}
	if s.Offline() {
		delete(v.states, pg)
	} else {
		v.states[pg] = &s
	}
	v.changes.PGStates = append(v.changes.PGStates, pg)
}

func (v *View) applyPGHistory(kv *env.KeyValue, pg meta.PG) {
	h, err := schema.DecodePGHistory(kv.Key, kv.Value)
	switch {
	case err != nil:
		v.complain(kv, err)
		old, _ := v.PGHistory(pg)
		v.histories[pg] = &history{old, err}
	case kv.Value == nil:
		delete(v.histories, pg)
	default:
		v.histories[pg] = &history{value: h}
	}
	v.changes.PGHistories = append(v.changes.PGHistories, pg)
}

func (v *View) applyOSD(kv *env.KeyValue, osd meta.OSDNum) {
	s, err := schema.DecodeOSDState(kv.Key, kv.Value)
	if err != nil {
		v.complain(kv, err)
	}
	if unreadable(err) {
		return
	}
	delete(v.osds, osd)
	if s.Up() && s.Port != 0 && len(s.Addresses) > 0 {
		v.osds[osd] = &s
	}
	v.changes.OSDs = append(v.changes.OSDs, osd)
}

func (v *View) applyInode(kv *env.KeyValue, id meta.Inode) {
	if old := v.inodes[id]; old != nil {
		delete(v.inodes, id)
		v.setName(old.Name, slices.DeleteFunc(slices.Clone(v.names[old.Name]),
			func(i meta.Inode) bool { return i == id }))
	}
	v.changes.Inodes = append(v.changes.Inodes, id)
	if kv.Value == nil {
		return
	}
	c, err := schema.DecodeInodeConfig(kv.Key, id, kv.Value)
	if err != nil {
		v.complain(kv, err)
		return
	}
	v.inodes[id] = &schema.SeenInode{InodeConfig: c, Rev: kv.ModRevision}
	ids := append(slices.Clone(v.names[c.Name]), id)
	slices.Sort(ids)
	v.setName(c.Name, ids)
}

func (v *View) setName(name string, ids []meta.Inode) {
	if len(ids) == 0 {
		delete(v.names, name)
		return
	}
	v.names[name] = ids
}
