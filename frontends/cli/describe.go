package cli

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/libclient/client"
)

// objectStates are the words of --object-state.
var objectStates = map[string]meta.ObjectState{"degraded": meta.ObjectDegraded, "incomplete": meta.ObjectIncomplete,
	"misplaced": meta.ObjectMisplaced, "corrupted": meta.ObjectCorrupted, "inconsistent": meta.ObjectInconsistent}

func (r *run) describe() (result, error) {
	template, err := r.describeRequest()
	if err != nil {
		return result{}, err
	}
	osds, ok := osdNumbers(list(r.text("osds")))
	if !ok {
		return result{}, fail(syscall.EINVAL, "--osds is %q, it must be OSD numbers separated by commas", r.text("osds"))
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	if r.given("pool") {
		pool, err := s.wantPool(r.text("pool"))
		if err != nil {
			return result{}, err
		}
		template.Pool = pool.ID
		withPool(&template, pool.ID)
	}
	var items []wire.DescribeItem
	var failed []string
	for _, q := range s.describeRequests(template, osds) {
		got, errno, err := r.conn.describe(q.osd, &q.Describe)
		if err != nil {
			return result{}, err
		}
		if errno != 0 {
			failed = append(failed, fmt.Sprintf("OSD %d: %s", q.osd, strerror(errno)))
		}
		items = append(items, got...)
	}
	r.printDescription(items)
	if failed != nil {
		return result{printed: true}, fail(syscall.EIO, "Not all OSDs could be asked: %s", strings.Join(failed, ", "))
	}
	return result{printed: true}, nil
}

// describeRequest reads the options.
func (r *run) describeRequest() (q wire.Describe, err error) {
	for _, word := range list(strings.ReplaceAll(r.text("object_state"), "+", ",")) {
		bits, ok := objectStates[word]
		n, isNumber := parseNumber(word)
		if !ok && !isNumber {
			return q, fail(syscall.EINVAL, "Unknown object state %s: it must be one of degraded, misplaced, incomplete, corrupted, inconsistent", word)
		}
		q.ObjectState |= uint64(bits) | n
	}
	values := map[string]uint64{}
	for _, name := range []string{"inode", "min_inode", "max_inode", "min_offset", "max_offset", "pg"} {
		if v := r.text(name); v != "" {
			n, ok := parseNumber(v)
			if !ok {
				return q, fail(syscall.EINVAL, "--%s must be a number, but it is %s", name, v)
			}
			values[name] = n
		}
	}
	if n := values["inode"]; n != 0 {
		values["min_inode"], values["max_inode"] = n, n
	}
	q.PG = meta.PGNum(values["pg"])
	q.Min = meta.ObjectID{Inode: meta.Inode(values["min_inode"]), Stripe: values["min_offset"]}
	q.Max = meta.ObjectID{Inode: meta.Inode(values["max_inode"]), Stripe: values["max_offset"]}
	if q.Max.Inode != 0 && q.Max.Stripe == 0 {
		q.Max.Stripe = ^uint64(0)
	}
	return q, nil
}

// withPool adds the pool to inodes that are given without it.
func withPool(q *wire.Describe, pool meta.PoolID) {
	for _, i := range []*meta.Inode{&q.Min.Inode, &q.Max.Inode} {
		if *i != 0 && i.Pool() == 0 {
			*i = meta.MakeInode(pool, i.Number())
		}
	}
}

type describeTo struct {
	wire.Describe
	osd meta.OSDNum
}

// describeRequests are those for the primaries of all matching PGs, or for the
// given OSDs.
func (s *state) describeRequests(template wire.Describe, osds []uint64) []describeTo {
	var out []describeTo
	for _, o := range osds {
		out = append(out, describeTo{template, meta.OSDNum(o)})
	}
	if out != nil {
		return out
	}
	for i := range s.targets.Pools {
		targets := &s.targets.Pools[i]
		for j := range targets.PGs {
			pg := meta.PG{Pool: targets.Pool, Num: targets.PGs[j].Num}
			state := s.pgs[pg]
			if template.Pool != 0 && template.Pool != pg.Pool || template.PG != 0 && template.PG != pg.Num || state.State&meta.PGActive == 0 {
				continue
			}
			q := template
			q.Pool, q.PG = pg.Pool, pg.Num
			withPool(&q, pg.Pool)
			out = append(out, describeTo{q, state.Primary})
		}
	}
	return out
}

// describe asks one OSD.
func (c *cluster) describe(osd meta.OSDNum, q *wire.Describe) ([]wire.DescribeItem, syscall.Errno, error) {
	raw := &client.Raw{OSD: osd}
	q.Encode(&raw.Op.Packet)
	raw.Op.Grow = func(op *msgr.Op, bytes int) bool {
		op.Body = [][]byte{make([]byte, bytes)}
		return bytes <= wire.DescribeMaxItems*wire.DescribeItemBytes
	}
	if err := c.request(raw); err != nil {
		return nil, 0, err
	}
	if raw.Op.Retval.Failed() {
		return nil, raw.Op.Retval.Errno(), nil
	}
	var items []wire.DescribeItem
	if len(raw.Op.Body) > 0 {
		l := wire.DescribeList(raw.Op.Body[0][:raw.Op.BodyBytes])
		for i := range l.Len() {
			items = append(items, l.At(i))
		}
	}
	return items, 0, nil
}

// locWords are the things that may be wrong with a copy.
var locWords = []struct {
	bit  meta.LocBad
	word string
}{{meta.LocCorrupted, "corrupted"}, {meta.LocInconsistent, "inconsistent"}, {meta.LocOutdated, "outdated"}}

// printDescription prints a line per copy.
func (r *run) printDescription(items []wire.DescribeItem) {
	if r.json {
		fmt.Fprintln(r.Out, "[")
	}
	for n, i := range items {
		var words []string
		for _, w := range locWords {
			if i.LocBad&w.bit != 0 {
				words = append(words, w.word)
			}
		}
		if !r.json {
			fmt.Fprintf(r.Out, "%#x:%#x part %d on OSD %d%s\n", uint64(i.Object.Inode), i.Object.Stripe, i.Role, i.OSD, prefixed(" ", words))
			continue
		}
		comma := ","
		if n == len(items)-1 {
			comma = ""
		}
		for w := range words {
			words[w] = `"` + words[w] + `":true`
		}
		fmt.Fprintf(r.Out, `{"inode":"%#x","stripe":"%#x","part":%d,"osd_num":%d%s}%s`+"\n", uint64(i.Object.Inode), i.Object.Stripe, i.Role, i.OSD, prefixed(",", words), comma)
	}
	if r.json {
		fmt.Fprintln(r.Out, "]")
	}
}

func prefixed(prefix string, words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(prefix + w)
	}
	return b.String()
}

// primaryOf finds the pool and the OSD that serves an object.
func (s *state) primaryOf(o meta.ObjectID) (*schema.Pool, meta.PG, meta.OSDNum) {
	pool := s.pools[o.Inode.Pool()]
	if pool == nil {
		return nil, meta.PG{}, 0
	}
	pg := meta.PG{Pool: pool.ID, Num: meta.PGOf(o.Stripe, pool.PGStripeBytes, s.targets.Pool(pool.ID).Count())}
	return pool, pg, s.pgs[pg].Primary
}

func contains(osds []uint64, o meta.OSDNum) bool { return slices.Contains(osds, uint64(o)) }
