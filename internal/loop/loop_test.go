package loop

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/env/envtest"
	"vitastor/internal/pinned"
)

var localhost = netip.MustParseAddr("127.0.0.1")

// start runs a loop until the test ends.
func start(t testing.TB, o Options) *Loop {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		l.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() { stop(); <-ended })
	return l
}

// on runs body on the loop and waits until it calls finish.
func on(t testing.TB, l *Loop, limit time.Duration, body func(finish func())) bool {
	done := make(chan struct{}, 1)
	l.Post(func() {
		body(func() {
			select {
			case done <- struct{}{}:
			default:
			}
		})
	})
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// do is on that fails the test.
func do(t testing.TB, l *Loop, body func(finish func())) {
	t.Helper()
	if !on(t, l, 20*time.Second, body) {
		t.Fatal("not finished in time")
	}
}

func newFile(t testing.TB, bytes int64) string {
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(bytes)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func alloc(t testing.TB, n int) []byte {
	b, err := pinned.AlignedBuffer(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pinned.Free(b) })
	return b
}

// refused is an address on which nobody listens.
func refused(t testing.TB) netip.AddrPort {
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := l.Listen(netip.AddrPortFrom(localhost, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.shutdown()
	return n.Addr()
}

func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{
		"ring":         {},
		"threads":      {NoRing: true, DiskThreads: 3},
		"small limits": {DiskInFlight: 2, Mailbox: 1},
		"busy poll":    {BusyPoll: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			envtest.Run(t, func(t *testing.T) *envtest.World {
				l := start(t, o)
				return &envtest.World{
					Env: l.Env(), Peer: l.Env(), Addr: localhost, PeerAddr: localhost,
					Refused: refused(t), Threads: true,
					NewDisk: func(t *testing.T, n int64) string { return newFile(t, n) },
					Alloc:   func(t *testing.T, n int) []byte { return alloc(t, n) },
					Run: func(t *testing.T, body func(finish func())) bool {
						return on(t, l, envtest.TimeLimit, body)
					},
				}
			})
		})
	}
}

var _ env.Prioritized = (*stream)(nil)
