package recheck

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// read takes one changed value; nil = the key does not exist.
func (s *State) read(c *Changes, k schema.Key, key string, value []byte, deleted bool) {
	switch k.Kind {
	case schema.KindPools:
		s.readPools(c, key, value)
	case schema.KindNodePlacement:
		nodes, err := schema.DecodeNodePlacement(key, value)
		if s.good(c, k, key, err, s.nodes != nil) {
			s.nodes = nodes
		}
		c.Placement = true
	case schema.KindOSDConfig:
		s.readOSDConfig(c, k, key, value, deleted)
	case schema.KindOSDState:
		s.readOSDState(c, k, deleted)
	case schema.KindOSDStats:
		s.readOSDStats(c, k, key, value, deleted)
	case schema.KindPGConfig, schema.KindLegacyPGConfig, schema.KindLastCleanPGs:
		s.readPGConfig(c, k, key, value, deleted)
	case schema.KindPGState, schema.KindPGHistory:
		s.readPG(c, k, key, value, deleted)
	case schema.KindPGStats:
		s.readObjects(c, s.objects, k, key, value, deleted)
	case schema.KindLegacyPGStats:
		s.readObjects(c, s.old, k, key, value, deleted)
	case schema.KindPoolStats:
		stats, err := schema.DecodePoolStats(key, value)
		if deleted || err != nil {
			stats = schema.PoolStats{} // it is computed, and written anew
		}
		c.Placement = c.Placement || !stats.Complete()
		s.stats[k.Pool] = stats
	}
}

// good notes whether a value can be used. had tells that an older one can be
// used instead.
func (s *State) good(c *Changes, k schema.Key, key string, err error, had bool) bool {
	before, wasBad := s.bad[key]
	if err == nil {
		delete(s.bad, key)
		return true
	}
	s.bad[key] = badValue{key: k, err: err, unknown: !had || wasBad && before.unknown}
	c.Problems = append(c.Problems, err)
	return false
}

func (s *State) readPools(c *Changes, key string, value []byte) {
	c.Placement = true
	s.poolsRaw = value
	if _, err := schema.DecodeObject(key, value); !s.good(c, schema.Key{Kind: schema.KindPools}, key, err, s.pools.Valid != nil) {
		return
	}
	pools, err := schema.DecodePools(key, value, s.defaults)
	if err != nil {
		c.Problems = append(c.Problems, fmt.Errorf("pools that are not valid keep their PGs as they are: %w", err))
	}
	s.pools = pools
	for id, pool := range pools.Valid {
		s.valid[id] = pool
	}
	for id := range s.valid {
		if !s.configured(id) {
			delete(s.valid, id)
		}
	}
}

func (s *State) readOSDConfig(c *Changes, k schema.Key, key string, value []byte, deleted bool) {
	o := s.osd(k.OSD)
	config, err := schema.DecodeOSDConfig(key, value)
	if s.good(c, k, key, err, o.config != nil) {
		o.config = &config
		if deleted {
			o.config = nil
		}
	}
	c.Placement = true
}

// readOSDState only looks whether the key exists: for the reference, too, an
// OSD with it is up.
func (s *State) readOSDState(c *Changes, k schema.Key, deleted bool) {
	o := s.osd(k.OSD)
	c.Vanished = c.Vanished || o.up && deleted
	c.Appeared = c.Appeared || !o.up && !deleted
	o.up = !deleted
	c.Placement = true
}

// layoutFields are the fields of osd/stats that placement depends on.
var layoutFields = []string{"", "time", "size", "host", "data_block_size", "bitmap_granularity", "immediate_commit"}

func (s *State) readOSDStats(c *Changes, k schema.Key, key string, value []byte, deleted bool) {
	o := s.osd(k.OSD)
	if deleted {
		delete(s.bad, key)
		o.stats = nil
		c.Placement = true
		return
	}
	stats, err := schema.DecodeOSDStats(key, value)
	if !about(err, layoutFields) {
		err = nil
	}
	if !s.good(c, k, key, err, o.stats != nil) {
		return
	}
	old := o.stats
	stats.Ops, stats.Subops, stats.Recovery = nil, nil, nil // not needed here
	o.stats = &stats
	c.Space = true
	// A report of an OSD that counted as down may bring it in again.
	if old == nil || !o.up || !sameLayout(old, &stats) {
		c.Placement = true
	}
}

func sameLayout(a, b *schema.OSDStats) bool {
	return a.SizeBytes == b.SizeBytes && a.Host == b.Host && a.BlockBytes == b.BlockBytes &&
		a.GranularityBytes == b.GranularityBytes && a.ImmediateCommit == b.ImmediateCommit
}

// about tells whether an error is about one of the fields.
func about(err error, fields []string) bool {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return about(e, fields) })
	}
	var field *schema.FieldError
	return errors.As(err, &field) && slices.ContainsFunc(fields, func(f string) bool {
		return f == field.Field || f != "" && strings.HasPrefix(field.Field, f+"[")
	})
}

func (s *State) readPGConfig(c *Changes, k schema.Key, key string, value []byte, deleted bool) {
	config, err := schema.DecodePGConfig(key, value)
	target := map[schema.Kind]**schema.PGConfig{schema.KindPGConfig: &s.config,
		schema.KindLegacyPGConfig: &s.legacy, schema.KindLastCleanPGs: &s.clean}[k.Kind]
	c.Placement = c.Placement || k.Kind != schema.KindLastCleanPGs
	switch ok := s.good(c, k, key, err, false); {
	case deleted && k.Kind != schema.KindLastCleanPGs:
		*target = nil
	case ok || k.Kind == schema.KindPGConfig:
		*target = config // what cannot be read in pg/config is marked there
	case k.Kind == schema.KindLastCleanPGs:
		*target = &schema.PGConfig{}
	}
}

func (s *State) readPG(c *Changes, k schema.Key, key string, value []byte, deleted bool) {
	pg := k.PGID()
	if k.Kind == schema.KindPGHistory {
		_, wasBad := s.bad[key]
		h, err := schema.DecodePGHistory(key, value)
		s.good(c, k, key, err, false)
		c.Placement = c.Placement || wasBad
		s.history[pg] = &h
		if deleted {
			delete(s.history, pg)
		}
		return
	}
	c.PGStates = true
	state, err := schema.DecodePGState(key, value)
	if deleted {
		delete(s.bad, key)
		delete(s.states, pg)
		return
	}
	if !s.good(c, k, key, err, true) || state.Offline() {
		// Somebody runs it: that is all that the existence of the key says.
		state = schema.PGState{State: meta.PGStarting}
	}
	s.states[pg] = state
}

func (s *State) readObjects(c *Changes, objects map[meta.PG]uint64, k schema.Key, key string, value []byte, deleted bool) {
	c.Space = true
	stats, err := schema.DecodePGStats(key, value)
	switch {
	case deleted:
		delete(objects, k.PGID())
	case err == nil:
		objects[k.PGID()] = stats.Objects
	}
}
