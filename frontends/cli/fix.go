package cli

import (
	"fmt"
	"io"
	"strings"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

func (r *run) fix() (result, error) {
	text := r.text("objects")
	if !r.given("objects") && r.In != nil {
		b, err := io.ReadAll(r.In)
		if err != nil {
			return result{}, fail(errnoOf(err), "Failed to read objects from standard input: %s", strerror(err))
		}
		text = string(b)
	}
	objects := parseObjects(text)
	if len(objects) == 0 {
		return result{}, fail(syscall.EINVAL, "Object list is not specified")
	}
	osds, ok := osdNumbers(list(r.text("bad_osds")))
	if !ok || len(osds) == 0 {
		return result{}, fail(syscall.EINVAL, "OSDs to remove copies from are not specified: use --bad-osds")
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	removed := []any{}
	var lines []string
	var failed error
	for _, o := range objects {
		items, err := r.fixObject(s, o, osds)
		for _, i := range items {
			removed = append(removed, object{"inode": o.Inode, "stripe": o.Stripe, "part": i.Role, "osd_num": i.OSD})
			lines = append(lines, fmt.Sprintf("Removed %#x:%#x part %d on OSD %d", uint64(o.Inode), o.Stripe, i.Role, i.OSD))
		}
		if err != nil {
			r.note("Object %x:%x %v", uint64(o.Inode), o.Stripe, err)
			failed = err
		}
	}
	if failed != nil {
		return result{}, &failure{errno: errnoOf(failed), text: strings.Join(lines, "\n"), data: removed}
	}
	return result{text: strings.Join(lines, "\n"), data: removed}, nil
}

// parseObjects reads 0xI:0xS ..., or a JSON array of objects with inode and
// stripe.
func parseObjects(text string) (list []meta.ObjectID) {
	add := func(inode, stripe string) {
		i, ok1 := parseNumber(inode)
		s, ok2 := parseNumber(stripe)
		if ok1 && ok2 && i != 0 {
			list = append(list, meta.ObjectID{Inode: meta.Inode(i), Stripe: s &^ meta.RoleMask})
		}
	}
	if array, ok := decodeAny([]byte(text)).([]any); ok {
		for _, v := range array {
			if o, ok := v.(map[string]any); ok {
				add(fmt.Sprint(o["inode"]), fmt.Sprint(o["stripe"]))
			}
		}
	} else {
		for _, word := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c <= ' ' }) {
			if inode, stripe, ok := strings.Cut(word, ":"); ok {
				add(inode, stripe)
			}
		}
	}
	seen := map[meta.ObjectID]bool{}
	unique := list[:0]
	for _, o := range list {
		if !seen[o] {
			seen[o] = true
			unique = append(unique, o)
		}
	}
	return unique
}

// fixObject removes bad copies of an object and lets its primary look at it.
func (r *run) fixObject(s *state, o meta.ObjectID, bad []uint64) (removed []wire.DescribeItem, err error) {
	pool, pg, primary := s.primaryOf(o)
	switch {
	case pool == nil:
		return nil, fail(syscall.ENOENT, "is from unknown pool")
	case primary == 0:
		return nil, fail(syscall.EIO, "is in PG %d of pool %s, which is not active: try again when it is", pg.Num, pool.Name)
	}
	items, errno, err := r.conn.describe(primary, &wire.Describe{Pool: pg.Pool, PG: pg.Num, Min: o, Max: meta.ObjectID{Inode: o.Inode, Stripe: o.Stripe | meta.RoleMask}})
	if err != nil || errno != 0 {
		return nil, fail(syscall.EIO, "could not be described by OSD %d: %v", primary, errno)
	}
	for _, i := range items {
		wrong := i.LocBad&meta.LocInconsistent != 0 || r.text("check") == "no"
		if i.Object != o || !contains(bad, i.OSD) || !wrong || r.given("part") && r.number("part") != uint64(i.Role) {
			continue
		}
		raw := &client.Raw{OSD: i.OSD}
		(&wire.SecDel{Chunk: o.WithRole(i.Role), Flags: wire.FlagIgnorePGLock}).Encode(&raw.Op.Packet)
		if err := r.conn.request(raw); err != nil {
			return removed, err
		}
		if raw.Op.Retval.Failed() {
			return removed, fail(raw.Op.Retval.Errno(), "could not be removed from OSD %d: %s", i.OSD, strerror(raw.Op.Retval.Errno()))
		}
		removed = append(removed, i)
	}
	if len(removed) == 0 {
		return nil, nil
	}
	raw := &client.Raw{OSD: primary}
	(&wire.Rw{Op: wire.OpScrub, Inode: o.Inode, Offset: o.Stripe}).Encode(&raw.Op.Packet)
	if err := r.conn.request(raw); err != nil {
		return removed, err
	}
	if raw.Op.Retval.Failed() {
		return removed, fail(raw.Op.Retval.Errno(), "was changed, but could not be scrubbed by OSD %d: %s", primary, strerror(raw.Op.Retval.Errno()))
	}
	return removed, nil
}
