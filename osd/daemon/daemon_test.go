package daemon

import (
	"testing"
	"time"

	"vitastor/internal/meta"
)

func TestThreeOSDsReachActive(t *testing.T) {
	c := newCluster(t, 3)
	c.pool(replicated3, 8, []int{1, 2, 3}, 1, 2, 3)
	c.startAll()
	took := c.wait("active PGs", c.all(8, meta.PGActive), 20*time.Second)
	if took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}
