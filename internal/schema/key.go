package schema

import (
	"strconv"
	"strings"

	"vitastor/internal/meta"
)

// DefaultPrefix is used when etcd_prefix is not set.
const DefaultPrefix = "/vitastor"

// Kind is one row of the key catalogue (etcd.md §2).
type Kind uint8

const (
	KindNone Kind = iota
	KindGlobal
	KindNodePlacement
	KindPools
	KindOSDConfig
	KindInodeConfig
	KindImageIndex
	KindMaxID
	KindOSDState
	KindOSDStats
	KindOSDSpace
	KindInodeIO
	KindPGConfig
	KindPGState
	KindPGHistory
	KindPGStats
	KindLastCleanPGs
	KindMonMaster
	KindMonMember
	KindStats
	KindInodeStats
	KindPoolStats
	KindLegacyPGConfig
	KindLegacyPGStats
	kindCount
)

// argument tells what follows the fixed part of a key.
type argument uint8

const (
	argNone      argument = iota
	argOSD                // <osd>
	argPool               // <pool>
	argPG                 // <pool>/<pg>
	argInode              // <pool>/<inode>
	argInodeZero          // <pool>/<inode>, inode may be 0
	argName               // any text, slashes included
	argMember             // lease id
)

// catalogue is the list of all keys, without the prefix.
var catalogue = [kindCount]struct {
	path string
	arg  argument
}{
	KindGlobal:         {"config/global", argNone},
	KindNodePlacement:  {"config/node_placement", argNone},
	KindPools:          {"config/pools", argNone},
	KindOSDConfig:      {"config/osd/", argOSD},
	KindInodeConfig:    {"config/inode/", argInode},
	KindImageIndex:     {"index/image/", argName},
	KindMaxID:          {"index/maxid/", argPool},
	KindOSDState:       {"osd/state/", argOSD},
	KindOSDStats:       {"osd/stats/", argOSD},
	KindOSDSpace:       {"osd/space/", argOSD},
	KindInodeIO:        {"osd/inodestats/", argOSD},
	KindPGConfig:       {"pg/config", argNone},
	KindPGState:        {"pg/state/", argPG},
	KindPGHistory:      {"pg/history/", argPG},
	KindPGStats:        {"pgstats/", argPG},
	KindLastCleanPGs:   {"history/last_clean_pgs", argNone},
	KindMonMaster:      {"mon/master", argNone},
	KindMonMember:      {"mon/member/", argMember},
	KindStats:          {"stats", argNone},
	KindInodeStats:     {"inode/stats/", argInodeZero},
	KindPoolStats:      {"pool/stats/", argPool},
	KindLegacyPGConfig: {"config/pgs", argNone},
	KindLegacyPGStats:  {"pg/stats/", argPG},
}

// String is the path of the kind without prefix and arguments.
func (k Kind) String() string {
	if k == KindNone || k >= kindCount {
		return "unknown key"
	}
	return catalogue[k].path
}

// Key is a parsed key. Only the fields that its kind has are set.
type Key struct {
	Kind   Kind
	Pool   meta.PoolID
	PG     meta.PGNum
	OSD    meta.OSDNum
	Number uint64 // inode number inside Pool
	Name   string // image name, or member id
}

// PGID is the placement group that the key is about.
func (k Key) PGID() meta.PG { return meta.PG{Pool: k.Pool, Num: k.PG} }

// Inode is the inode that the key is about.
func (k Key) Inode() meta.Inode { return meta.MakeInode(k.Pool, k.Number) }

// Range is the half-open range [Key, End) of etcd keys.
type Range struct{ Key, End string }

// Contains tells whether key is in the range.
func (r Range) Contains(key string) bool { return r.Key <= key && key < r.End }

// Keys makes and parses the keys of one cluster.
type Keys struct {
	root string // prefix and a slash
}

// NewKeys uses the given etcd_prefix; "" means DefaultPrefix. A missing leading
// slash is added, repeated slashes and a trailing one are removed. (Reference
// OSDs and clients only add the leading slash, the reference monitor does all
// of it: a prefix that works in a mixed cluster means the same to everybody.)
func NewKeys(prefix string) Keys {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	root := "/"
	for part := range strings.SplitSeq(prefix, "/") {
		if part != "" {
			root += part + "/"
		}
	}
	return Keys{root}
}

// Prefix is the normalised prefix, without a trailing slash.
func (k Keys) Prefix() string { return strings.TrimSuffix(k.root, "/") }

// All is the range of the whole cluster (what a monitor loads and watches).
func (k Keys) All() Range { return k.dir("") }

// Config is a watched range of OSDs and clients: config/.
func (k Keys) Config() Range { return k.dir("config/") }

// OSDStates is a watched range of OSDs and clients: osd/state/.
func (k Keys) OSDStates() Range { return k.dir("osd/state/") }

// PGs is a watched range of OSDs and clients: pg/.
func (k Keys) PGs() Range { return k.dir("pg/") }

// Kind is the range of all keys of a kind that has arguments.
func (k Keys) Kind(kind Kind) Range { return k.dir(catalogue[kind].path) }

// Pool is the range of the keys of a kind with argument <pool>/... that belong
// to one pool.
func (k Keys) Pool(kind Kind, pool meta.PoolID) Range {
	return k.dir(catalogue[kind].path + strconv.Itoa(int(pool)) + "/")
}

// dir is the range of all keys below a path that is empty or ends in a slash.
func (k Keys) dir(path string) Range {
	start := k.root + path
	return Range{start, start[:len(start)-1] + "0"}
}

func (k Keys) plain(kind Kind) string { return k.root + catalogue[kind].path }

func (k Keys) one(kind Kind, n uint64) string {
	return k.root + catalogue[kind].path + strconv.FormatUint(n, 10)
}

func (k Keys) two(kind Kind, pool meta.PoolID, n uint64) string {
	return k.one(kind, uint64(pool)) + "/" + strconv.FormatUint(n, 10)
}

// The builders below follow the catalogue (etcd.md §2). First keys that exist
// once.

// Global is config/global: parameters of the whole cluster.
func (k Keys) Global() string { return k.plain(KindGlobal) }

// NodePlacement is config/node_placement: the tree above the hosts.
func (k Keys) NodePlacement() string { return k.plain(KindNodePlacement) }

// Pools is config/pools: all pools in one value.
func (k Keys) Pools() string { return k.plain(KindPools) }

// PGConfig is pg/config: where each PG shall be.
func (k Keys) PGConfig() string { return k.plain(KindPGConfig) }

// LegacyPGConfig is the pre-1.8 place of PGConfig; it is read only when that
// does not exist.
func (k Keys) LegacyPGConfig() string { return k.plain(KindLegacyPGConfig) }

// LastCleanPGs is history/last_clean_pgs: where the PGs were when all was well.
func (k Keys) LastCleanPGs() string { return k.plain(KindLastCleanPGs) }

// MonMaster is mon/master: the monitor in charge.
func (k Keys) MonMaster() string { return k.plain(KindMonMaster) }

// Stats is the key stats: sums over the cluster.
func (k Keys) Stats() string { return k.plain(KindStats) }

// Keys of one OSD.

// OSDConfig is the administrator's settings of an OSD.
func (k Keys) OSDConfig(o meta.OSDNum) string { return k.one(KindOSDConfig, uint64(o)) }

// OSDState exists, by lease, while the OSD runs.
func (k Keys) OSDState(o meta.OSDNum) string { return k.one(KindOSDState, uint64(o)) }

// OSDStats exists as long as the OSD belongs to the cluster.
func (k Keys) OSDStats(o meta.OSDNum) string { return k.one(KindOSDStats, uint64(o)) }

// OSDSpace is the space that inodes occupy on the OSD.
func (k Keys) OSDSpace(o meta.OSDNum) string { return k.one(KindOSDSpace, uint64(o)) }

// InodeIO is osd/inodestats: operations on inodes counted by the OSD.
func (k Keys) InodeIO(o meta.OSDNum) string { return k.one(KindInodeIO, uint64(o)) }

// Keys of one pool, placement group, inode, image, monitor.

// MaxID is the highest inode number ever given in the pool.
func (k Keys) MaxID(p meta.PoolID) string { return k.one(KindMaxID, uint64(p)) }

// PoolStats is the space of a pool.
func (k Keys) PoolStats(p meta.PoolID) string { return k.one(KindPoolStats, uint64(p)) }

// PGState exists, by lease of its primary, while the PG runs.
func (k Keys) PGState(p meta.PG) string { return k.two(KindPGState, p.Pool, uint64(p.Num)) }

// PGHistory tells where else data of the PG may be.
func (k Keys) PGHistory(p meta.PG) string { return k.two(KindPGHistory, p.Pool, uint64(p.Num)) }

// PGStats counts the objects of the PG.
func (k Keys) PGStats(p meta.PG) string { return k.two(KindPGStats, p.Pool, uint64(p.Num)) }

// LegacyPGStats is the pre-1.8 place of PGStats.
func (k Keys) LegacyPGStats(p meta.PG) string {
	return k.two(KindLegacyPGStats, p.Pool, uint64(p.Num))
}

// InodeConfig is an image, snapshot or layer.
func (k Keys) InodeConfig(i meta.Inode) string { return k.two(KindInodeConfig, i.Pool(), i.Number()) }

// InodeStats is the space and the operations of an inode.
func (k Keys) InodeStats(i meta.Inode) string { return k.two(KindInodeStats, i.Pool(), i.Number()) }

// ImageIndex is the key that finds an image by its full name.
func (k Keys) ImageIndex(name string) string { return k.plain(KindImageIndex) + name }

// MonMember is the key of a monitor; id is its lease id in decimal.
func (k Keys) MonMember(id string) string { return k.plain(KindMonMember) + id }

// Parse tells what a key is. It returns false for a key outside the prefix, or
// one that is not in the catalogue: numbers are decimal without leading zeros
// and within their range. (The reference monitor logs such keys as bad keys and
// ignores them; so should every reader.)
func (k Keys) Parse(key string) (Key, bool) {
	path, ok := strings.CutPrefix(key, k.root)
	if !ok {
		return Key{}, false
	}
	for kind := KindGlobal; kind < kindCount; kind++ {
		c := &catalogue[kind]
		if c.arg == argNone {
			if path == c.path {
				return Key{Kind: kind}, true
			}
		} else if rest, ok := strings.CutPrefix(path, c.path); ok {
			parsed := Key{Kind: kind}
			if !parsed.parseArgument(c.arg, rest) {
				return Key{}, false
			}
			return parsed, true
		}
	}
	return Key{}, false
}

func (k *Key) parseArgument(arg argument, s string) bool {
	switch arg {
	case argOSD:
		return parseID(s, 1<<64-1, &k.OSD)
	case argPool:
		return parseID(s, uint64(meta.MaxPoolID), &k.Pool)
	case argName:
		k.Name = s
		return s != ""
	case argMember:
		k.Name = s
		return s != "" && strings.Trim(s, "0123456789abcdef") == ""
	}
	pool, rest, ok := strings.Cut(s, "/")
	if !ok || !parseID(pool, uint64(meta.MaxPoolID), &k.Pool) {
		return false
	}
	switch {
	case arg == argPG:
		return parseID(rest, 1<<32-1, &k.PG)
	case arg == argInodeZero && rest == "0":
		return true
	}
	return parseID(rest, meta.MaxInodeNumber, &k.Number)
}

// parseID accepts [1-9][0-9]* up to limit.
func parseID[T ~uint32 | ~uint64](s string, limit uint64, id *T) bool {
	if s == "" || s[0] < '1' || s[0] > '9' || len(s) > 20 {
		return false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > limit {
		return false
	}
	*id = T(n)
	return true
}
