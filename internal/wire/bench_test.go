package wire

import (
	"fmt"
	"testing"

	"vitastor/internal/meta"
)

func TestHotPathsDoNotAllocate(t *testing.T) {
	var p, request Packet
	list, payload := make(ObjectList, 0, 64*ObjectItemBytes), make([]byte, 12)
	read := Rw{Op: OpRead, Len: 4096}
	read.Encode(&request)
	codecs := map[string]func(){
		"rules": func() {
			(&RwReply{Op: OpRead, Retval: 4096, BitmapLen: 4}).Encode(&p)
			_, err1 := ReplyPayload(&p)
			_, err2 := RequestPayload(&request)
			if err3 := CheckReply(&request, &p, 4); err1 != nil || err2 != nil || err3 != nil {
				t.Error(err1, err2, err3)
			}
		},
		"lists": func() {
			list = list[:0].Append(meta.ObjectVersion{Version: 5})
			list.Set(0, list.At(0))
			l, err := MakeBitmapList(payload, 4, 1)
			if l.SetVersion(0, l.Version(0)+1); err != nil || l.Bitmap(0).Get(0) {
				t.Error(err)
			}
		},
		"checks": func() {
			list := PeeringList(meta.PG{Pool: 1, Num: 1}, 1, 4096)
			if read.Check(4096) != OK || read.CheckObject(4096) != OK || list.Check() != OK || list.CheckPrimary(1, 4096) != EINVAL ||
				(&SecRw{}).Check(4096, 512) != OK || (&SecLock{}).Check(1) != EINVAL || EPIPE.Err() == nil || RetvalOf(EIO.Err()) != EIO {
				t.Error("wrong result")
			}
		},
	}
	for _, l := range layouts {
		codecs[fmt.Sprintf("%T", l.zero)] = func() { l.zero.Encode(&p); l.zero.Decode(&p) }
	}
	deleted := DeleteReply{}
	codecs["DeleteReply"] = func() { deleted.AddLeftOnDead(3); deleted.Encode(&p); deleted.Decode(&p) }
	for name, f := range codecs {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkRw is the codec work of a write on one side: the target is less
// than 30 ns and no allocation.
func BenchmarkRw(b *testing.B) {
	b.ReportAllocs()
	var p Packet
	var sum uint64
	for i := range uint64(b.N) {
		(&Rw{ID: i, Op: OpWrite, Inode: meta.MakeInode(1, 5), Offset: i << 12, Len: 4096}).Encode(&p)
		var r Rw
		r.Decode(&p)
		pl, err := RequestPayload(&p)
		if err != nil {
			b.Fatal(err)
		}
		sum += r.Offset + uint64(pl.Body)
	}
	if sum == 0 {
		b.Fatal("nothing was decoded")
	}
}

func BenchmarkSecRwReply(b *testing.B) {
	b.ReportAllocs()
	var request, p Packet
	(&SecRw{Op: OpSecRead, Len: 4096}).Encode(&request)
	for b.Loop() {
		(&SecRwReply{Op: OpSecRead, Retval: 4096, AttrLen: 4, Version: 7}).Encode(&p)
		var r SecRwReply
		r.Decode(&p)
		pl, err := ReplyPayload(&p)
		if err != nil || CheckReply(&request, &p, 4) != nil || pl.Attr != r.AttrLen {
			b.Fatal(err)
		}
	}
}

func BenchmarkObjectList(b *testing.B) {
	b.ReportAllocs()
	const items = 1024
	list := make(ObjectList, 0, items*ObjectItemBytes)
	for b.Loop() {
		list = list[:0]
		for i := range items {
			list = list.Append(meta.ObjectVersion{Version: meta.Version(i)})
		}
		for i := range items {
			if list.At(i).Version != meta.Version(i) {
				b.Fatal(i)
			}
		}
	}
}
