package disk

import (
	"fmt"
	"maps"
	"slices"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
)

// severity of a problem.
type severity string

const (
	sevError   severity = "error"   // the store does not start, or has lost data
	sevWarning severity = "warning" // works, but somebody should know
	sevNote    severity = "note"    // normal after a crash
)

// problem is one thing that was found.
type problem struct {
	kind   string
	device string
	offset uint64 // of the device, if placed
	placed bool
	object *meta.ObjectID
	what   string
}

const refill = "Remove the OSD with purge, prepare the disk again and let recovery refill it. If no other copy exists, " +
	"dump-meta shows what is readable."

// kinds explain every kind of problem.
var kinds = map[string]struct {
	severity        severity
	meaning, remedy string
}{
	"superblock": {sevError, "The OSD finds its devices and areas by this block; without it, this device is not recognized.",
		"Copy it from another device of the OSD: vitastor-disk read-sb OTHER | vitastor-disk write-sb DEV."},
	"superblock-differs": {sevWarning, "The OSD starts with the parameters of the device it is started from.",
		"Find out which is right and write it to all devices: vitastor-disk read-sb RIGHT | vitastor-disk write-sb DEV."},
	"meta-superblock": {sevError, "The metadata does not belong to this store, or the parameters of the OSD were changed. The OSD does not start.",
		"Compare with read-sb: correct wrong parameters with update-sb. If they are right, the block is damaged: restore the metadata from a dump with write-meta. " + refill},
	"meta-superblock-lost": {sevError, "The first block of the metadata was overwritten with zeroes. The OSD refuses to start, because release 3.0.8 would erase the rest.",
		"Do not start another release on this disk. " + refill},
	"meta-superblock-crc": {sevWarning, "The OSD starts: release 3.0.8 writes this checksum wrongly after restoring a dump.",
		"Nothing, if the metadata was restored once; otherwise look for other damage."},
	"restore-interrupted": {sevError, "The metadata is half replaced. The OSD does not start.", "Run the interrupted command again with the same dump."},
	"not-initialized":     {sevNote, "The OSD makes its metadata when it starts for the first time.", "Nothing."},
	"read-error": {sevError, "The device does not return this data.",
		"Look at the kernel log and replace the disk. With other copies in the cluster, stop the OSD and let recovery make new ones."},
	"entry-damaged": {sevError, "A piece of metadata was damaged after it was written. The OSD does not start, because it cannot know which write is lost.",
		"If the object has other copies: start the OSD once with skip_corrupted_meta_entries=1, which leaves the entry out, and let scrubbing compare. Check memory and disk."},
	"block-damaged": {sevError, "A whole metadata block, with up to some hundred entries, is not readable. The OSD does not start.",
		refill},
	"block-out-of-range": {sevError, "An entry refers to space outside of the data area: the device was made smaller, or data_size or data_offset changed. The OSD does not start.",
		"Give the device its size back, or correct the parameters with update-sb."},
	"chain":             {sevError, "The entries of an object contradict each other. The OSD does not start.", refill},
	"chain-old-release": {sevWarning, "This OSD works with it, but release 3.0.8 may fail on it.", "Do not go back to release 3.0.8 before the OSD has compacted the object (some writes later)."},
	"base-missing": {sevError, "A partial write has lost the data it belongs to. The OSD does not start.",
		refill},
	"double-claim": {sevError, "Two objects use the same space, so one of them has wrong data (defect D1 of release 3.0.8 does this). The OSD does not start.",
		refill},
	"unfinished-write": {sevNote, "The write was interrupted by a crash and was never acknowledged, or not synced. The next start drops it.", "Nothing."},
	"last-write-damaged": {sevError, "The data was damaged after it was written. The object reads with wrong data or an error.",
		"Start the OSD and let scrubbing repair the object from other copies."},
	"data-checksum": {sevError, "The data was damaged after it was written. The OSD starts; reads of this part fail until it is repaired.",
		"Start the OSD and let scrubbing repair the object from other copies. Replace the disk if it happens again."},
	"copy-lost": {sevWarning, "A power failure took a copy that release 3.0.8 had not made durable; the original is still there.", "Start the OSD: it copies the data again."},
}

// severity of a problem.
func (p *problem) severity() severity { return kinds[p.kind].severity }

// report is the result of a check.
type report struct {
	osd                        meta.OSDNum
	areas                      []areaLine
	problems                   []problem
	damaged                    map[meta.ObjectID]bool // with last-write-damaged
	noData                     bool
	metaBlocks, usedMetaBlocks uint64
	entries, garbage, dropped  uint64
	liveBytes                  uint64
	objects, unstable          uint64
	dataBytes, dataUsed        uint64
	bufferBytes, bufferUsed    uint64
	dataChecked                uint64
	highest, completed         layout.LSN
	space                      map[meta.Inode]uint64
	csums                      bool
}

type areaLine struct {
	name, device string
	area         layout.Area
}

func (r *report) describe(s *OSD) {
	p := s.Params
	r.areas = []areaLine{{"data", s.Data.Path, p.Data}, {"metadata", s.Meta.Path, p.Meta}, {"buffer", s.Buffer.Path, p.Buffer}}
	r.metaBlocks, r.bufferBytes = uint64(p.MetaBlocks), p.Buffer.Bytes
	r.dataBytes = uint64(p.Geometry.BlockCount) * uint64(p.Geometry.BlockBytes)
	r.csums = p.Geometry.CsumBytes != 0
}

func (r *report) add(p problem) {
	if p.kind == "last-write-damaged" && p.object != nil {
		if r.damaged == nil {
			r.damaged = map[meta.ObjectID]bool{}
		}
		r.damaged[*p.object] = true
	}
	r.problems = append(r.problems, p)
}

func (r *report) countOf(s severity) (n int) {
	for i := range r.problems {
		if r.problems[i].severity() == s {
			n++
		}
	}
	return n
}

// bad tells whether there are errors.
func (r *report) bad() bool { return r.countOf(sevError) > 0 }

func (t *Tool) showReport(r *report) {
	if t.json {
		t.printJSON(r.json())
		return
	}
	if r.osd != 0 {
		t.print("OSD %d", r.osd)
	}
	for _, a := range r.areas {
		t.print("  %-9s %s at %d of %s", a.name+":", humanBytes(a.area.Bytes), a.area.Offset, a.device)
	}
	t.print("  %-9s %d, %d of them with unstable versions", "objects:", r.objects, r.unstable)
	t.print("  %-9s %d in %d of %d metadata blocks, %d more are garbage", "entries:", r.entries, r.usedMetaBlocks, r.metaBlocks, r.garbage)
	t.print("  %-9s %s of %s data, %s of %s buffer", "used:", humanBytes(r.dataUsed), humanBytes(r.dataBytes), humanBytes(r.bufferUsed), humanBytes(r.bufferBytes))
	switch {
	case r.noData:
		t.print("  %-9s not verified (--no-data)", "data:")
	case r.csums:
		t.print("  %-9s %s verified", "data:", humanBytes(r.dataChecked))
	default:
		t.print("  %-9s %s verified (the store has no checksums of data blocks)", "data:", humanBytes(r.dataChecked))
	}
	r.showProblems(t)
	switch errors, warnings := r.countOf(sevError), r.countOf(sevWarning); {
	case errors > 0:
		t.print("\nThe store has problems: %d errors, %d warnings", errors, warnings)
	case warnings > 0:
		t.print("\nThe store is sound, with %d warnings", warnings)
	default:
		t.print("\nThe store is sound")
	}
}

// shownPerKind limits the list for people; JSON has all.
const shownPerKind = 20

// showProblems prints problems by kind, each explained once.
func (r *report) showProblems(t *Tool) {
	byKind := map[string][]problem{}
	var order []string
	for _, p := range r.problems {
		if byKind[p.kind] == nil {
			order = append(order, p.kind)
		}
		byKind[p.kind] = append(byKind[p.kind], p)
	}
	for _, kind := range order {
		list := byKind[kind]
		t.print("\n%s: %s (%d)", kinds[kind].severity, kind, len(list))
		for _, p := range list[:min(len(list), shownPerKind)] {
			t.print("  %s", p.line())
		}
		if len(list) > shownPerKind {
			t.print("  ... and %d more, use --json to see all", len(list)-shownPerKind)
		}
		t.print("  Meaning: %s\n  To do:   %s", kinds[kind].meaning, kinds[kind].remedy)
	}
}

func (p *problem) line() string {
	s := ""
	if p.device != "" {
		s = p.device
		if p.placed {
			s += fmt.Sprintf(" at %d", p.offset)
		}
		s += ": "
	}
	if p.object != nil && (p.kind == "data-checksum" || p.kind == "copy-lost") {
		s += fmt.Sprintf("object %v: ", *p.object)
	}
	return s + p.what
}

func (r *report) json() map[string]any {
	problems := []any{}
	for _, p := range r.problems {
		k := kinds[p.kind]
		j := map[string]any{"kind": p.kind, "severity": string(k.severity), "text": p.what, "meaning": k.meaning, "remedy": k.remedy}
		if p.device != "" {
			j["device"] = p.device
		}
		if p.placed {
			j["offset"] = p.offset
		}
		if p.object != nil {
			j["pool"], j["inode"], j["stripe"] = uint64(p.object.Inode.Pool()), p.object.Inode.Number(), p.object.Stripe
		}
		problems = append(problems, j)
	}
	space := []any{}
	for _, inode := range slices.Sorted(maps.Keys(r.space)) {
		if n := r.space[inode]; n != 0 {
			space = append(space, map[string]any{"pool": uint64(inode.Pool()), "inode": inode.Number(), "bytes": n})
		}
	}
	areas := map[string]any{}
	for _, a := range r.areas {
		areas[a.name] = map[string]any{"device": a.device, "offset": a.area.Offset, "bytes": a.area.Bytes}
	}
	return map[string]any{"osd_num": uint64(r.osd), "ok": !r.bad(), "problems": problems, "areas": areas, "space": space,
		"objects": r.objects, "unstable_objects": r.unstable, "entries": r.entries, "garbage_entries": r.garbage, "dropped_entries": r.dropped,
		"meta_blocks": r.metaBlocks, "meta_blocks_used": r.usedMetaBlocks, "meta_used": r.liveBytes,
		"data_size": r.dataBytes, "data_used": r.dataUsed, "buffer_size": r.bufferBytes, "buffer_used": r.bufferUsed,
		"data_checked": r.dataChecked, "highest_lsn": uint64(r.highest), "completed_lsn": uint64(r.completed)}
}
