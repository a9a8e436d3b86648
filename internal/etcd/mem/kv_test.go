package mem_test

import (
	"testing"

	"vitastor/internal/etcd/kvtest"
)

func TestConformance(t *testing.T) {
	l := kvtest.NewLoop(t, true)
	kvtest.Run(t, l, kvtest.NewModel(l))
}
