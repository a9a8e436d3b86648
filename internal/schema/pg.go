package schema

import (
	"slices"

	"vitastor/internal/meta"
)

// PGState is pg/state/<pool>/<pg> (etcd.md 2.7.2). The zero value is a PG
// without the key: offline.
type PGState struct {
	Primary meta.OSDNum
	State   meta.PGState // 0 = no key
	Peers   []meta.OSDNum
}

// Offline tells that nobody runs the PG.
func (s *PGState) Offline() bool { return s.State == 0 || s.State == meta.PGOffline }

// DecodePGState reads pg/state. On an error the whole update has to be ignored,
// as all readers of the cluster do: one unknown keyword is enough.
func DecodePGState(key string, data []byte) (PGState, error) {
	d := open(key, data)
	var s PGState
	if d.root.kind() == kindNull {
		return s, d.err()
	}
	var names []string
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "primary":
			s.Primary = d.osd(v)
		case "state":
			names = nil
			for _, item := range d.array(v) {
				names = append(names, d.str(item))
			}
		case "peers":
			s.Peers = d.osds(nil, v)
		}
	}
	if len(d.errs) == 0 && s.Primary == 0 {
		d.path = []step{{name: []byte("primary")}}
		d.fail(d.root, "the number of the OSD that runs the PG")
	}
	if len(d.errs) == 0 {
		var err error
		if s.State, err = meta.ParsePGState(names); err != nil {
			d.path = []step{{name: []byte("state")}}
			d.fail(d.root, "a valid PG state: "+err.Error())
		}
	}
	if err := d.err(); err != nil {
		return PGState{}, err
	}
	return s, nil
}

// Encode is the OSD's form. State must be valid and not offline: that is
// stored as a missing key.
func (s *PGState) Encode() []byte {
	var w writer
	w.open('{')
	w.name("peers")
	w.osds(s.Peers)
	w.name("primary")
	w.uint(uint64(s.Primary))
	w.name("state")
	w.strs(s.State.Names())
	w.close('}')
	return w.buf
}

// PGHistory is pg/history/<pool>/<pg> (etcd.md 2.7.3).
type PGHistory struct {
	// OSDSets may hold data of the PG besides the target set; as stored, with
	// zeroes and in order of roles if the monitor wrote them.
	OSDSets [][]meta.OSDNum
	// AllPeers are further OSDs to ask when peering.
	AllPeers []meta.OSDNum
	// Epoch is the last one announced before writing.
	Epoch uint64
	// NextScrub is a unix time in seconds, 0 = not planned, 1 = now.
	NextScrub uint64
	extra     Object
}

// DecodePGHistory reads pg/history. After an error the value may lack OSDs that
// hold data: a PG must not start with it.
func DecodePGHistory(key string, data []byte) (PGHistory, error) {
	d := open(key, data)
	var h PGHistory
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "osd_sets":
			h.OSDSets = nil
			for _, set := range d.array(v) {
				h.OSDSets = append(h.OSDSets, d.osds([]meta.OSDNum{}, set))
			}
		case "all_peers":
			h.AllPeers = d.osds(nil, v)
		case "epoch":
			h.Epoch = d.uint64(v)
		case "next_scrub":
			h.NextScrub = d.uint64(v)
		default:
			h.extra.Set(string(name), compact(v))
		}
	}
	return h, d.err()
}

// Normalise gives all sets the form that OSDs compare and store: sorted, without
// zeroes, duplicates and empty sets.
func (h *PGHistory) Normalise() {
	h.AllPeers = NormalSet(h.AllPeers)
	for i := range h.OSDSets {
		h.OSDSets[i] = NormalSet(h.OSDSets[i])
	}
	slices.SortFunc(h.OSDSets, slices.Compare)
	h.OSDSets = slices.CompactFunc(h.OSDSets, slices.Equal)
	if len(h.OSDSets) > 0 && len(h.OSDSets[0]) == 0 {
		h.OSDSets = h.OSDSets[1:]
	}
}

// AddSet appends a set unless it is there already or has no OSD.
func (h *PGHistory) AddSet(set []meta.OSDNum) {
	if !slices.ContainsFunc(set, func(o meta.OSDNum) bool { return o != 0 }) {
		return
	}
	for _, old := range h.OSDSets {
		if slices.Equal(old, set) {
			return
		}
	}
	h.OSDSets = append(h.OSDSets, slices.Clone(set))
}

// RemoveOSDs removes the OSDs from all peers and replaces them by 0 in the sets;
// sets that become empty are dropped. It tells whether anything changed. (For
// rm-osd; epoch and next_scrub stay.)
func (h *PGHistory) RemoveOSDs(osds []meta.OSDNum) (changed bool) {
	gone := func(o meta.OSDNum) bool { return o != 0 && slices.Contains(osds, o) }
	before := len(h.AllPeers)
	h.AllPeers = slices.DeleteFunc(h.AllPeers, gone)
	changed = len(h.AllPeers) != before
	kept := h.OSDSets[:0]
	for _, set := range h.OSDSets {
		left := false
		for i, o := range set {
			if gone(o) {
				set[i], changed = 0, true
			}
			left = left || set[i] != 0
		}
		if left {
			kept = append(kept, set)
		} else {
			changed = true
		}
	}
	h.OSDSets = kept
	return changed
}

// EncodeOSD is the form in which OSDs write: numbers, next_scrub only when set.
// Call Normalise first. Unknown fields are not kept, as in the reference.
func (h *PGHistory) EncodeOSD() []byte {
	var w writer
	w.open('{')
	w.name("all_peers")
	w.osds(h.AllPeers)
	w.name("epoch")
	w.uint(h.Epoch)
	if h.NextScrub != 0 {
		w.name("next_scrub")
		w.uint(h.NextScrub)
	}
	w.name("osd_sets")
	w.open('[')
	for _, set := range h.OSDSets {
		w.osds(set)
	}
	w.close(']')
	w.close('}')
	return w.buf
}

// EncodeMon is the form in which the monitor and rm-osd write: sets like in
// pg/config, unknown fields kept.
func (h *PGHistory) EncodeMon() []byte {
	var w writer
	w.open('{')
	w.name("osd_sets")
	w.open('[')
	for _, set := range h.OSDSets {
		w.osdStrings(set)
	}
	w.close(']')
	w.name("all_peers")
	w.osds(h.AllPeers)
	w.name("epoch")
	w.uint(h.Epoch)
	if h.NextScrub != 0 {
		w.name("next_scrub")
		w.uint(h.NextScrub)
	}
	w.members(&h.extra)
	w.close('}')
	return w.buf
}

// PGStats is pgstats/<pool>/<pg> and the legacy pg/stats/<pool>/<pg> (2.7.4):
// numbers of objects.
type PGStats struct {
	Clean, Misplaced, Degraded, Incomplete, Corrupted, Objects uint64
	// WriteOSDSet is the set that was written to at the time of the report, 0 =
	// nobody; it may lag behind pg/state by one report.
	WriteOSDSet []meta.OSDNum
}

// DecodePGStats reads pgstats; an unreadable count is 0 and reported.
func DecodePGStats(key string, data []byte) (PGStats, error) {
	d := open(key, data)
	var s PGStats
	for name, v := range d.object(d.root) {
		switch string(name) {
		case "object_count":
			s.Objects = d.uint64(v)
		case "clean_count":
			s.Clean = d.uint64(v)
		case "misplaced_count":
			s.Misplaced = d.uint64(v)
		case "degraded_count":
			s.Degraded = d.uint64(v)
		case "incomplete_count":
			s.Incomplete = d.uint64(v)
		case "corrupted_count":
			s.Corrupted = d.uint64(v)
		case "write_osd_set":
			s.WriteOSDSet = d.osds(nil, v)
		}
	}
	return s, d.err()
}

// Encode is the OSD's form; corrupted_count only when there are such objects.
func (s *PGStats) Encode() []byte {
	var w writer
	w.open('{')
	count := func(name string, n uint64) {
		w.name(name)
		w.uint(n)
	}
	count("clean_count", s.Clean)
	if s.Corrupted != 0 {
		count("corrupted_count", s.Corrupted)
	}
	count("degraded_count", s.Degraded)
	count("incomplete_count", s.Incomplete)
	count("misplaced_count", s.Misplaced)
	count("object_count", s.Objects)
	w.name("write_osd_set")
	w.osds(s.WriteOSDSet)
	w.close('}')
	return w.buf
}
