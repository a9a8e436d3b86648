package etcd_test

import (
	"testing"

	"vitastor/internal/etcd/embed"
	"vitastor/internal/etcd/kvtest"
)

func TestConformanceEmbedded(t *testing.T) {
	t.Parallel()
	l := kvtest.NewLoop(t, false)
	kvtest.Run(t, l, kvtest.NewEmbedded(t, l))
}

func TestConformanceDebian(t *testing.T) {
	t.Parallel()
	l := kvtest.NewLoop(t, false)
	kvtest.Run(t, l, kvtest.NewDebian(t, l))
}

func startEmbedded(t *testing.T, c embed.Config) *embed.Server {
	t.Helper()
	e, err := embed.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
