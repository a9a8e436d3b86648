package csi

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tool is the program vitastor-csi.
type Tool struct {
	Out, Err io.Writer
	Env      func(name string) string
	// Signals ends the program.
	Signals <-chan os.Signal
}

// Defaults, see also the manifests in deploy/.
const (
	defaultConfigPath      = "/etc/vitastor/vitastor.conf"
	defaultEndpoint        = "unix:///csi/csi.sock"
	defaultStateDir        = "/run/vitastor-csi"
	defaultRestoreInterval = 10 * time.Second
)

// Main runs a command line, without the program's name, and returns the exit
// code.
func (t *Tool) Main(args []string) int {
	c, level, err := t.parse(args)
	switch {
	case err == flag.ErrHelp:
		return 0
	case err != nil:
		fmt.Fprintln(t.Err, "vitastor-csi:", err)
		return 1
	}
	c.Log = slog.New(slog.NewTextHandler(t.Err, &slog.HandlerOptions{Level: level}))
	c.Run = Exec{c.Log}
	c.Attachers = Programs(c.Run, c.StateDir)
	d, err := New(c)
	if err != nil {
		fmt.Fprintln(t.Err, "vitastor-csi:", err)
		return 1
	}
	c.Log.Info("ready", "driver", c.Driver, "version", Version, "endpoint", c.Endpoint, "node", c.Node)
	ended := make(chan error, 1)
	go func() { ended <- d.Serve() }()
	select {
	case s := <-t.Signals:
		c.Log.Info("ending", "signal", fmt.Sprint(s))
		d.Stop()
		err = <-ended
	case err = <-ended:
	}
	if err != nil {
		fmt.Fprintln(t.Err, "vitastor-csi:", err)
		return 1
	}
	return 0
}

// env is a variable of the environment, or what it is without.
func (t *Tool) env(name, missing string) string {
	if v := t.Env(name); v != "" {
		return v
	}
	return missing
}

// parse reads flags; - and -- are the same. Variables of the environment are
// those of the reference's driver.
func (t *Tool) parse(args []string) (Config, slog.Level, error) {
	c := Config{StateDir: t.env("STATE_DIR", defaultStateDir)}
	f := flag.NewFlagSet("vitastor-csi", flag.ContinueOnError)
	f.SetOutput(t.Out)
	f.StringVar(&c.Endpoint, "endpoint", t.env("CSI_ENDPOINT", defaultEndpoint), "where to listen: unix:///path or tcp://host:port (CSI_ENDPOINT)")
	f.StringVar(&c.Node, "node", t.env("NODE_ID", ""), "name of this node (NODE_ID; default: the host name)")
	f.StringVar(&c.Node, "nodeid", c.Node, "the same as --node")
	f.StringVar(&c.Driver, "drivername", DriverName, "name of the driver")
	f.StringVar(&c.ConfigPath, "config_path", defaultConfigPath, "configuration of the cluster, unless the StorageClass has another one")
	f.StringVar(&c.Method, "attach", t.env("ATTACH", ""), "how to attach: vduse, ublk or nbd (ATTACH; default: the first that this host can do)")
	f.Int64Var(&c.MaxVolumes, "max_volumes", 0, "volumes per node; 0 = as many as the kernel can attach")
	f.StringVar(&c.CLI, "cli", "vitastor-cli", "the program vitastor-cli")
	verbose := f.Int("v", 2, "0 errors, 1 warnings, 2 calls, 3 and more: everything")
	version := f.Bool("version", false, "print the version")
	if err := f.Parse(args); err != nil {
		return c, 0, err
	}
	if *version {
		fmt.Fprintln(t.Out, Version)
		return c, 0, flag.ErrHelp
	}
	var err error
	if c.RestoreInterval, err = interval(t.env("RESTART_INTERVAL", "")); err != nil {
		return c, 0, err
	}
	switch {
	case f.NArg() > 0:
		return c, 0, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case c.Method != "" && c.Method != "vduse" && c.Method != "ublk" && c.Method != "nbd":
		return c, 0, fmt.Errorf("--attach %q: use vduse, ublk or nbd", c.Method)
	case c.MaxVolumes < 0:
		return c, 0, fmt.Errorf("--max_volumes %d is negative", c.MaxVolumes)
	case c.Node == "":
		if c.Node, err = os.Hostname(); err != nil {
			return c, 0, fmt.Errorf("--node: %w", err)
		}
	}
	levels := []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug}
	return c, levels[min(max(*verbose, 0), len(levels)-1)], nil
}

// interval reads RESTART_INTERVAL: 10s, or a number of seconds.
func interval(text string) (time.Duration, error) {
	if text = strings.TrimSpace(text); text == "" {
		return defaultRestoreInterval, nil
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("RESTART_INTERVAL %q: use a time such as 10s, or 0 for never", text)
	}
	return d, nil
}
