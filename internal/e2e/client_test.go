package e2e

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vitastor/libclient/image"
)

// handle is an image opened by a client of its own.
type handle struct {
	*image.Image
	name    string
	cluster *image.Cluster
}

// dial opens an image; options are names and values of client parameters.
func (r *rig) dial(name string, options ...string) *handle {
	r.Helper()
	out, err := os.OpenFile(filepath.Join(r.c.Dir, "log", "client"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	r.must(err)
	r.Cleanup(func() { out.Close() })
	config := image.Config{ConfigPath: r.c.ConfigFile(), EtcdAddress: strings.Join(r.c.Endpoints(), ","),
		Options: map[string]string{}, Log: slog.New(slog.NewTextHandler(out, nil))}
	for i := 0; i < len(options); i += 2 {
		config.Options[options[i]] = options[i+1]
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	c, err := image.Dial(ctx, config)
	r.must(err)
	r.Cleanup(func() { c.Close() })
	// The cluster may have learned of an image that was just made a moment later.
	var h *image.Image
	r.must(r.c.Until("the image "+name+" is seen", 5*time.Second, func() (err error) {
		h, err = c.Open(name)
		return err
	}))
	return &handle{h, name, c}
}

// opLimit ends operations that would hang a test: clients themselves wait for
// ever.
const opLimit = time.Minute

func (h *handle) ReadAt(b []byte, offset int64) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	return h.ReadContext(ctx, b, offset)
}

func (h *handle) WriteAt(b []byte, offset int64) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	return h.WriteContext(ctx, b, offset)
}

func (h *handle) Sync() error {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	return h.SyncContext(ctx)
}

// Close ends the client; what it has not synced may be lost.
func (h *handle) Close() { h.cluster.Close() }
