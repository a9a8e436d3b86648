package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/libclient/client"
)

// dataOptions are those of commands that delete objects.
type dataOptions struct {
	min, max uint64 // bytes; max 0 = no limit
	downOK   bool
	waitList bool
	parallel int // deletions at a time
}

// parallel is how many operations run at a time, in the whole cluster.
func (r *run) parallel() int {
	depth, osds := uint64(32), uint64(4)
	if n := r.number("iodepth"); n > 0 {
		depth = n
	}
	if n := r.number("parallel_osds"); n > 0 {
		osds = n
	}
	return int(min(depth*osds, 4096))
}

func (r *run) dataOptions() dataOptions {
	return dataOptions{downOK: r.flag("down_ok"), waitList: r.flag("wait_list"), parallel: r.parallel()}
}

// removal is rm-data at work. Everything happens on the loop.
type removal struct {
	c       *cluster
	opts    dataOptions
	inode   meta.Inode
	granule uint64
	queue   []meta.ObjectID
	ops     []*client.Op // not in use
	running int
	pgs     int // listed or failed
	allPGs  int
	listed  bool
	err     syscall.Errno
	done    func(bool)
	shown   *progress

	total, removed, errors uint64
	inactive               []meta.PGNum
	dead                   map[meta.OSDNum]bool
	leftOnDead             bool
	firstErr               string
}

func (r *run) rmData() (result, error) {
	n, ok := parseNumber(r.text("inode"))
	inode := meta.Inode(n)
	if r.given("pool") {
		pool, valid := parseNumber(r.text("pool"))
		if !valid || pool == 0 || pool > uint64(meta.MaxPoolID) {
			return result{}, fail(syscall.EINVAL, "Pool is not specified")
		}
		inode = meta.MakeInode(meta.PoolID(pool), inode.Number())
	}
	switch {
	case inode.Pool() == 0:
		return result{}, fail(syscall.EINVAL, "Pool is not specified")
	case !ok || inode.Number() == 0:
		return result{}, fail(syscall.EINVAL, "Inode is not specified")
	}
	s, err := r.state()
	if err != nil {
		return result{}, err
	}
	if s.pools[inode.Pool()] == nil {
		return result{}, fail(syscall.EINVAL, "Pool does not exist")
	}
	opts := r.dataOptions()
	opts.min, opts.max = r.number("min_offset"), r.number("max_offset")
	data, err := r.removeData(inode, opts)
	return result{text: fmt.Sprintf("Done, inode %d from pool %d removed", inode.Number(), inode.Pool()), data: data}, err
}

// removeData deletes the objects of an inode. The object tells what was done,
// also in an error.
func (r *run) removeData(inode meta.Inode, opts dataOptions) (object, error) {
	c := r.conn
	rm := &removal{c: c, opts: opts, inode: inode, dead: map[meta.OSDNum]bool{}, shown: r.newProgress()}
	for range attemptsMax {
		rm.err = 0
		if _, err := await(c, rm.start); err != nil {
			return nil, err
		}
		if rm.err != syscall.EAGAIN { // the number of PGs has changed
			break
		}
	}
	rm.shown.end()
	if errno, err := c.do(&client.Op{Kind: client.Sync}); err != nil || errno != 0 {
		rm.errors++
		rm.note("sync: %v", errno)
	}
	return rm.json(), rm.failure()
}

func (m *removal) start(done func(bool)) {
	g, ok := m.c.client.Geometry(m.inode)
	if !ok {
		m.err = syscall.EINVAL
		done(true)
		return
	}
	m.granule, m.done, m.listed, m.pgs, m.inactive = uint64(g.GranuleBytes), done, false, 0, nil
	m.total = m.removed // again: the rest is listed anew
	m.allPGs = int(m.c.client.View().PGConfig().Pool(m.inode.Pool()).Count())
	m.c.client.List(&client.List{Inode: m.inode, MinOffset: m.opts.min, MaxOffset: m.opts.max, PG: m.pg,
		Done: func(err syscall.Errno) {
			m.listed, m.err = true, err
			m.more()
		}})
}

// pg takes the objects of a PG.
func (m *removal) pg(pg meta.PGNum, objects []meta.ObjectID, err syscall.Errno) {
	m.pgs++
	if err != 0 {
		m.inactive = append(m.inactive, pg)
	}
	for _, o := range objects {
		if o.Stripe >= m.opts.min && (m.opts.max == 0 || o.Stripe < m.opts.max) {
			m.queue = append(m.queue, o)
			m.total++
		}
	}
	m.show()
	m.more()
}

// more keeps so many deletions running.
func (m *removal) more() {
	for (m.listed || !m.opts.waitList) && m.running < m.opts.parallel && len(m.queue) > 0 {
		o := m.queue[0]
		m.queue = m.queue[1:]
		var op *client.Op
		if n := len(m.ops); n > 0 {
			op, m.ops = m.ops[n-1], m.ops[:n-1]
		} else {
			op = &client.Op{Kind: client.Delete, Flags: client.IgnoreReadonly | client.WaitUpTimeout, Done: m.deleted}
		}
		op.Inode, op.Offset, op.Bytes, op.Version = m.inode, o.Stripe, m.granule, 0
		op.LeftOnDead, op.DeadOSDs = false, nil
		m.running++
		m.c.client.Submit(op)
	}
	if m.listed && m.running == 0 && len(m.queue) == 0 {
		m.done(true)
	}
}

func (m *removal) deleted(op *client.Op) {
	m.running--
	if op.Err != 0 {
		m.errors++
		m.note("object at offset %d: %v", op.Offset, op.Err)
	} else {
		m.removed++
	}
	if op.LeftOnDead {
		m.leftOnDead = true
		for _, o := range op.DeadOSDs {
			m.dead[o] = true
		}
	}
	m.ops = append(m.ops, op)
	m.show()
	m.more()
}

func (m *removal) show() {
	m.shown.at(m.removed, m.total, fmt.Sprintf("Removed %d/%d objects, %d more PGs to list...", m.removed, m.total, max(m.allPGs-m.pgs, 0)))
}

func (m *removal) note(format string, args ...any) {
	if m.firstErr == "" {
		m.firstErr = fmt.Sprintf(format, args...)
	}
}

func (m *removal) json() object {
	pgs := slices.Sorted(slices.Values(m.inactive))
	if pgs == nil {
		pgs = []meta.PGNum{}
	}
	return object{"total_objects": m.total, "removed_objects": m.removed, "error_count": m.errors, "inactive_pgs": pgs, "inactive_osds": m.deadOSDs()}
}

func (m *removal) deadOSDs() []meta.OSDNum {
	list := slices.Sorted(maps.Keys(m.dead))
	if list == nil {
		list = []meta.OSDNum{}
	}
	return list
}

// failure says what is left and what to do about it; nil = nothing is left.
func (m *removal) failure() error {
	var parts []string
	if m.err != 0 {
		parts = append(parts, fmt.Sprintf("its objects could not be listed (%v): look at vitastor-cli pgs --pool %d", m.err, m.inode.Pool()))
	}
	if len(m.inactive) > 0 {
		parts = append(parts, fmt.Sprintf("PGs %s are not active: repeat the command when they are", numbers(slices.Sorted(slices.Values(m.inactive)))))
	}
	if m.errors > 0 {
		parts = append(parts, fmt.Sprintf("%d objects could not be removed (%s): repeat the command", m.errors, m.firstErr))
	}
	if (m.leftOnDead || len(m.dead) > 0) && !m.opts.downOK {
		osds := "some OSDs that are down"
		if len(m.dead) > 0 {
			osds = "OSDs " + numbers(m.deadOSDs()) + " that are down"
		}
		parts = append(parts, fmt.Sprintf("data may be left on %s: start them and repeat the command, or use --down-ok if they will never come back", osds))
	}
	if parts == nil {
		return nil
	}
	f := fail(syscall.EIO, "Inode %d from pool %d is not removed completely: %s", m.inode.Number(), m.inode.Pool(), strings.Join(parts, "; "))
	f.data = m.json()
	return f
}
