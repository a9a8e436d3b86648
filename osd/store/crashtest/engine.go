package crashtest

import (
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/osd/store"
)

// Engine is what is tested: the methods of store.Store.
type Engine interface {
	Submit(op *store.Op)
	Stat(id meta.ObjectID, limit meta.Version, bitmap []byte) (meta.Version, bool)
	Close(done func(error))
	Check() error
	Reshard(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64)
	Sharded(pool meta.PoolID, pgCount uint32, pgStripeBytes uint64) bool
	Inodes(yield func(meta.Inode, uint64) bool)
	Totals() store.Totals
	Counters() store.Counters
}

// Opener starts an engine; done is called once, not inside.
type Opener func(e *env.Env, d store.Disks, c store.Config, done func(Engine, error))

// OpenStore opens the real engine.
func OpenStore(e *env.Env, d store.Disks, c store.Config, done func(Engine, error)) {
	store.Open(e, d, c, func(s *store.Store, err error) {
		if err != nil {
			done(nil, err) // not a nil *Store in an interface
			return
		}
		done(s, nil)
	})
}
