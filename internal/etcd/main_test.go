package etcd_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when goroutines are left. Most tests wait most of the time, so
// more of them run at once than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}
