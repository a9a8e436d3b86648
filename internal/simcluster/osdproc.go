package simcluster

import (
	"fmt"
	"strconv"

	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema/option"
	"vitastor/osd/config"
	"vitastor/osd/daemon"
)

// Where the areas are on an OSD's disks, as `vitastor-disk prepare` puts them.
const (
	dataPath   = "/dev/data"
	metaPath   = "/dev/meta" // metadata and buffer, in commit mode "small"
	bufferSize = 1 << 20
	metaSize   = 1 << 20
	dataOffset = 4096 + bufferSize + metaSize
)

// layoutOptions is the command line of an OSD as far as its disk is concerned.
func (n *osdNode) layoutOptions() map[string]string {
	c := n.k.c
	o := map[string]string{
		"osd_num": strconv.Itoa(int(n.num)), "data_device": dataPath, "data_offset": strconv.Itoa(dataOffset),
		"meta_offset": strconv.Itoa(4096 + bufferSize), "journal_offset": "4096", "journal_size": strconv.Itoa(bufferSize),
		"block_size": strconv.Itoa(int(c.BlockBytes)), "bitmap_granularity": strconv.Itoa(GranuleBytes),
		"immediate_commit": c.Commit.String(), "meta_format": "3", "etcd_address": "10.99.99.99:2379", // not used
	}
	if c.Commit == meta.CommitSmall {
		o["meta_device"], o["journal_device"] = metaPath, metaPath
		o["disable_meta_fsync"], o["disable_journal_fsync"] = "1", "1"
	}
	if c.Commit == meta.CommitAll {
		o["disable_data_fsync"], o["disable_meta_fsync"], o["disable_journal_fsync"] = "1", "1", "1"
	}
	if c.Checksums {
		o["data_csum_type"] = "crc32c"
	}
	return o
}

// osdDaemon is a running OSD.
type osdDaemon struct {
	o *daemon.OSD
}

// startOSD starts the daemon as the program vitastor-osd would.
func startOSD(n *osdNode, e *env.Env, exit func(error)) *osdDaemon {
	n.lease = 0
	return &osdDaemon{daemon.Start(e, daemon.Options{
		CommandLine: commandLine(n.layoutOptions()),
		Facts:       option.Facts{Hostname: n.host},
		Interfaces:  []config.Interface{{Addr: n.node.Addr()}},
		Exit: func(code int, err error) {
			exit(fmt.Errorf("code %d: %w", code, err))
		},
		Leased: func(id env.LeaseID, _ []string) { n.lease = id },
	})}
}

func (d *osdDaemon) free() { d.o.Free() }
