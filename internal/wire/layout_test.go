package wire

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// field is a row of the tables in spec wire.md: a struct field and the bytes
// it has in the packet.
type field struct {
	path      string
	off, size int
}

var requestID, replyID = field{"ID", 8, 8}, field{"ID", 8, 8}
var opField, retvalField = field{"Op", 16, 8}, field{"Retval", 24, 8}

// layouts has a row for each field of each struct. DeleteReply, whose layout
// depends on its values, has its own test.
var layouts = []struct {
	zero   Message
	fields []field
}{
	{&HeaderOnly{}, []field{requestID, opField}},
	{&StatusReply{}, []field{replyID, opField, retvalField}},
	{&ShowConfig{}, []field{requestID, {"JSONLen", 24, 8}}},
	{&Rw{}, []field{requestID, opField, {"Inode", 24, 8}, {"Offset", 32, 8}, {"Len", 40, 4}, {"Flags", 44, 4},
		{"MetaRevision", 48, 8}, {"Version", 56, 8}}},
	{&RwReply{}, []field{replyID, opField, retvalField, {"BitmapLen", 32, 4}, {"Version", 40, 8}}},
	{&SecRw{}, []field{requestID, opField, {"Chunk.Inode", 24, 8}, {"Chunk.Stripe", 32, 8}, {"Version", 40, 8},
		{"Offset", 48, 4}, {"Len", 52, 4}, {"AttrLen", 56, 4}, {"Flags", 60, 4}}},
	{&SecRwReply{}, []field{replyID, opField, retvalField, {"Version", 32, 8}, {"AttrLen", 40, 4}}},
	{&SecDel{}, []field{requestID, {"Chunk.Inode", 24, 8}, {"Chunk.Stripe", 32, 8}, {"Version", 40, 8}, {"Flags", 48, 4}}},
	{&SecDelReply{}, []field{replyID, retvalField, {"Version", 32, 8}}},
	{&SecSync{}, []field{requestID, {"Flags", 24, 4}}},
	{&SecStab{}, []field{requestID, opField, {"Len", 24, 8}, {"Flags", 32, 4}}},
	{&SecReadBmp{}, []field{requestID, {"Len", 24, 8}, {"Flags", 32, 4}}},
	{&SecList{}, []field{requestID, {"PG", 24, 4}, {"PGCount", 28, 4}, {"PGStripeBytes", 32, 8},
		{"Min.Inode", 40, 8}, {"Max.Inode", 48, 8}, {"Min.Stripe", 56, 8}, {"Max.Stripe", 64, 8},
		{"StableLimit", 72, 4}, {"Flags", 76, 8}}},
	{&SecListReply{}, []field{replyID, retvalField, {"StableCount", 32, 8}, {"Flags", 40, 8}}},
	{&SecLock{}, []field{requestID, {"Flags", 24, 8}, {"Pool", 32, 8}, {"PG", 40, 8}, {"PGState", 48, 8}}},
	{&SecLockReply{}, []field{replyID, retvalField, {"CurPrimary", 32, 8}}},
	{&Describe{}, []field{requestID, {"ObjectState", 24, 8}, {"Min.Inode", 32, 8}, {"Min.Stripe", 40, 8},
		{"Max.Inode", 48, 8}, {"Max.Stripe", 56, 8}, {"Limit", 64, 8}, {"Pool", 72, 4}, {"PG", 76, 4}}},
	{&DescribeReply{}, []field{replyID, retvalField}},
}

func newLike(m Message) Message {
	return reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
}

// at finds a field by its path.
func at(m Message, path string) reflect.Value {
	v := reflect.ValueOf(m).Elem()
	for name := range strings.SplitSeq(path, ".") {
		v = v.FieldByName(name)
	}
	return v
}

func setBits(v reflect.Value, bits uint64) {
	if v.CanInt() {
		v.SetInt(int64(bits))
		return
	}
	v.SetUint(bits & (1<<(8*v.Type().Size()-1)<<1 - 1))
}

// leaves counts the plain fields of a struct.
func leaves(t reflect.Type) int {
	if t.Kind() != reflect.Struct {
		return 1
	}
	n := 0
	for f := range t.NumField() {
		n += leaves(t.Field(f).Type)
	}
	return n
}

// Each field changes its bytes and no others.
func TestEncodeLayout(t *testing.T) {
	for _, l := range layouts {
		if n := leaves(reflect.TypeOf(l.zero).Elem()); n != len(l.fields) {
			t.Errorf("%T has %d fields, the table %d", l.zero, n, len(l.fields))
		}
		var zero Packet
		l.zero.Encode(&zero)
		for _, f := range l.fields {
			m := newLike(l.zero)
			v := at(m, f.path)
			if int(v.Type().Size()) != f.size {
				t.Errorf("%T.%s has %d bytes, want %d", m, f.path, v.Type().Size(), f.size)
			}
			setBits(v, 1<<64-1)
			var p Packet
			m.Encode(&p)
			for i := range p {
				if in := i >= f.off && i < f.off+f.size; (p[i] != zero[i]) != in {
					t.Errorf("%T.%s: byte %d is %02x, with 0 it is %02x", m, f.path, i, p[i], zero[i])
				}
			}
		}
	}
}

// Decode reads each field from its place and nothing else.
func TestDecodeLayout(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, l := range layouts {
		for range 50 {
			want := newLike(l.zero)
			var defined [PacketBytes]bool
			for _, f := range l.fields {
				bits := rnd.Uint64()
				if f.path == "Retval" {
					bits >>= 1 // errors clear other fields: see TestErrorReplies
				}
				setBits(at(want, f.path), bits)
				for i := range f.size {
					defined[f.off+i] = true
				}
			}
			var p Packet
			want.Encode(&p)
			for i := range p {
				if !defined[i] {
					p[i] = byte(rnd.Uint32())
				}
			}
			got := newLike(l.zero)
			setBits(at(got, "ID"), 99)
			got.Decode(&p)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("decoded %+v, want %+v", got, want)
			}
		}
	}
}

func TestErrorRepliesHaveNoBitmap(t *testing.T) {
	for _, c := range []struct{ send, want Message }{
		{&RwReply{Op: OpRead, Retval: EIO, BitmapLen: 4}, &RwReply{Op: OpRead, Retval: EIO}},
		{&SecRwReply{Op: OpSecRead, Retval: EIO, AttrLen: 4}, &SecRwReply{Op: OpSecRead, Retval: EIO}},
	} {
		var p Packet
		c.send.Encode(&p)
		if pl, err := ReplyPayload(&p); err != nil || pl != (Payload{}) {
			t.Errorf("%v: payload %v, %v", &p, pl, err)
		}
		for i := 32; i < 48; i++ {
			p[i] = 0xaa // a sloppy sender
		}
		if _, err := ReplyPayload(&p); err == nil {
			t.Errorf("%v: bitmap of an error accepted", &p)
		}
		clear(p[32:48])
		if m := p.Message(); !reflect.DeepEqual(m, c.want) {
			t.Errorf("decoded %+v", m)
		}
	}
}

func TestSecListMaxStripe(t *testing.T) {
	for _, c := range []struct{ max, wire uint64 }{{0, 1<<64 - 1}, {1<<64 - 1, 0}, {1, 1}, {0xfffff, 0xfffff}} {
		var p Packet
		(&SecList{Max: chunkID(0, c.max)}).Encode(&p)
		if got := le.Uint64(p[64:72]); got != c.wire {
			t.Errorf("max %x is %x on the wire, want %x", c.max, got, c.wire)
		}
		var l SecList
		if l.Decode(&p); l.Max.Stripe != c.max {
			t.Errorf("max %x came back as %x", c.max, l.Max.Stripe)
		}
	}
}

func TestDeleteReply(t *testing.T) {
	var p Packet
	r := DeleteReply{ID: 7, Flags: DeleteReportsDead}
	for i := range 25 {
		if fits := r.AddLeftOnDead(1000 + 1); fits != (i < 22) {
			t.Errorf("OSD %d fits: %v", i, fits)
		}
	}
	r.Encode(&p)
	var got DeleteReply
	if got.Decode(&p); got != r || len(got.Dead()) != 22 || p[127] != 0 || le.Uint32(p[124:128]) != 1001 {
		t.Errorf("decoded %+v", got)
	}
	le.PutUint32(p[36:40], 1<<31) // more than there is room for
	if got.Decode(&p); got != r {
		t.Errorf("decoded %+v", got)
	}

	// A number without room still tells that there is something.
	r = DeleteReply{}
	if r.AddLeftOnDead(1<<32) || r.Flags != DeleteReportsDead|DeleteLeftOnDead || len(r.Dead()) != 0 {
		t.Errorf("%+v", r)
	}

	if r.AddLeftOnDead(1<<32 - 1); len(r.Dead()) != 1 || r.Dead()[0] != 1<<32-1 {
		t.Errorf("%+v", r)
	}

	// CAS failure: the version is where the list is otherwise. Other errors
	// carry nothing.
	for retval, want := range map[Retval]DeleteReply{
		EINTR: {ID: 7, Retval: EINTR, Version: 0x10005},
		EPIPE: {ID: 7, Retval: EPIPE},
	} {
		full := DeleteReply{ID: 7, Retval: retval, Version: 0x10005, Flags: 3, Count: 2, LeftOnDead: [22]uint32{1, 2}}
		full.Encode(&p)
		if [8]byte(p[32:40]) != [8]byte{} {
			t.Errorf("%v: bytes 32..39 are % x", retval, p[32:40])
		}
		if got.Decode(&p); got != want {
			t.Errorf("decoded %+v, want %+v", got, want)
		}
	}
}
