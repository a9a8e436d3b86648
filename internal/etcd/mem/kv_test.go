package mem_test

import (
	"testing"

	"vitastor/internal/env"
	"vitastor/internal/etcd/kvtest"
	"vitastor/internal/etcd/mem"
)

// model is the model as kvtest.Server.
type model struct {
	store *mem.Store
	kv    *mem.KV
}

func (m *model) KV(*testing.T) env.KV { return m.kv }

func (m *model) Apply(t *testing.T, ops ...env.KVOp) int64 {
	r, err := m.store.Apply(&env.Txn{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	m.kv.Touch()
	return r.Revision
}

func (m *model) Compact(t *testing.T, revision int64) {
	if err := m.store.Compact(revision); err != nil {
		t.Fatal(err)
	}
}

func (m *model) Network(_ *testing.T, mode kvtest.Mode) { m.kv.SetDown(mode != kvtest.Open) }

func (m *model) Restart(*testing.T) {
	m.kv.SetDown(true)
	m.store.Restart()
	m.kv.SetDown(false)
}

func TestConformance(t *testing.T) {
	l := kvtest.NewLoop(t, true)
	s := mem.New(mem.Limits{})
	kvtest.Run(t, l, &model{s, mem.NewKV(s, l, l)})
}
