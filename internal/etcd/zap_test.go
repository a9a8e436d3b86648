package etcd_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"

	"vitastor/internal/etcd"
)

func TestZapBridge(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	z := etcd.NewZap(log).With(zap.String("member", "m1"))
	z.Info("quiet")
	z.Warn("slow", zap.Int("ms", 7), zap.Error(errors.New("disk")))
	z.Error("broken")
	got := out.String()
	for _, want := range []string{"level=WARN msg=slow member=m1 ms=7 error=disk", "level=ERROR msg=broken member=m1"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(got, "quiet") {
		t.Errorf("message below the level: %q", got)
	}
}
