package connection

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"vitastor/internal/schema/option"
)

func given(pairs ...string) option.Layer {
	l := option.Layer{Source: option.CommandLine, Where: "test"}
	for i := 0; i < len(pairs); i += 2 {
		l.Values.SetString(pairs[i], pairs[i+1])
	}
	return l
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		layer   option.Layer
		want    string
		unknown string
	}{
		{given(), "etcd_address is not set", ""},
		{given("etcd_addres", "x"), "did you mean etcd_address?", "etcd_addres"},
		{given("qqqqqqq", "x"), "there is no parameter qqqqqqq", "qqqqqqq"},
		{given("etcd_address", "10.0.0.1:port"), "etcd_address: ", ""},
		{given("etcd_address", "127.0.0.1:1", "log_level", "many"), "log_level", ""},
	} {
		_, err := Open(context.Background(), Config{Layers: []option.Layer{c.layer}, Log: slog.New(slog.DiscardHandler)})
		var bad *ParameterError
		errors.As(err, &bad)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.unknown != "" && (bad == nil || bad.Unknown != c.unknown) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}

// TestStopped: what was begun is gone when waiting is given up.
func TestStopped(t *testing.T) {
	why := errors.New("nobody wants to know")
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithCancelCause(context.Background())
		go cancel(why)
		c, err := Open(ctx, Config{Layers: []option.Layer{given("etcd_address", "127.0.0.1:1")}, Log: slog.New(slog.DiscardHandler)})
		if c != nil || err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !errors.Is(err, why) {
			t.Fatalf("%v, %v", c, err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf")
	if _, err := File(path, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if _, err := os.Stat(DefaultConfigPath); err != nil {
		if _, err := File("", nil); err != nil {
			t.Error(err)
		}
	}
	os.WriteFile(path, []byte(`{"etcd_prefix": "/x"`), 0o666)
	var warned error
	if _, err := File(path, func(err error) { warned = err }); err != nil || warned == nil || !strings.Contains(warned.Error(), path) {
		t.Error(err, warned)
	}
	os.WriteFile(path, []byte(`{"etcd_prefix": "/x"}`), 0o666)
	l, err := File(path, nil)
	if err != nil || string(l.Values.Get("etcd_prefix")) != `"/x"` {
		t.Error(l, err)
	}
}
