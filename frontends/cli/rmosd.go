package cli

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// effect is what the removal of OSDs does to a pool, the worst last.
type effect uint8

const (
	noEffect effect = iota
	hasDegraded
	degraded
	offline
	hasIncomplete
	incomplete
)

var effectNames = [...]string{"", "has_degraded", "degraded", "offline", "has_incomplete", "incomplete"}
var effectTexts = [...]string{"", "DEGRADED objects", "DEGRADED PGs", "OFFLINE PGs", "INCOMPLETE objects (DATA LOSS)", "INCOMPLETE PGs (DATA LOSS)"}

// osdRemoval is rm-osd at work (spec cli.md §2.15).
type osdRemoval struct {
	*run
	osds     []meta.OSDNum
	effects  []any // for JSON
	warnings []string
	loss     bool // of data
}

func (r *run) rmOSD() (result, error) {
	if len(r.words) == 0 {
		return result{}, fail(syscall.EINVAL, "OSD numbers are not specified")
	}
	nums, ok := osdNumbers(r.words)
	if !ok {
		return result{}, fail(syscall.EINVAL, "OSD number can't be zero")
	}
	rm := &osdRemoval{run: r, effects: []any{}}
	for _, n := range nums {
		if !slices.Contains(rm.osds, meta.OSDNum(n)) {
			rm.osds = append(rm.osds, meta.OSDNum(n))
		}
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	if err := rm.judge(s); err != nil {
		return result{}, err
	}
	data := object{"osd_ids": rm.osds, "pool_errors": rm.effects}
	text := strings.Join(rm.warnings, "\n")
	lossOK := r.flag("allow_data_loss")
	if rm.loss && !lossOK || text != "" && !lossOK && !r.flag("force") {
		return result{}, &failure{errno: syscall.EBUSY, text: text, data: data}
	}
	if r.flag("dry_run") {
		if text == "" {
			text = "OSDs can be deleted without data loss."
		}
		return result{text: text, data: data}, nil
	}
	if err := rm.remove(); err != nil {
		return result{}, err
	}
	return result{text: strings.TrimPrefix(text+"\n"+rm.who("is", "are")+" removed from etcd", "\n"), data: data}, nil
}

// who is "OSD 1 is" or "OSDs 1, 2 are".
func (rm *osdRemoval) who(is, are string, osds ...meta.OSDNum) string {
	if osds == nil {
		osds = rm.osds
	}
	if len(osds) == 1 {
		return fmt.Sprintf("OSD %d %s", osds[0], is)
	}
	return fmt.Sprintf("OSDs %s %s", numbers(osds), are)
}

// judge finds out what would happen.
func (rm *osdRemoval) judge(s *state) error {
	pgs, err := rm.conn.pgInfos(s)
	if err != nil {
		return err
	}
	worst := map[meta.PoolID]effect{}
	for _, p := range pgs {
		worst[p.pool.ID] = max(worst[p.pool.ID], effectOn(p.pool, p.target.OSDSet, p.history.OSDSets, rm.osds))
	}
	for _, id := range sortedKeys(worst) {
		if e := worst[id]; e != noEffect {
			rm.loss = rm.loss || e >= hasIncomplete
			rm.warnings = append(rm.warnings, fmt.Sprintf("Pool %s (ID %d) will have %s after deleting OSD(s).", s.poolName(id), id, effectTexts[e]))
			rm.effects = append(rm.effects, object{"effect": effectNames[e], "pool_id": id, "pool_name": s.poolName(id)})
		}
	}
	var up []meta.OSDNum
	for _, o := range rm.osds {
		if s.up[o] {
			up = append(up, o)
		}
	}
	if len(up) > 0 && !rm.flag("allow_up") {
		them := "them"
		if len(up) == 1 {
			them = "it"
		}
		rm.warnings = append(rm.warnings, rm.who("is", "are", up...)+" still up. Use `vitastor-disk purge` to delete "+them+".")
	}
	return nil
}

// effectOn is what happens to one PG.
func effectOn(pool *schema.Pool, target []meta.OSDNum, history [][]meta.OSDNum, osds []meta.OSDNum) effect {
	left := func(set []meta.OSDNum) (left, lost int) {
		for _, o := range set {
			switch {
			case o == 0:
			case slices.Contains(osds, o):
				lost++
			default:
				left++
			}
		}
		return left, lost
	}
	e := noEffect
	if n, lost := left(target); lost > 0 {
		switch {
		case n < pool.DataChunks():
			e = incomplete
		case n < pool.PGMinSize:
			e = offline
		default:
			e = degraded
		}
	}
	for _, set := range history {
		if n, lost := left(set); lost > 0 {
			if n < pool.DataChunks() {
				return incomplete
			}
			e = max(e, hasDegraded)
		}
	}
	return e
}

// remove deletes all traces of the OSDs in etcd.
func (rm *osdRemoval) remove() error {
	retries, pause := uint64(10000), 500*time.Millisecond
	if n := rm.number("etcd_tx_retries"); n > 0 {
		retries = n
	}
	if n := rm.number("etcd_tx_retry_ms"); n > 0 {
		pause = time.Duration(n) * time.Millisecond
	}
	for range retries {
		done, deleted, err := rm.removeKeys()
		switch {
		case err != nil:
			return err
		case !done:
			time.Sleep(pause)
			continue
		case deleted:
			// The monitor notes the change, and writes histories itself.
			s, err := rm.conn.state()
			if err != nil {
				return err
			}
			time.Sleep(time.Duration(s.globalNumber("mon_change_timeout", 1000))*time.Millisecond + pause)
		}
		return rm.removeFromHistories(retries, pause)
	}
	return fail(syscall.EAGAIN, "Placement of PGs keeps changing: try again")
}

func (rm *osdRemoval) removeKeys() (done, deleted bool, err error) {
	k := rm.conn.keys
	got, _, err := rm.conn.read(getOp(k.PGConfig()), getOp(k.LastCleanPGs()))
	if err != nil {
		return false, false, err
	}
	var configs [2]*schema.PGConfig
	var seen [2]int64
	for i := range got {
		kv := first(got[i])
		if kv == nil {
			continue
		}
		if configs[i], err = schema.DecodePGConfig(kv.Key, kv.Value); err != nil {
			return false, false, fail(syscall.EINVAL, "%v: wait until the monitor has corrected it", err)
		}
		seen[i] = kv.ModRevision
		if !configs[i].RemoveOSDs(rm.osds) {
			configs[i] = nil // nothing to write
		}
	}
	t, err := k.RemoveOSDs(rm.osds, configs[0], seen[0], configs[1], seen[1])
	if err != nil {
		return false, false, fail(syscall.EINVAL, "%v", err)
	}
	answer, err := rm.conn.txn(&t)
	if err != nil {
		return false, false, err
	}
	for _, r := range answer.Responses {
		deleted = deleted || r.Deleted > 0
	}
	return answer.Succeeded, deleted, nil
}

func (rm *osdRemoval) removeFromHistories(retries uint64, pause time.Duration) error {
	k := rm.conn.keys
	for range retries {
		got, _, err := rm.conn.read(k.Kind(schema.KindPGHistory).Get())
		if err != nil {
			return err
		}
		conflict := false
		for _, kv := range got[0].KVs {
			key, ok := k.Parse(kv.Key)
			h, err := schema.DecodePGHistory(kv.Key, kv.Value)
			if !ok || err != nil || !h.RemoveOSDs(rm.osds) {
				continue
			}
			t := k.PutPGHistory(key.PGID(), &h, kv.ModRevision)
			answer, err := rm.conn.txn(&t)
			if err != nil {
				return err
			}
			conflict = conflict || !answer.Succeeded
		}
		if !conflict {
			return nil
		}
		time.Sleep(pause)
	}
	return fail(syscall.EAGAIN, "Histories of PGs keep changing: run the command again")
}
