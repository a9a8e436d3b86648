package etcd_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when goroutines are left. Most tests wait most of the time, so
// more of them run at once than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // fuzzing leaves goroutines of its own
	}
	flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}
