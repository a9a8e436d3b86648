package config

import (
	"log/slog"
	"math"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/msgr"
	"vitastor/internal/schema/option"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// What follows from the configuration for the parts of an OSD.

// LogLevel is what log_level means: 0 warnings, 1 (default) what happens, more:
// details.
func (c *Config) LogLevel() slog.Level {
	switch {
	case c.Network.LogLevel <= 0:
		return slog.LevelWarn
	case c.Network.LogLevel == 1:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// ReferenceLease is the lease time of reference OSDs (osd.md §14).
func (c *Config) ReferenceLease() time.Duration {
	n := &c.Network
	wait := time.Duration(n.MaxEtcdAttempts) * 2 * n.EtcdQuickTimeout
	return n.EtcdReportInterval + (wait + time.Second - 1).Truncate(time.Second)
}

// Patience is how long the key of a former process of this OSD may live: two
// leases of ours, and one of a reference OSD.
func (c *Config) Patience() time.Duration {
	return max(2*c.EtcdLeaseTTL, c.ReferenceLease()+time.Second)
}

// Timing is for the view of the cluster.
func (c *Config) Timing() clusterview.Timing {
	return clusterview.Timing{Load: c.Network.EtcdSlowTimeout, KeepAlive: c.Common.EtcdWatchKeepaliveInterval,
		Reload: c.Network.EtcdMinReloadInterval}
}

// Timeouts are for the messenger.
func (c *Config) Timeouts() msgr.Timeouts {
	n := &c.Network
	return msgr.Timeouts{Connect: n.PeerConnectTimeout, ConnectInterval: n.PeerConnectInterval, Idle: n.OSDIdleTimeout, Ping: n.OSDPingTimeout}
}

// AutosyncWrites is autosync_writes within the limit that the size of the buffer
// area sets (config.md §8).
func (c *Config) AutosyncWrites(bufferBytes uint64) int {
	limit := bufferBytes / uint64(c.Layout.Pools.BlockBytes) / 2
	return max(1, min(c.Store.AutosyncWrites, int(min(limit, 1<<30))))
}

// Tunables are the parameters of the store that may change while it runs. What
// is not given is left to the store: the defaults of the reference are for its
// own, different flusher.
func (c *Config) Tunables() store.Tunables {
	s := &c.Store
	t := store.Tunables{
		MaxWriteDepth: s.MaxWriteIODepth, IntentTrimInterval: s.JournalTrimInterval,
		ThrottleSmallWrites: s.ThrottleSmallWrites, ThrottleTargetIOPS: s.ThrottleTargetIOPS, ThrottleTargetMBs: s.ThrottleTargetMBs,
		ThrottleParallelism: s.ThrottleTargetParallelism, ThrottleThreshold: s.ThrottleThreshold,
		ReshardChunkObjects: c.PGReshardChunkSize, ReshardChunkPause: c.PGReshardChunkPause,
	}
	if c.PGReshardChunkPause == 0 {
		t.ReshardChunkPause = -1
	}
	for _, x := range []struct {
		name  string
		field *int
		value int
	}{
		{"min_flusher_count", &t.MinCompactors, s.MinFlusherCount}, {"max_flusher_count", &t.MaxCompactors, s.MaxFlusherCount},
		{"flusher_start_threshold", &t.CompactQueueStart, s.FlusherStartThreshold},
	} {
		if c.Set.Given(x.name) {
			*x.field = x.value
		}
	}
	if s.ReadOnly {
		t.CompactQueueStart = math.MaxInt // nothing is compacted
	}
	return t
}

// StoreConfig is for opening the store that p describes.
func (c *Config) StoreConfig(p *layout.Params) store.Config {
	s, t := store.ConfigOf(p), c.Tunables()
	s.MaxWriteDepth, s.IntentTrimInterval = t.MaxWriteDepth, t.IntentTrimInterval
	s.MinCompactors, s.MaxCompactors, s.CompactQueueStart = t.MinCompactors, t.MaxCompactors, t.CompactQueueStart
	s.ThrottleSmallWrites, s.ThrottleTargetIOPS, s.ThrottleTargetMBs = t.ThrottleSmallWrites, t.ThrottleTargetIOPS, t.ThrottleTargetMBs
	s.ThrottleParallelism, s.ThrottleThreshold = t.ThrottleParallelism, t.ThrottleThreshold
	s.ReshardChunkObjects, s.ReshardChunkPause = t.ReshardChunkObjects, t.ReshardChunkPause
	s.VerifyDepth = c.Store.MetaWriteRecheckParallelism
	s.SkipCorruptedEntries = c.Store.SkipCorruptedMetaEntries
	s.DiscardOnStart, s.MinDiscardBytes = c.Store.DiscardOnStart, int64(c.Store.MinDiscardBytes)
	s.DiscardGranularityBytes = int64(c.Store.DiscardGranularityBytes)
	if c.Store.ReadOnly {
		s.DiscardOnStart, s.DiscardGranularityBytes = false, -1
	}
	if c.Set.Given("meta_buf_size") {
		s.ReadAheadStartBytes = int(c.Layout.MetaBufBytes)
	}
	return s
}

// layoutNames are the options that say where the areas are, and how they are
// used.
var layoutNames = []string{
	"osd_num", "meta_format", "data_device", "meta_device", "journal_device", "data_offset", "meta_offset", "journal_offset",
	"journal_size", "data_size", "block_size", "bitmap_granularity", "meta_block_size", "journal_block_size", "disk_alignment",
	"disable_data_fsync", "disable_meta_fsync", "disable_journal_fsync", "immediate_commit", "data_csum_type", "csum_block_size",
	"atomic_write_size", "use_atomic_flag", "disable_device_lock",
}

// LayoutOptions are what was given of the layout, for layout.NewParams.
func (c *Config) LayoutOptions() layout.Options {
	o := layout.Options{"meta_format": "3"}
	for _, name := range layoutNames {
		if text, ok := option.Find(name).Arg(c.Set.Get(name)); ok && c.Set.Given(name) {
			o[name] = text
		}
	}
	return o
}

// Device is a device to open.
type Device struct {
	Path    string
	Options env.DiskOptions
}

// Devices are the devices of the three areas. Equal paths are one device, which
// is opened like the first of them.
func (c *Config) Devices() (data, metadata, buffer Device) {
	y := &c.Layout
	open := func(path, mode string) Device {
		return Device{path, env.DiskOptions{Mode: diskMode(mode), ReadOnly: c.Store.ReadOnly, NoLock: y.DisableDeviceLock}}
	}
	return open(y.DataDevice, y.DataIO), open(y.MetaDevice, y.MetaIO), open(y.JournalDevice, y.JournalIO)
}

func diskMode(name string) env.DiskMode {
	switch name {
	case "cached":
		return env.DiskCached
	case "directsync":
		return env.DiskDirectSync
	}
	return env.DiskDirect
}
