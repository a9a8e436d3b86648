package disk

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"vitastor/osd/store/layout"
)

const mib = 1 << 20

// table is a GPT partition table, as sfdisk --json shows it. Starts and sizes
// are in sectors.
type table struct {
	Label       string      `json:"label"`
	FirstLBA    uint64      `json:"firstlba"`
	LastLBA     uint64      `json:"lastlba"`
	SectorBytes uint64      `json:"sectorsize"`
	Parts       []tablePart `json:"partitions"`
}

type tablePart struct {
	Node  string `json:"node"`
	Start uint64 `json:"start"`
	Size  uint64 `json:"size"`
	Type  string `json:"type"`
	UUID  string `json:"uuid"`
}

// ours tells whether a partition has the type of OSDs.
func (p *tablePart) ours() bool { return strings.EqualFold(p.Type, PartitionType) }

// parseTable reads the output of sfdisk --json.
func parseTable(text string) (*table, error) {
	var out struct {
		Table *table `json:"partitiontable"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("cannot read the output of sfdisk --json: %w", err)
	}
	x := out.Table
	if x == nil {
		return nil, fmt.Errorf("sfdisk --json shows no partition table")
	}
	if x.SectorBytes == 0 {
		x.SectorBytes = 512
	}
	if x.Label != "gpt" {
		return nil, fmt.Errorf("its partition table is %q, only gpt is supported: choose another disk, or wipe this one", x.Label)
	}
	limit := uint64(1) << 53 / x.SectorBytes
	if x.SectorBytes > mib || mib%x.SectorBytes != 0 || x.FirstLBA > x.LastLBA || x.LastLBA > limit {
		return nil, fmt.Errorf("its partition table has usable sectors %d..%d of %d bytes, which makes no sense", x.FirstLBA, x.LastLBA, x.SectorBytes)
	}
	for _, p := range x.Parts {
		if p.Start > limit || p.Size > limit {
			return nil, fmt.Errorf("partition %s at %d+%d makes no sense", p.Node, p.Start, p.Size)
		}
	}
	slices.SortFunc(x.Parts, func(a, b tablePart) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	return x, nil
}

// emptyTable is the table that a disk without one would get.
func emptyTable(diskBytes uint64) *table {
	if diskBytes < 4*mib {
		return &table{Label: "gpt", SectorBytes: 512, FirstLBA: 1, LastLBA: 0}
	}
	return &table{Label: "gpt", SectorBytes: 512, FirstLBA: mib / 512, LastLBA: diskBytes/512 - 34}
}

// free is the largest unused range, aligned to MiB, in bytes.
func (x *table) free() (start, bytes uint64) {
	at := x.FirstLBA
	consider := func(until uint64) {
		from := (at*x.SectorBytes + mib - 1) / mib * mib
		to := min(until, x.LastLBA+1) * x.SectorBytes / mib * mib
		if to > from && to-from > bytes {
			start, bytes = from, to-from
		}
	}
	for _, p := range x.Parts {
		if p.Start > at {
			consider(p.Start)
		}
		at = max(at, p.Start+p.Size)
	}
	if x.LastLBA+1 > at {
		consider(x.LastLBA + 1)
	}
	return start, bytes
}

// newPart is a partition to be made; bytes are a multiple of 1 MiB.
type newPart struct{ Start, Bytes uint64 }

// split divides the free space into n partitions (spec ondisk.md §1.2); nil if
// it is not enough.
func (x *table) split(n int) []newPart {
	start, free := x.free()
	each := layout.PartitionMiB(free, n) * mib
	if n <= 0 || each == 0 {
		return nil
	}
	parts := make([]newPart, n)
	for i := range parts {
		parts[i] = newPart{start, each}
		if i == n-1 {
			parts[i].Bytes = free
		}
		start, free = start+each, free-each
	}
	return parts
}

// place puts partitions of the given sizes behind each other; nil if there is
// no room.
func (x *table) place(sizes ...uint64) (parts []newPart) {
	start, free := x.free()
	for _, size := range sizes {
		if size > free {
			return nil
		}
		parts = append(parts, newPart{start, size})
		start, free = start+size, free-size
	}
	return parts
}

// script tells sfdisk --append (or, on an empty disk, sfdisk) to make them.
func (x *table) script(parts []newPart, fresh bool) string {
	var b strings.Builder
	if fresh {
		b.WriteString("label: gpt\n")
	}
	for _, p := range parts {
		fmt.Fprintf(&b, "start=%d, size=%d, type=%s\n", p.Start/x.SectorBytes, p.Bytes/x.SectorBytes, PartitionType)
	}
	return b.String()
}

// readTable reads the partition table of a disk; nil if it has none.
func (t *Tool) readTable(disk string) (*table, error) {
	out, err := t.Programs.Output("", "sfdisk", "--json", disk)
	if err != nil {
		if strings.Contains(err.Error(), "not contain a recognized partition table") {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: %w", disk, err)
	}
	x, err := parseTable(out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", disk, err)
	}
	return x, nil
}

// makePartitions creates partitions, waits until the kernel and udev know them
// and returns their stable names. before is the present table, nil for a disk
// without one.
func (t *Tool) makePartitions(disk string, before *table, parts []newPart) ([]string, error) {
	args := []string{"--no-reread", "--no-tell-kernel", "--force", "--quiet", "--wipe-partitions=never"}
	sectors := before
	if before == nil {
		sectors = &table{SectorBytes: 512}
		if n, err := findNode(disk); err == nil {
			if size := sysNumber(n.Disk + "/queue/logical_block_size"); size != 0 {
				sectors.SectorBytes = size
			}
		}
	} else {
		args = append(args, "--append")
	}
	if _, err := t.Programs.Output(sectors.script(parts, before == nil), "sfdisk", append(args, disk)...); err != nil {
		return nil, fmt.Errorf("%s: cannot make partitions: %w", disk, err)
	}
	after, err := t.readTable(disk)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range parts {
		i := -1
		if after != nil {
			i = slices.IndexFunc(after.Parts, func(q tablePart) bool { return q.Start*after.SectorBytes == p.Start })
		}
		if i < 0 {
			return nil, fmt.Errorf("%s: sfdisk did not make the partition at %d: look at sfdisk --dump %s", disk, p.Start, disk)
		}
		name, err := t.awaitPartition(disk, after.Parts[i])
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// awaitPartition waits for the node and the stable name of a new partition.
// udev notices by itself; if not, the kernel is told.
func (t *Tool) awaitPartition(disk string, p tablePart) (string, error) {
	tries := 0
	there := t.waitFor(func() bool {
		if n, err := findNode(p.Node); err == nil && n.Partition != 0 {
			return true
		}
		if tries++; tries == 3 {
			t.tellKernel(disk)
		}
		return false
	})
	if !there {
		return "", fmt.Errorf("%s: does not appear: run partprobe %s and prepare it with --data_device", p.Node, disk)
	}
	return t.partUUIDLink(p.UUID, p.Node)
}

// tellKernel makes the kernel read a partition table again.
func (t *Tool) tellKernel(disk string) {
	_, err := t.Programs.Output("", "partprobe", disk)
	if err != nil {
		_, err = t.Programs.Output("", "partx", "-u", disk)
	}
	if err != nil {
		t.note("warning: %s: cannot tell the kernel about its partitions: %v", disk, err)
	}
}

// deletePartition removes a partition from the table of its disk.
func (t *Tool) deletePartition(n *node) error {
	number := fmt.Sprint(n.Partition)
	if _, err := t.Programs.Output("", "sfdisk", "--no-reread", "--no-tell-kernel", "--force", "--delete", n.DiskPath(), number); err != nil {
		return fmt.Errorf("%s: cannot delete the partition: %w", n.Path, err)
	}
	if _, err := t.Programs.Output("", "partprobe", n.DiskPath()); err == nil {
		return nil
	}
	if _, err := t.Programs.Output("", "partx", "-d", "--nr", number, n.DiskPath()); err != nil {
		t.note("warning: %s: deleted, but the kernel still shows it: %v", n.Path, err)
	}
	return nil
}
