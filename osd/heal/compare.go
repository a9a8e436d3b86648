package heal

import (
	"vitastor/internal/ec"
	"vitastor/internal/meta"
	"vitastor/internal/wire"
)

// compareSlice compares what was read.
func (j *scrubJob) compareSlice() {
	if !j.begun {
		j.begun = true
		if !j.beginCompare() {
			j.finish(wire.EINVAL)
			return
		}
	}
	j.data = j.data[:0]
	for _, i := range j.compared {
		j.data = append(j.data, j.buffers[i][:j.bytes])
	}
	if j.scheme == meta.Replicated {
		j.replicas.slice(j.data)
		j.nextSlice()
		return
	}
	// Memory after that of the chunks is for what is computed.
	spare := j.buffers[len(j.readings):][:j.stripes.spare()]
	for i := range spare {
		spare[i] = spare[i][:j.bytes]
	}
	j.stripes.slice(j.data, spare)
	j.checkMore()
}

// beginCompare decides which chunks take part.
func (j *scrubJob) beginCompare() bool {
	sortVersions(j.readings, j.k)
	j.compared = j.compared[:0]
	var roles [ec.MaxRoles]meta.Role
	for i := range j.readings {
		if r := &j.readings[i]; r.cond == readable && (j.scheme == meta.Replicated || int(r.loc.Role) < j.k+j.m) {
			roles[len(j.compared)] = r.loc.Role
			j.compared = append(j.compared, i)
		}
	}
	if j.scheme == meta.Replicated {
		j.replicas.begin(len(j.compared))
		return true
	}
	code, err := j.h.code(j.scheme, j.k, j.m)
	if err != nil {
		j.h.log.Error("chunks cannot be compared", "pg", j.hold.PG.String(), "error", err)
		return false
	}
	j.stripes.begin(code, roles[:len(j.compared)], max(j.h.config.Scrub.ECMaxBruteforce, 1))
	return true
}

// code returns the erasure code of a pool.
func (h *Healer) code(s meta.Scheme, k, m int) (*ec.Code, error) {
	key := codeKey{ec.ReedSolomon, k, m}
	if s == meta.XOR {
		key.scheme = ec.XOR
	}
	if c := h.codes[key]; c != nil {
		return c, nil
	}
	c, err := ec.New(key.scheme, k, m)
	if err == nil {
		h.codes[key] = c
	}
	return c, err
}

// checkMore tries a combination of chunks on the slice, and others in later
// iterations of the loop: each takes as long as an EC write.
func (j *scrubJob) checkMore() {
	more, err := j.stripes.check()
	switch {
	case err != nil:
		j.h.log.Error("chunks cannot be compared", "pg", j.hold.PG.String(), "object", j.hold.OID.String(), "error", err)
		j.finish(wire.EINVAL)
	case more:
		j.h.env.Clock.Arm(&j.timer, 0)
	default:
		j.nextSlice()
	}
}

// conclude notes what was found. Recovery does the rest.
func (j *scrubJob) conclude() {
	h, id := j.h, j.hold.OID
	objects := h.deps.Primary.Objects(j.hold.PG)
	if objects == nil {
		j.finish(wire.EPIPE)
		return
	}
	decided := j.decide()
	record, _ := objects.Lookup(id)
	j.before = appendLocations(j.before[:0], &objects.Layout, record)
	j.after = judge(j.after[:0], j.readings, decided)
	switch {
	case len(j.after) == 0 && record == nil:
		// It was deleted after it was listed.
	case len(j.after) == 0:
		h.log.Warn("scrub: an object has vanished from all its OSDs", "pg", j.hold.PG.String(), "object", id.String())
		objects.Deleted(id)
		j.changedState()
	default:
		j.after = append(j.after, j.outdated...)
		if !sameLocations(j.before, j.after) {
			j.report(decided)
			objects.SetLocations(id, j.after)
			j.changedState()
		}
	}
	j.finish(wire.OK)
}

// decide finds the good chunks. It returns false when nobody knows.
func (j *scrubJob) decide() bool {
	findBest := j.h.config.Scrub.FindBest
	decided := true
	j.good = j.good[:0]
	switch {
	case len(j.compared) == 0:
	case j.scheme == meta.Replicated:
		if j.good, decided = j.replicas.good(j.good); !j.replicas.equal() {
			decided = decided && findBest
		}
	case j.stripes.equal():
		for range j.compared {
			j.good = append(j.good, true)
		}
	default:
		j.good, decided = j.stripes.good(j.good)
		decided = decided && (findBest || j.stripes.covers(j.good))
	}
	for n, i := range j.compared {
		j.readings[i].good = j.good[n]
	}
	return decided
}

// changedState tells everybody that the object has another state.
func (j *scrubJob) changedState() {
	h, pg := j.h, j.hold.PG
	h.queue.Add(pg)
	h.deps.Primary.Changed(pg)
	h.wake()
}

// report logs and counts what is newly wrong.
func (j *scrubJob) report(decided bool) {
	h := j.h
	inconsistent := false
	for i := range j.readings {
		r := &j.readings[i]
		was := r.loc.Bad
		what := ""
		switch {
		case r.cond == missing:
			h.stats.Missing++
			what = "missing"
		case r.cond == older:
			what = "of an older version"
		case r.cond == broken && was&meta.LocCorrupted == 0:
			h.stats.Corrupted++
			what = "unreadable, or fails its checksum"
		case !r.good && decided && was&meta.LocCorrupted == 0:
			h.stats.Corrupted++
			what = "different from the others"
		case !decided && was&meta.LocInconsistent == 0:
			inconsistent = true
			what = "perhaps bad: copies differ, nobody knows which is right"
		}
		if what != "" {
			h.log.Warn("scrub: a chunk is "+what, "pg", j.hold.PG.String(), "object", j.hold.OID.String(),
				"role", r.loc.Role, "osd", r.loc.OSD)
		}
	}
	if inconsistent {
		h.stats.Inconsistent++
	}
}
