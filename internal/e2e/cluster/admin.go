package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// What an administrator does, by etcd alone.

// Pool is an entry of config/pools.
type Pool map[string]any

// Replicated is a pool with n copies on different OSDs.
func Replicated(name string, n, pgs int) Pool {
	return Pool{"name": name, "scheme": "replicated", "pg_size": n, "pg_minsize": 1, "pg_count": pgs, "failure_domain": "osd"}
}

// EC is a pool with data and parity chunks on different OSDs.
func EC(name string, data, parity, pgs int) Pool {
	return Pool{"name": name, "scheme": "ec", "pg_size": data + parity, "parity_chunks": parity, "pg_minsize": data,
		"pg_count": pgs, "failure_domain": "osd"}
}

// With returns the pool with one more parameter.
func (p Pool) With(name string, value any) Pool {
	p = maps.Clone(p)
	p[name] = value
	return p
}

// SetPool creates or changes a pool.
func (c *Cluster) SetPool(id meta.PoolID, p Pool) error {
	pools := map[string]any{}
	text, err := c.Get(c.Keys.Pools())
	if err != nil {
		return err
	}
	if text != nil {
		if err := json.Unmarshal(text, &pools); err != nil {
			return err
		}
	}
	pools[strconv.Itoa(int(id))] = p
	return c.PutJSON(c.Keys.Pools(), pools)
}

// CreatePool makes a pool and waits until all its PGs are active.
func (c *Cluster) CreatePool(id meta.PoolID, p Pool) error {
	began := time.Now()
	if err := c.SetPool(id, p); err != nil {
		return err
	}
	if err := c.WaitState(id, "active", 20*time.Second); err != nil {
		return err
	}
	c.Log("pool %v is active after %v", p["name"], time.Since(began).Round(time.Millisecond))
	return nil
}

// CreateImage makes an image without a snapshot.
func (c *Cluster) CreateImage(pool meta.PoolID, number uint64, name string, bytes uint64) error {
	id := meta.MakeInode(pool, number)
	image := schema.InodeConfig{ID: id, Name: name, Size: bytes}
	if err := c.Put(c.Keys.ImageIndex(name), schema.EncodeImageIndex(id)); err != nil {
		return err
	}
	if err := c.Put(c.Keys.MaxID(pool), schema.EncodeMaxID(number)); err != nil {
		return err
	}
	return c.Put(c.Keys.InodeConfig(id), image.Encode())
}

// errGone ends waiting.
var errGone = errors.New("the process has ended")

// WaitUp waits until an OSD has registered.
func (c *Cluster) WaitUp(n meta.OSDNum, limit time.Duration) error {
	p := c.osds[n]
	err := c.Until(fmt.Sprintf("OSD %d is up", n), limit, func() error {
		if p != nil && !p.Running() {
			return errGone
		}
		state, err := c.Get(c.Keys.OSDState(n))
		if err == nil && state == nil {
			err = errors.New("no key osd/state")
		}
		return err
	})
	if err != nil && p != nil {
		err = fmt.Errorf("%w\n%s", err, p.Log(20))
	}
	return err
}

// WaitDown waits until an OSD is not registered any more.
func (c *Cluster) WaitDown(n meta.OSDNum, limit time.Duration) error {
	return c.Until(fmt.Sprintf("OSD %d is down", n), limit, func() error {
		state, err := c.Get(c.Keys.OSDState(n))
		if err == nil && state != nil {
			err = errors.New("osd/state still exists")
		}
		return err
	})
}

// States are the states of all PGs of a pool, by number; "offline" for PGs that
// nobody runs. An error if the pool has no PGs yet or not those it shall have.
func (c *Cluster) States(id meta.PoolID) ([]string, error) {
	text, err := c.Get(c.Keys.PGConfig())
	if err != nil {
		return nil, err
	}
	config, err := schema.DecodePGConfig("", text)
	if err != nil {
		return nil, err
	}
	count := config.Pool(id).Count()
	if count == 0 {
		return nil, fmt.Errorf("pool %d has no PGs", id)
	}
	wanted, size := c.wanted(id)
	if count != wanted || len(config.Pool(id).PGs[0].OSDSet) != size {
		return nil, fmt.Errorf("pool %d has %d PGs on %d OSDs each instead of %d on %d", id, count,
			len(config.Pool(id).PGs[0].OSDSet), wanted, size)
	}
	states := make([]string, count)
	for i := range states {
		pg := meta.PG{Pool: id, Num: meta.PGNum(i + 1)}
		key := c.Keys.PGState(pg)
		text, err := c.Get(key)
		if err != nil {
			return nil, err
		}
		state, err := schema.DecodePGState(key, text)
		if err != nil {
			return nil, err
		}
		if states[i] = state.State.String(); state.Offline() {
			states[i] = "offline"
		}
	}
	return states, nil
}

// wanted is what config/pools says about the PGs of a pool.
func (c *Cluster) wanted(id meta.PoolID) (pgs uint32, size int) {
	text, err := c.Get(c.Keys.Pools())
	if err != nil {
		return 0, 0
	}
	pools, _ := schema.DecodePools("", text, schema.BuiltinPoolDefaults())
	if p := pools.Valid[id]; p != nil {
		return p.PGCount, p.PGSize
	}
	return 0, 0
}

// WaitState waits until each PG of a pool has the state: exactly it, or, when it
// ends in "...", with further words.
func (c *Cluster) WaitState(id meta.PoolID, want string, limit time.Duration) error {
	begin, more := strings.CutSuffix(want, "...")
	return c.Until(fmt.Sprintf("all PGs of pool %d are %s", id, want), limit, func() error {
		states, err := c.States(id)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(states, func(s string) bool { return s != begin && !(more && strings.HasPrefix(s, begin+"+")) }); i >= 0 {
			return fmt.Errorf("PG %d/%d is %s", id, i+1, states[i])
		}
		return nil
	})
}

// Primaries counts of how many PGs of the pool each OSD is the primary now.
func (c *Cluster) Primaries(id meta.PoolID) (map[meta.OSDNum]int, error) {
	keys, err := c.GetDir(c.Keys.Pool(schema.KindPGState, id).Key)
	if err != nil {
		return nil, err
	}
	count := map[meta.OSDNum]int{}
	for key, text := range keys {
		state, err := schema.DecodePGState(key, text)
		if err != nil {
			return nil, err
		}
		count[state.Primary]++
	}
	return count, nil
}
