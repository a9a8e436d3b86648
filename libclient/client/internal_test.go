package client

import (
	"bytes"
	"fmt"
	"testing"

	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/schema"
	"vitastor/internal/wire"
	"vitastor/libclient/writeback"
)

// Debug describes everything that is not finished, for tests that hang.
func (c *Client) Debug() string {
	s := fmt.Sprintf("ops %d busy %d writing %d flushing %d sync %v asked %d\n", c.ops, c.busyWork, c.writing, c.flushing, c.sync.active, c.sync.asked)
	for x := c.mutations.head; x != nil; x = x.next {
		s += fmt.Sprintf("sent %v %d+%d flags %x left %d gen %d/%d err %v stale %v\n", x.op, x.offset, x.bytes, x.flags, x.left, x.gen, x.pool.gen, x.err, x.stale)
	}
	for x := c.blocked.head; x != nil; x = x.next {
		s += fmt.Sprintf("blocked %v %d+%d flags %x\n", x.op, x.offset, x.bytes, x.flags)
	}
	for p := c.waiting.head; p != nil; p = p.next {
		s += fmt.Sprintf("part %v %d+%d waits: %d until %d, tried %v\n", p.io.op, p.offset, p.bytes, p.why, p.again, p.tried)
	}
	for i := writeback.Dirty; i <= writeback.Flushing; i++ {
		s += fmt.Sprintf("state %d: %d pieces\n", i, c.buffers.Count(i))
	}
	for op := c.queue.head; op != nil; op = op.next {
		s += fmt.Sprintf("queued %v %d+%d\n", op.Kind, op.Offset, op.Bytes)
	}
	return s
}

// MemoryUsed is what buffered data occupies.
func (c *Client) MemoryUsed() int64 { return c.memory.used() }

func FuzzCopyBits(f *testing.F) {
	f.Add([]byte{0xa5, 0x5a, 0xff}, uint16(8), uint16(3), uint16(9))
	f.Add([]byte{1, 2, 3, 4}, uint16(0), uint16(0), uint16(32))
	f.Add([]byte{}, uint16(5), uint16(7), uint16(11))
	f.Fuzz(func(t *testing.T, src []byte, to, from, n uint16) {
		to, from, n = to%200, from%200, n%200
		dst := bytes.Repeat([]byte{0x5c}, int(to+n)/8+2)
		want := bytes.Clone(dst)
		for i := range int(n) {
			at := int(to) + i
			want[at/8] &^= 1 << (at % 8)
			if j := int(from) + i; j < len(src)*8 && src[j/8]>>(j%8)&1 != 0 {
				want[at/8] |= 1 << (at % 8)
			}
		}
		copyBits(dst, int(to), src, int(from), int(n))
		if !bytes.Equal(dst, want) {
			t.Errorf("copyBits(%d, %x, %d, %d) = %x, want %x", to, src, from, n, dst, want)
		}
	})
}

// FuzzList feeds answers of OSDs to a listing.
func FuzzList(f *testing.F) {
	var list wire.ObjectList
	for i := range uint64(3) {
		list = list.Append(meta.ObjectVersion{ObjectID: meta.ObjectID{Inode: meta.MakeInode(1, 1+i/2), Stripe: i<<17 | 1}, Version: 7})
	}
	f.Add([]byte(list))
	f.Add([]byte(list[:50]))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &listPG{l: &listing{List: &List{Inode: meta.MakeInode(1, 1)}}}
		r := &Raw{}
		if !growList(&r.Op, max(len(b), 1)) {
			t.Skip("longer than any answer that is accepted")
		}
		r.Op.BodyBytes = copy(r.Op.Body[0], b)
		p.take(r)
		for _, o := range p.objects {
			if o.Inode != p.l.Inode || o.Role() != 0 {
				t.Errorf("object %v", o)
			}
		}
	})
}

func TestListsHaveALimit(t *testing.T) {
	if growList(&msgr.Op{}, listBytesMax+1) {
		t.Error("an OSD can make us use any amount of memory")
	}
}

// FuzzPosition checks the walk over buffers against a copy of all bytes.
func FuzzPosition(f *testing.F) {
	f.Add([]byte{3, 0, 5, 1}, []byte{2, 4, 3})
	f.Fuzz(func(t *testing.T, lengths, takes []byte) {
		var iov [][]byte
		var all []byte
		for i, n := range lengths {
			b := bytes.Repeat([]byte{byte(i)}, int(n))
			iov, all = append(iov, b), append(all, b...)
		}
		var q position
		for _, n := range takes {
			k := min(int(n), len(all))
			got := bytes.Join(q.take(nil, iov, uint64(k)), nil)
			if !bytes.Equal(got, all[:k]) {
				t.Fatalf("%v: got %x, want %x", takes, got, all[:k])
			}
			all = all[k:]
		}
	})
}

func TestPlacementPaths(t *testing.T) {
	nodes, err := schema.DecodeNodePlacement("k", []byte(`{"h1":{"level":"host","parent":"r1"},"h2":{"level":"host","parent":"r1"},
		"h3":{"level":"host","parent":"r2"},"r1":{"level":"rack","parent":"dc"},"r2":{"level":"rack","parent":"dc"},
		"dc":{"level":"dc"},"7":{"parent":"h1"},"8":{"level":"osd"},"a":{"level":"x","parent":"b"},"b":{"level":"x","parent":"a"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var p placementPaths
	p.update(nodes, "h1")
	for _, c := range []struct {
		osd  uint64
		host string
		want int
	}{
		{1, "h1", 1}, {2, "h2", 3}, {3, "h3", 5}, {4, "unknown", 5}, {5, "", 4},
		{7, "h3", 1}, // moved by the tree
		{8, "h1", 4}, // detached by it
		{9, "a", 4 + pathMax},
	} {
		d := p.distance(p.ofOSD(c.osd, c.host))
		if d != c.want && c.host != "a" || d < 4 && c.host == "a" {
			t.Errorf("OSD %d on %s: distance %d, want %d", c.osd, c.host, d, c.want)
		}
	}
	p.update(nil, "")
	if d := p.distance(p.ofOSD(1, "h1")); d != 2 {
		t.Errorf("without a tree: %d", d)
	}
}
