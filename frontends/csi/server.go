package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"strings"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config says how a driver runs.
type Config struct {
	Endpoint   string // unix:///path, unix:path or tcp://host:port
	Node       string // name of this host in the orchestrator
	Driver     string // "" = DriverName
	ConfigPath string // of volumes that do not say another one
	StateDir   string
	// RestoreInterval is how often dead devices are looked for; 0 = never.
	RestoreInterval time.Duration
	MaxVolumes      int64  // 0 = what the kernel can do
	Method          string // of attaching; "" = the best that there is
	CLI             string // the program vitastor-cli
	Run             Runner
	Attachers       []Attacher
	Log             *slog.Logger
}

// Driver is a running driver.
type Driver struct {
	log        *slog.Logger
	server     *grpc.Server
	listener   net.Listener
	controller *controller
	node       *node
}

// stopPatience is how long calls may go on when the driver is to end.
const stopPatience = 20 * time.Second

// New makes a driver and its socket.
func New(c Config) (*Driver, error) {
	listener, err := listen(c.Endpoint)
	if err != nil {
		return nil, err
	}
	if c.Driver == "" {
		c.Driver = DriverName
	}
	ops := images{c.Run, c.CLI}
	d := &Driver{log: c.Log, listener: listener}
	d.controller = &controller{log: c.Log, config: c.ConfigPath, images: ops, guard: newGuard(c.Log)}
	d.node = &node{log: c.Log, id: c.Node, config: c.ConfigPath, run: c.Run, images: ops, guard: newGuard(c.Log),
		attachers: c.Attachers, method: c.Method, states: states{c.StateDir, c.Log}, maxGiven: c.MaxVolumes}
	d.server = grpc.NewServer(grpc.ChainUnaryInterceptor(d.logCall, d.catch))
	spec.RegisterIdentityServer(d.server, &identity{driver: c.Driver})
	spec.RegisterControllerServer(d.server, d.controller)
	spec.RegisterNodeServer(d.server, d.node)
	go d.node.watch(d.node.guard.ctx, c.RestoreInterval)
	return d, nil
}

// Serve answers calls until Stop.
func (d *Driver) Serve() error { return d.server.Serve(d.listener) }

// Stop ends the driver: calls may end, then work in the background is
// interrupted, which its repetition makes good.
func (d *Driver) Stop() {
	ended := make(chan struct{})
	go func() {
		d.server.GracefulStop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(stopPatience):
	}
	d.kill()
}

// kill interrupts everything.
func (d *Driver) kill() {
	d.server.Stop()
	d.controller.guard.close()
	d.node.guard.close()
}

// listen opens the socket, in place of one that a dead driver has left.
func listen(endpoint string) (net.Listener, error) {
	network, address, has := strings.Cut(endpoint, ":")
	switch {
	case !has || network != "unix" && network != "tcp":
		return nil, fmt.Errorf("--endpoint %q: use unix:///path/to/csi.sock or tcp://127.0.0.1:10000", endpoint)
	case strings.HasPrefix(address, "//"):
		address = address[2:]
	}
	if network == "unix" {
		if i, err := os.Stat(address); err == nil && i.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("--endpoint %s: %s exists and is no socket", endpoint, address)
		}
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("--endpoint %s: %w", endpoint, err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("--endpoint %s: %w", endpoint, err)
	}
	return l, nil
}

// catch makes errors of panics, and gives every error a code.
func (d *Driver) catch(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, d.controller.guard.panicked(p)
		}
	}()
	answer, err = next(ctx, request)
	return answer, statusOf(err, "failed")
}

// quiet are calls that come every few seconds and change nothing.
var quiet = map[string]bool{"Probe": true, "GetPluginInfo": true, "GetPluginCapabilities": true, "ControllerGetCapabilities": true,
	"NodeGetCapabilities": true, "NodeGetVolumeStats": true, "NodeGetVolumeHealth": true}

// logCall writes what was asked and how it ended; secrets are never written.
func (d *Driver) logCall(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began, call := time.Now(), path.Base(info.FullMethod)
	answer, err := next(ctx, request)
	level := slog.LevelInfo
	switch code := status.Code(err); {
	case code == codes.Internal || code == codes.Unavailable || code == codes.Unknown:
		level = slog.LevelError
	case err != nil && code != codes.Unimplemented:
		level = slog.LevelWarn
	case quiet[call] || code == codes.Unimplemented:
		level = slog.LevelDebug
	}
	d.log.Log(ctx, level, call, append(about(request), "took", time.Since(began).Round(time.Millisecond), "err", err)...)
	return answer, err
}

// about is what of a request is worth to be seen in a log.
func about(request any) []any {
	var a []any
	add := func(name, value string) {
		if value != "" {
			a = append(a, name, value)
		}
	}
	if r, is := request.(interface{ GetName() string }); is {
		add("name", r.GetName())
	}
	if r, is := request.(interface{ GetVolumeId() string }); is {
		add("volume", r.GetVolumeId())
	}
	if r, is := request.(interface{ GetSnapshotId() string }); is {
		add("snapshot", r.GetSnapshotId())
	}
	if r, is := request.(interface{ GetSourceVolumeId() string }); is {
		add("source", r.GetSourceVolumeId())
	}
	if r, is := request.(interface{ GetStagingTargetPath() string }); is {
		add("staging", r.GetStagingTargetPath())
	}
	if r, is := request.(interface{ GetTargetPath() string }); is {
		add("target", r.GetTargetPath())
	}
	return a
}
