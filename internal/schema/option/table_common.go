package option

// Often used sets of sources and components.
const (
	fgc     = File | Global | CommandLine
	local   = File | CommandLine // of one host: ignored in etcd
	layout  = Superblock | CommandLine
	scf     = Superblock | CommandLine | File
	peers   = OSD | Client
	daemons = OSD | Client | Monitor
)

// commonTable is config.md §4.
var commonTable = []Option{
	{Name: "config_path", Kind: Path, Default: `"/etc/vitastor/vitastor.conf"`, From: CommandLine, Used: daemons | Disk,
		Aliases: []Alias{{Name: "conf", From: Driver}},
		Doc:     "The configuration file: one JSON object. A file that does not exist is empty."},
	{Name: "etcd_address", Kind: List, From: fgc, Used: daemons, Required: daemons, Live: peers,
		Aliases: []Alias{{Name: "etcd_url", Used: Monitor}, {Name: "etcd_host", From: Driver}, {Name: "etcd", From: Driver}},
		Doc: "Addresses of etcd, [http://]host:port, as a list or separated by commas. " +
			"Needed before etcd can be read, so put it into the file or on the command line; a value in etcd replaces it afterwards."},
	{Name: "etcd_prefix", Kind: String, Default: `"/vitastor"`, From: local, Used: daemons,
		Doc: "Beginning of the names of all keys in etcd. One per cluster; no slash at the end."},
	{Name: "log_level", Kind: Int, Default: "0", DefaultText: "0, OSD: 1", From: fgc, Used: peers, Live: peers, derive: logLevel, Zero: ZeroKept,
		Aliases: []Alias{{Name: "cluster_log_level", From: Driver}},
		Doc:     "How much is logged; higher is more."},
}
