package cli

import (
	"slices"
)

// command is one row of the help.
type command struct {
	names   []string // the first one is shown
	args    string
	short   string
	long    string
	options []optionHelp
	example []string
	// complete tells what the words are, for the shell.
	complete kindOfName
	run      func(*run) (result, error)
}

// optionHelp is an option of a command; an empty value is a switch.
type optionHelp struct{ name, value, doc string }

// kindOfName is what a word of a command stands for.
type kindOfName uint8

const (
	noNames kindOfName = iota
	imageNames
	poolNames
	osdNames
)

func findCommand(name string) *command {
	for i := range commands {
		if slices.Contains(commands[i].names, name) {
			return &commands[i]
		}
	}
	return nil
}

// commands are in the order of the help: what is used most comes first.
var commands []command

func init() { // not a literal: help uses it
	commands = slices.Concat(watching, imageCommands, dataCommands, attachCommands, poolCommands, osdCommands, repairCommands)
}

var watching = []command{
	{names: []string{"status"}, short: "Show the state of the cluster", run: (*run).status},
	{names: []string{"top"}, args: "[--interval SECONDS] [-n N]", short: "Watch the cluster at work: I/O, PGs, recovery, OSDs, images",
		options: []optionHelp{{"interval", "SECONDS", "time between two pictures (default 1)"}, {"count", "N", "show so many OSDs and images (default: as many as fit)"},
			{"once", "", "one picture, and leave"}},
		run: (*run).top},
	{names: []string{"df"}, short: "Show the space of pools", complete: poolNames, run: (*run).df},
}

var imageCommands = []command{
	{names: []string{"ls"}, args: "[-l] [-p POOL] [--sort FIELD] [-r] [-n N] [--tree] [GLOB ...]", short: "List images and snapshots",
		long:     "Lists all images and snapshots, or those whose names match one of the patterns.",
		complete: imageNames,
		options: []optionHelp{{"pool", "POOL", "only this pool, by name or ID"}, {"long", "", "also used space and I/O (-l)"}, {"del", "", "with -l: also deletions"},
			{"exact", "", "words are names, not patterns"}, {"sort", "FIELD", "name (default), size, used_size, pool_name, read_iops, write_bps, delete_lat, ..."},
			{"reverse", "", "the other way round (-r)"}, {"count", "N", "only the first N (-n)"}, {"tree", "", "children below their parents"}},
		example: []string{"vitastor-cli ls -l 'vm-*'", "vitastor-cli ls --sort used_size -r -n 10 -l"},
		run:     (*run).ls},
	{names: []string{"create"}, args: "-s SIZE [-p POOL] [--parent PARENT[@SNAPSHOT]] NAME", short: "Create an image, a clone, or with --snapshot a snapshot",
		long: "Creates an empty image, or a clone of PARENT (normally a snapshot). With --snapshot NAME it is the same as snap-create.",
		options: []optionHelp{{"size", "SIZE", "size, a multiple of 4k, with k, m, g or t (-s)"}, {"pool", "POOL", "pool by name or ID; may be left out if there is only one, or with --parent (-p)"},
			{"parent", "NAME", "make a clone of this image or snapshot"}, {"snapshot", "NAME", "make a snapshot of the image instead"},
			{"image_meta", "JSON", "additional information to store with the image"},
			{"force", "", "also in a pool of another application (-f)"}, {"force_size", "1", "allow any size"}},
		complete: imageNames,
		example:  []string{"vitastor-cli create -s 10G -p ssd vm1", "vitastor-cli create --parent debian@v1 vm2"},
		run:      (*run).create},
	{names: []string{"snap-create"}, args: "[-p POOL] IMAGE@SNAPSHOT", short: "Make a snapshot",
		long:     "Freezes the present content of IMAGE as IMAGE@SNAPSHOT. IMAGE goes on as a new layer above it, also while it is in use.",
		options:  []optionHelp{{"pool", "POOL", "where the image goes on (default: where it is) (-p)"}, {"image_meta", "JSON", "additional information to store with the snapshot"}, {"force", "", "also in a pool of another application (-f)"}},
		complete: imageNames, run: (*run).snapCreate},
	{names: []string{"modify"}, args: "NAME [--rename NEW] [--resize SIZE] [--readonly | --readwrite]", short: "Change an image",
		options: []optionHelp{{"rename", "NEW", "give it another name"}, {"resize", "SIZE", "change its size; data beyond a smaller size is removed"},
			{"inc_size", "1", "with --resize: only make it larger"}, {"readonly", "", "forbid writing"}, {"readwrite", "", "allow writing"},
			{"deleted", "1|0", "mark as being deleted, or not"}, {"force", "", "also if children see the change (-f)"}, {"force_size", "1", "allow any size, also 0"},
			{"down_ok", "", "shrink even if data is left on OSDs that are down"}, {"fsync_interval", "N", "SYNC after so many deletions, default 128"}},
		complete: imageNames, example: []string{"vitastor-cli modify vm1 --resize 20G", "vitastor-cli modify vm1 --rename web1"},
		run: (*run).modify},
}

var dataCommands = []command{
	{names: []string{"dd"}, args: "[iimg=IMAGE | if=FILE] [oimg=IMAGE | of=FILE] [bs=1M] ...", short: "Copy between images and files", long: ddHelp,
		options: ddOptions, complete: imageNames, run: (*run).dd,
		example: []string{"vitastor-cli dd if=debian.raw oimg=debian --pool ssd", "vitastor-cli dd iimg=vm1@monday of=vm1.raw conv=trunc"}},
	{names: []string{"rm"}, args: "FROM [TO] | (--exact|--matching) GLOB ...", short: "Remove images, snapshots, or chains of them",
		long: "Removes FROM, or all layers from FROM up to its descendant TO. Data that other layers still see through\n" +
			"them is merged into those. Interrupted, it is resumed by running it again.\n" +
			"With --exact or --matching all images of these names, or matching these patterns, are removed.",
		options: []optionHelp{{"exact", "", "remove images with these names"}, {"matching", "", "remove images whose names match these patterns"},
			{"writers_stopped", "", "nobody writes to the children: then the smaller layer is moved, not always the parent"},
			{"down_ok", "", "remove even if data is left on OSDs that are down"}, {"cas", "1|0", "merge with compare-and-swap (default 1)"},
			{"fsync_interval", "N", "SYNC after so many operations, default 128"}},
		complete: imageNames, run: (*run).rm},
	{names: []string{"flatten"}, args: "LAYER", short: "Make a clone independent of its parents",
		long:     "Copies everything that LAYER sees through its parents into it, then detaches it. It may be in use meanwhile.",
		options:  []optionHelp{{"cas", "1|0", "write with compare-and-swap (default 1)"}, {"fsync_interval", "N", "SYNC after so many writes, default 128"}},
		complete: imageNames, run: (*run).flatten},
	{names: []string{"rm-data"}, args: "--pool ID --inode N [--min-offset B] [--max-offset B]", short: "Remove the data of an inode",
		options: []optionHelp{{"pool", "ID", "number of the pool"}, {"inode", "N", "number of the inode, in its pool or with it"}, {"wait_list", "", "list everything before deleting"},
			{"min_offset", "BYTES", "only objects that begin here or after it"}, {"max_offset", "BYTES", "only objects that begin before it"},
			{"down_ok", "", "succeed even if data is left on OSDs that are down"}, {"fsync_interval", "N", "SYNC after so many deletions, default 128"}},
		run: (*run).rmData},
	{names: []string{"merge-data"}, args: "FROM TO [--target TARGET]", short: "Merge the data of layers FROM to TO into TARGET",
		long:     "TARGET is FROM, unless given, or another layer of the chain. Parents are not changed: see flatten and rm.",
		options:  []optionHelp{{"target", "LAYER", "where the data goes"}, {"cas", "1|0", "write with compare-and-swap"}, {"delete_source", "1", "the layers below TO will be removed"}, {"fsync_interval", "N", "SYNC after so many writes, default 128"}},
		complete: imageNames, run: (*run).mergeData},
}

// poolParameters are options of create-pool and modify-pool.
var poolParameters = []optionHelp{
	{"pg_size", "N", "number of OSDs of a PG: copies, or data and parity chunks (-s)"}, {"ec", "N+K", "N data and K parity chunks"},
	{"scheme", "S", "replicated, ec or xor"}, {"parity_chunks", "K", "with --scheme ec"}, {"pg_minsize", "N", "a PG with fewer OSDs stops"},
	{"pg_count", "N", "number of PGs (-n)"}, {"name", "NAME", "name"}, {"failure_domain", "LEVEL", "OSDs of a PG are in different nodes of this level (default host)"},
	{"root_node", "NODE", "only OSDs below this node"}, {"osd_tags", "A,B", "only OSDs with all these tags"},
	{"level_placement", "LEVEL=RULE,...", "a letter per position; equal ones are in the same node of the level: dc=112,host=123"},
	{"raw_placement", "RULES", "placement rules, see docs"}, {"primary_affinity_tags", "A,B", "prefer primaries with these tags"},
	{"local_reads", "HOW", "primary, nearest or random"}, {"block_size", "SIZE", "must be that of the OSDs"}, {"bitmap_granularity", "SIZE", "must be that of the OSDs"},
	{"immediate_commit", "MODE", "all, small or none: what the OSDs have"}, {"pg_stripe_size", "SIZE", "unit of distribution"},
	{"max_osd_combinations", "N", "for the placement algorithm of older monitors"}, {"scrub_interval", "TIME", "such as 30d"},
	{"used_for_app", "APP", "reserve the pool for an application"}, {"used_for_fs", "IMAGE", "reserve the pool for the file system with this metadata image"},
	{"size", "N", ""}, {"count", "N", ""}, {"force", "", "skip checks that protect from degraded pools and data loss (-f)"},
}

var poolCommands = []command{
	{names: []string{"create-pool", "pool-create"}, args: "NAME (-s PG_SIZE | --ec N+K) -n PG_COUNT [PARAMETERS]", short: "Create a pool",
		options: append(slices.Clone(poolParameters), optionHelp{"wait", "", "wait until its PGs are active"}),
		example: []string{"vitastor-cli create-pool ssd -s 2 -n 256 --osd_tags ssd", "vitastor-cli create-pool archive --ec 4+2 -n 256 --failure_domain host --wait"},
		run:     (*run).createPool},
	{names: []string{"modify-pool", "pool-modify"}, args: "ID|NAME [--name NEW] [PARAMETERS]", short: "Change a pool", options: poolParameters, complete: poolNames,
		example: []string{"vitastor-cli modify-pool ssd -n 512", "vitastor-cli modify-pool 2 --name fast"}, run: (*run).modifyPool},
	{names: []string{"rm-pool", "pool-rm"}, args: "[-f] ID|NAME", short: "Remove a pool", long: "The pool must not have images, unless forced. Data of a pool that is removed by force stays on the OSDs.",
		options: []optionHelp{{"force", "", "even with images (-f)"}}, complete: poolNames, run: (*run).rmPool},
	{names: []string{"ls-pools", "pool-ls", "ls-pool", "pools"}, args: "[-l] [--detail] [--sort FIELD] [-r] [-n N] [GLOB ...]", short: "List pools",
		options: []optionHelp{{"long", "", "also I/O (-l)"}, {"detail", "", "everything, one block per pool"}, {"sort", "FIELD", "name, scheme, used_raw, pg_count, ..."},
			{"reverse", "", "the other way round (-r)"}, {"count", "N", "only the first N (-n)"}, {"stats", "1", "the same as -l"}},
		complete: poolNames, run: (*run).lsPools},
}

var osdCommands = []command{
	{names: []string{"osd-tree"}, args: "[-l]", short: "Show OSDs in their tree", options: []optionHelp{{"long", "", "also I/O (-l)"}}, run: (*run).osdTree},
	{names: []string{"osds", "ls-osd", "ls-osds", "osd-ls"}, args: "[-l]", short: "List OSDs", options: []optionHelp{{"long", "", "also I/O (-l)"}}, run: (*run).osds},
	{names: []string{"modify-osd"}, args: "[--tags A,B] [--reweight 0..1] [--noout 1|0] OSD", short: "Change the settings of an OSD",
		options: []optionHelp{{"tags", "A,B", "tags, '' = none"}, {"reweight", "0..1", "factor of the amount of data; 0 takes it out"}, {"noout", "1|0", "never take it out when it is down for long"},
			{"force", "", "also for an OSD that never ran (-f)"}}, complete: osdNames, run: (*run).modifyOSD},
	{names: []string{"rm-osd"}, args: "[--force] [--allow-data-loss] [--dry-run] OSD ...", short: "Remove OSDs from the cluster",
		long: "Refuses if data would be lost or PGs degraded. Normally called by vitastor-disk purge.",
		options: []optionHelp{{"force", "", "even if PGs get degraded (-f)"}, {"allow_data_loss", "", "even if data is lost"}, {"allow_up", "", "even if it is running"},
			{"dry_run", "", "only tell what would happen"}, {"etcd_tx_retries", "N", "default 10000"}, {"etcd_tx_retry_ms", "MS", "default 500"}}, complete: osdNames, run: (*run).rmOSD},
	{names: []string{"alloc-osd"}, short: "Reserve a free OSD number", run: (*run).allocOSD},
	{names: []string{"pgs", "pg-list", "pg-ls", "list-pg", "ls-pg", "ls-pgs"}, args: "[--pool POOL] [--min N] [--max N] [--osd N,...] [STATE ...]", short: "List PGs",
		long: "STATE is a+b for PGs that have both, or ^a+b for those that do not have both; several are alternatives. States are\n" +
			"starting peering incomplete active repeering stopping offline degraded has_inconsistent has_corrupted has_incomplete\n" +
			"has_degraded has_misplaced has_unclean has_invalid left_on_dead scrubbing.",
		options: []optionHelp{{"pool", "POOL", "only this pool, by name or ID (-p)"}, {"min", "N", "only PGs from this number on"}, {"max", "N", "only PGs up to this number"},
			{"osd", "N,...", "only PGs that are or were on these OSDs"}},
		example: []string{"vitastor-cli pgs ^active", "vitastor-cli pgs --osd 3 has_degraded has_misplaced"}, run: (*run).pgs},
}

var repairCommands = []command{
	{names: []string{"describe"}, args: "[--osds N,...] [--object-state STATES] [--pool POOL] [--pg N] [--inode N]", short: "List objects that are not clean",
		options: []optionHelp{{"osds", "N,...", "ask these primaries"}, {"object_state", "STATES", "degraded, misplaced, incomplete, corrupted, inconsistent"}, {"pool", "POOL", "by name or ID (-p)"},
			{"pg", "N", "number of the PG"}, {"inode", "N", "only this inode"}, {"min_inode", "N", "from this one on"}, {"max_inode", "N", "up to this one"},
			{"min_offset", "N", "from this offset on"}, {"max_offset", "N", "up to this one"}}, run: (*run).describe},
	{names: []string{"fix"}, args: "[--objects LIST] --bad-osds N,... [--part N] [--check no]", short: "Remove bad copies of inconsistent objects",
		long: "Removes the copies of objects on the OSDs that are known to be bad and lets the others replace them. The objects are\n" +
			"LIST or standard input: 0xINODE:0xSTRIPE ..., or the output of describe --json.",
		options: []optionHelp{{"objects", "LIST", "objects"}, {"bad_osds", "N,...", "where copies are bad"}, {"part", "N", "only this chunk"}, {"check", "no", "also copies that are not known to be inconsistent"}},
		example: []string{"vitastor-cli describe --object-state inconsistent --json | vitastor-cli fix --bad-osds 3"}, run: (*run).fix},
}
