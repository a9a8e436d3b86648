package statsum

import (
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// inode is one inode summed over OSDs: space over all of them, operations over
// those that are up.
type inode struct {
	used    uint64
	ops     [3]opSum // read, write, delete
	spaces  int      // how many OSDs report space
	reports int      // how many OSDs report operations

	config    bool // config/inode exists
	name      string
	stored    schema.InodeStats // inode/stats as in etcd
	hasStored bool
}

// inode returns the sums of an inode for a change: it becomes dirty.
func (s *Sums) inode(id meta.Inode) *inode {
	in := s.inodes[id]
	if in == nil {
		in = &inode{}
		s.inodes[id] = in
	}
	s.dirty[id] = in
	return in
}

func (s *Sums) applyInodeConfig(kv *env.KeyValue, id meta.Inode) error {
	in := s.inode(id)
	c, err := schema.DecodeInodeConfig(kv.Key, id, kv.Value)
	in.config, in.name = kv.Value != nil, c.Name
	return err
}

// replaceSpace puts a new report of space in the place of the old one.
func (s *Sums) replaceSpace(o *osd, now []schema.InodeBytes) {
	old := o.space
	for i, j := 0, 0; i < len(old) || j < len(now); {
		switch {
		case j == len(now) || i < len(old) && old[i].Inode < now[j].Inode:
			in := s.inode(old[i].Inode)
			in.spaces--
			s.addUsed(in, old[i].Inode, -old[i].Bytes)
			i++
		case i == len(old) || now[j].Inode < old[i].Inode:
			in := s.inode(now[j].Inode)
			in.spaces++
			s.addUsed(in, now[j].Inode, now[j].Bytes)
			j++
		default:
			if old[i].Bytes != now[j].Bytes {
				s.addUsed(s.inode(now[j].Inode), now[j].Inode, now[j].Bytes-old[i].Bytes)
			}
			i, j = i+1, j+1
		}
	}
	o.space = now
}

// addUsed adds a difference, which may be "negative".
func (s *Sums) addUsed(in *inode, id meta.Inode, bytes uint64) {
	in.used += bytes
	s.used[id.Pool()] += bytes
	if s.used[id.Pool()] == 0 {
		delete(s.used, id.Pool())
	}
}

// replaceIO puts new operations in the place of those that are counted now.
func (s *Sums) replaceIO(o *osd, now []inodeIO, counted bool) {
	old, next := o.io, now
	if !o.counted {
		old = nil
	}
	if !counted {
		next = nil
	}
	o.io, o.counted = now, counted
	if len(old) > 0 && len(next) > 0 && &old[0] == &next[0] {
		return
	}
	for i, j := 0, 0; i < len(old) || j < len(next); {
		switch {
		case j == len(next) || i < len(old) && old[i].inode < next[j].inode:
			s.inode(old[i].inode).takeOut(&old[i])
			i++
		case i == len(old) || next[j].inode < old[i].inode:
			s.inode(next[j].inode).putIn(&next[j])
			j++
		default:
			if old[i] != next[j] {
				in := s.inode(next[j].inode)
				in.takeOut(&old[i])
				in.putIn(&next[j])
			}
			i, j = i+1, j+1
		}
	}
}

func (in *inode) putIn(io *inodeIO) {
	in.reports++
	for i := range in.ops {
		in.ops[i].add(&io.ops[i])
	}
}

func (in *inode) takeOut(io *inodeIO) {
	in.reports--
	for i := range in.ops {
		in.ops[i].sub(&io.ops[i])
	}
}

func (in *inode) stats() schema.InodeStats {
	return schema.InodeStats{RawUsedBytes: in.used, Read: in.ops[0].counters(),
		Write: in.ops[1].counters(), Delete: in.ops[2].counters()}
}

// wanted tells whether inode/stats shall exist (monitor.md 7.4): there is data
// or activity, or there is an image that once had some.
func (in *inode) wanted() bool {
	if in.used != 0 {
		return true
	}
	for i := range in.ops {
		if in.ops[i].bps != 0 || in.ops[i].iops != 0 {
			return true
		}
	}
	return in.config && (in.hasStored || in.spaces > 0 || in.reports > 0)
}

// forgettable: no report, no image and no key has it any more.
func (in *inode) forgettable() bool {
	return !in.config && !in.hasStored && in.spaces == 0 && in.reports == 0
}
