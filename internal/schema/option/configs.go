package option

import (
	"net/netip"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// The structs below hold the values in use; the table says what they mean.
// A field's tag is the option's name. Bytes and times are in the units of
// their types, whatever unit the option has.

// Common is what every daemon and client needs to reach the cluster.
type Common struct {
	ConfigPath                 string        `option:"config_path"`
	EtcdAddress                []string      `option:"etcd_address"`
	EtcdPrefix                 string        `option:"etcd_prefix"`
	EtcdWatchKeepaliveInterval time.Duration `option:"etcd_ws_keepalive_interval"`
}

// PoolDefaults are for pools without own values; in an OSD they are its own
// layout.
type PoolDefaults struct {
	BlockBytes       uint32          `option:"block_size"`
	GranularityBytes uint32          `option:"bitmap_granularity"`
	Commit           meta.CommitMode `option:"immediate_commit"`
}

// Network is what OSDs and clients share: connections to OSDs and to etcd.
type Network struct {
	LogLevel              int            `option:"log_level"`
	Public                []netip.Prefix `option:"osd_network"`
	Cluster               []netip.Prefix `option:"osd_cluster_network"`
	UseRDMA               bool           `option:"use_rdma"`
	UseRDMACM             bool           `option:"use_rdmacm"`
	DisableTCP            bool           `option:"disable_tcp"`
	RDMADevice            string         `option:"rdma_device"`
	RDMAPortNum           int            `option:"rdma_port_num"`
	RDMAGIDIndex          int            `option:"rdma_gid_index"`
	RDMAMTU               int            `option:"rdma_mtu"`
	RDMAMaxSGE            int            `option:"rdma_max_sge"`
	RDMAMaxMsgBytes       uint64         `option:"rdma_max_msg"`
	RDMAMaxRecv           int            `option:"rdma_max_recv"`
	RDMAMaxSend           int            `option:"rdma_max_send"`
	PeerConnectInterval   time.Duration  `option:"peer_connect_interval"`
	PeerConnectTimeout    time.Duration  `option:"peer_connect_timeout"`
	OSDIdleTimeout        time.Duration  `option:"osd_idle_timeout"`
	OSDPingTimeout        time.Duration  `option:"osd_ping_timeout"`
	MaxEtcdAttempts       int            `option:"max_etcd_attempts"`
	EtcdQuickTimeout      time.Duration  `option:"etcd_quick_timeout"`
	EtcdSlowTimeout       time.Duration  `option:"etcd_slow_timeout"`
	EtcdKeepaliveTimeout  time.Duration  `option:"etcd_keepalive_timeout"`
	EtcdMinReloadInterval time.Duration  `option:"etcd_min_reload_interval"`
	TCPHeaderBufferBytes  uint64         `option:"tcp_header_buffer_size"`
	MinZeroCopyBytes      int64          `option:"min_zerocopy_send_size"`
	UseSyncSendRecv       bool           `option:"use_sync_send_recv"`
	EtcdReportInterval    time.Duration  `option:"etcd_report_interval"`
}

// ClientConfig is for clients and the tools around them.
type ClientConfig struct {
	Common              Common
	Network             Network
	Pools               PoolDefaults
	IOThreadCount       int           `option:"client_iothread_count"`
	RetryInterval       time.Duration `option:"client_retry_interval"`
	EIORetryInterval    time.Duration `option:"client_eio_retry_interval"`
	RetryENOSPC         bool          `option:"client_retry_enospc"`
	WaitUpTimeout       time.Duration `option:"client_wait_up_timeout"`
	MaxDirtyBytes       uint64        `option:"client_max_dirty_bytes"`
	MaxDirtyOps         int           `option:"client_max_dirty_ops"`
	EnableWriteback     bool          `option:"client_enable_writeback"`
	WritebackAllowed    bool          `option:"client_writeback_allowed"`
	MaxBufferedBytes    uint64        `option:"client_max_buffered_bytes"`
	MaxBufferedOps      int           `option:"client_max_buffered_ops"`
	MaxWritebackIODepth int           `option:"client_max_writeback_iodepth"`
	InfiniteStart       bool          `option:"client_infinite_start"`
	HostName            string        `option:"hostname"`
	OSDNearfullRatio    float64       `option:"osd_nearfull_ratio"`
	NBDTimeout          time.Duration `option:"nbd_timeout"`
	NBDMaxDevices       int           `option:"nbd_max_devices"`
	NBDMaxPart          int           `option:"nbd_max_part"`
	NBDConnTimeout      time.Duration `option:"nbd_conn_timeout"`
	UBLKQueueDepth      int           `option:"ublk_queue_depth"`
	UBLKMaxIOBytes      uint64        `option:"ublk_max_io_size"`
	QEMUFileMirrorPath  string        `option:"qemu_file_mirror_path"`
	QueueDepth          int           `option:"client_queue_depth"`
}

// Client returns the configuration of a client. The error tells which required
// options are missing.
func (s *Set) Client() (c ClientConfig, err error) { return c, s.fill(&c, Client) }

// OSDConfig is for OSDs.
type OSDConfig struct {
	Common              Common
	Network             Network
	Layout              Layout
	Store               Store
	Recovery            Recovery
	Scrub               Scrub
	BindAddress         []string      `option:"bind_address"`
	BindPort            uint16        `option:"bind_port"`
	IOThreadCount       int           `option:"osd_iothread_count"`
	EtcdLeaseTTL        time.Duration `option:"etcd_lease_ttl"`
	EtcdStatsInterval   time.Duration `option:"etcd_stats_interval"`
	RunPrimary          bool          `option:"run_primary"`
	PrintStatsInterval  time.Duration `option:"print_stats_interval"`
	SlowLogInterval     time.Duration `option:"slow_log_interval"`
	InodeVanishTime     time.Duration `option:"inode_vanish_time"`
	Memlock             bool          `option:"osd_memlock"`
	AllowNetSplit       bool          `option:"allow_net_split"`
	EnablePGLocks       Tristate      `option:"enable_pg_locks"`
	PGLockRetryInterval time.Duration `option:"pg_lock_retry_interval_ms"`
	PGReshardChunkSize  int           `option:"pg_reshard_chunk_size"`
	PGReshardChunkPause time.Duration `option:"pg_reshard_chunk_pause_ms"`
	DisableBlockstore   bool          `option:"disable_blockstore"`
}

// OSD returns the configuration of an OSD. The error tells which required
// options are missing.
func (s *Set) OSD() (c OSDConfig, err error) { return c, s.fill(&c, OSD) }

// Layout is where an OSD keeps its data, fixed when it is initialised.
type Layout struct {
	Pools               PoolDefaults
	OSDNum              meta.OSDNum `option:"osd_num"`
	MetaFormat          int         `option:"meta_format"`
	DataDevice          string      `option:"data_device"`
	MetaDevice          string      `option:"meta_device"`
	JournalDevice       string      `option:"journal_device"`
	JournalOffset       uint64      `option:"journal_offset"`
	MetaOffset          uint64      `option:"meta_offset"`
	DataOffset          uint64      `option:"data_offset"`
	JournalBytes        uint64      `option:"journal_size"`
	DataBytes           uint64      `option:"data_size"`
	MetaBlockBytes      uint32      `option:"meta_block_size"`
	JournalBlockBytes   uint32      `option:"journal_block_size"`
	AlignmentBytes      uint32      `option:"disk_alignment"`
	DisableDataFsync    bool        `option:"disable_data_fsync"`
	DisableMetaFsync    bool        `option:"disable_meta_fsync"`
	DisableJournalFsync bool        `option:"disable_journal_fsync"`
	DisableDeviceLock   bool        `option:"disable_device_lock"`
	DataCsumType        string      `option:"data_csum_type"`
	CsumBlockBytes      uint32      `option:"csum_block_size"`
	MetaBufBytes        uint64      `option:"meta_buf_size"`
	DataIO              string      `option:"data_io"`
	MetaIO              string      `option:"meta_io"`
	JournalIO           string      `option:"journal_io"`
	AtomicWriteBytes    uint64      `option:"atomic_write_size"`
	UseAtomicFlag       bool        `option:"use_atomic_flag"`
}

// Store is how an OSD uses its disk.
type Store struct {
	AutosyncInterval              time.Duration `option:"autosync_interval"`
	AutosyncWrites                int           `option:"autosync_writes"`
	ReadOnly                      bool          `option:"readonly"`
	MaxWriteIODepth               int           `option:"max_write_iodepth"`
	MinFlusherCount               int           `option:"min_flusher_count"`
	MaxFlusherCount               int           `option:"max_flusher_count"`
	InmemoryMetadata              bool          `option:"inmemory_metadata"`
	InmemoryJournal               bool          `option:"inmemory_journal"`
	JournalSectorBufferCount      int           `option:"journal_sector_buffer_count"`
	JournalNoSameSectorOverwrites bool          `option:"journal_no_same_sector_overwrites"`
	SkipCorruptedMetaEntries      bool          `option:"skip_corrupted_meta_entries"`
	ThrottleSmallWrites           bool          `option:"throttle_small_writes"`
	ThrottleTargetIOPS            int           `option:"throttle_target_iops"`
	ThrottleTargetMBs             int           `option:"throttle_target_mbs"`
	ThrottleTargetParallelism     int           `option:"throttle_target_parallelism"`
	ThrottleThreshold             time.Duration `option:"throttle_threshold_us"`
	DiscardOnStart                bool          `option:"discard_on_start"`
	MinDiscardBytes               uint64        `option:"min_discard_size"`
	DiscardGranularityBytes       uint64        `option:"discard_granularity"`
	JournalTrimInterval           int           `option:"journal_trim_interval"`
	FlusherStartThreshold         int           `option:"flusher_start_threshold"`
	PerfectCsumUpdate             bool          `option:"perfect_csum_update"`
	MetaWriteRecheckParallelism   int           `option:"meta_write_recheck_parallelism"`
}

// Recovery is how an OSD restores and moves objects.
type Recovery struct {
	QueueDepth         int           `option:"recovery_queue_depth"`
	Sleep              time.Duration `option:"recovery_sleep_us"`
	PGSwitch           int           `option:"recovery_pg_switch"`
	SyncBatch          int           `option:"recovery_sync_batch"`
	NoRecovery         bool          `option:"no_recovery"`
	NoRebalance        bool          `option:"no_rebalance"`
	TuneInterval       time.Duration `option:"recovery_tune_interval"`
	TuneUtilLow        float64       `option:"recovery_tune_util_low"`
	TuneUtilHigh       float64       `option:"recovery_tune_util_high"`
	TuneClientUtilLow  float64       `option:"recovery_tune_client_util_low"`
	TuneClientUtilHigh float64       `option:"recovery_tune_client_util_high"`
	TuneAggInterval    int           `option:"recovery_tune_agg_interval"`
	TuneSleepMin       time.Duration `option:"recovery_tune_sleep_min_us"`
	TuneSleepCutoff    time.Duration `option:"recovery_tune_sleep_cutoff_us"`
}

// Scrub is how an OSD compares copies.
type Scrub struct {
	NoScrub         bool          `option:"no_scrub"`
	AutoScrub       bool          `option:"auto_scrub"`
	Interval        time.Duration `option:"scrub_interval"`
	QueueDepth      int           `option:"scrub_queue_depth"`
	Sleep           time.Duration `option:"scrub_sleep"`
	ListLimit       int           `option:"scrub_list_limit"`
	FindBest        bool          `option:"scrub_find_best"`
	ECMaxBruteforce int           `option:"scrub_ec_max_bruteforce"`
}

// MonitorConfig is for monitors.
type MonitorConfig struct {
	Common               Common
	Pools                PoolDefaults
	HTTP                 HTTP
	Antietcd             Antietcd
	LeaseTTL             time.Duration `option:"etcd_lease_ttl"`
	LeaseInterval        time.Duration `option:"etcd_mon_ttl"`
	EtcdTimeout          time.Duration `option:"etcd_mon_timeout"`
	EtcdRetries          int           `option:"etcd_mon_retries"`
	EtcdStartTimeout     time.Duration `option:"etcd_start_timeout"`
	ChangeTimeout        time.Duration `option:"mon_change_timeout"`
	StatsTimeout         time.Duration `option:"mon_stats_timeout"`
	RetryChangeTimeout   time.Duration `option:"mon_retry_change_timeout"`
	OSDOutTime           time.Duration `option:"osd_out_time"`
	PlacementLevels      schema.Object `option:"placement_levels"`
	UseOldPGCombinator   bool          `option:"use_old_pg_combinator"`
	OSDBackfillfullRatio float64       `option:"osd_backfillfull_ratio"`
	Verbose              bool          `option:"verbose"`
}

// Monitor returns the configuration of a monitor. The error tells which
// required options are missing.
func (s *Set) Monitor() (c MonitorConfig, err error) { return c, s.fill(&c, Monitor) }

// HTTP is the monitor's server of metrics.
type HTTP struct {
	EnablePrometheus bool   `option:"enable_prometheus"`
	Port             uint16 `option:"mon_http_port"`
	IP               string `option:"mon_http_ip"`
	Cert             string `option:"mon_https_cert"`
	Key              string `option:"mon_https_key"`
	CA               string `option:"mon_https_ca"`
	ClientAuth       bool   `option:"mon_https_client_auth"`
	PrometheusPath   string `option:"prometheus_path"`
}

// Antietcd is the embedded etcd substitute of reference monitors.
type Antietcd struct {
	Use      bool   `option:"use_antietcd"`
	Port     uint16 `option:"antietcd_port"`
	DataFile string `option:"antietcd_data_file"`
	DataDir  string `option:"antietcd_data_dir"`
}
