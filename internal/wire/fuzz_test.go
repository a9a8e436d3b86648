package wire

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzPacket: any two packets can be looked at, and what a packet says after
// decoding it says again after encoding.
func FuzzPacket(f *testing.F) {
	for _, c := range goldenPackets {
		b := unhex(f, c.bytes)
		f.Add(b, b, uint32(4))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, n uint32) {
		var p, other, again Packet
		copy(p[:], a)
		copy(other[:], b)
		_ = p.String()
		checkPayloadLimits(t, &p)
		_ = CheckReply(&p, &other, n)
		m := p.Message()
		if m == nil {
			return
		}
		m.Encode(&again)
		if again.Kind() != p.Kind() || again.ID() != p.ID() || again.Op() != p.Op() {
			t.Errorf("header of %v became %v", &p, &again)
		}
		if m2 := again.Message(); !reflect.DeepEqual(m, m2) {
			t.Errorf("%+v became %+v", m, m2)
		}
		runChecks(m, n)
	})
}

func checkPayloadLimits(t *testing.T, p *Packet) {
	for _, rule := range []func(*Packet) (Payload, error){RequestPayload, ReplyPayload} {
		pl, err := rule(p)
		if err != nil && pl != (Payload{}) {
			t.Errorf("%v: error %v with a payload %+v", p, err, pl)
		}
		if total := uint64(pl.Attr) + uint64(pl.Body); total > MaxPayloadBytes || total != uint64(pl.Bytes()) ||
			(total == 0) != (pl.Kind == PayloadNone) || pl.Attr != 0 && pl.Kind != PayloadData {
			t.Errorf("%v: payload %+v", p, pl)
		}
	}
}

// runChecks: whatever passes lies inside its object.
func runChecks(m Message, n uint32) {
	granularity := uint32(1) << (n & 15)
	block := granularity << (n >> 4 & 7)
	switch r := m.(type) {
	case *Rw:
		if r.Check(granularity) == OK && r.CheckObject(uint64(block)) == OK && uint64(r.Len) > uint64(block) {
			panic("Rw longer than the object")
		}
	case *SecRw:
		if r.Check(block, granularity) == OK && uint64(r.Offset)+uint64(r.Len) > uint64(block) {
			panic("SecRw beyond the block")
		}
	case *SecList:
		if r.Check() == OK && (r.PG == 0 || uint32(r.PG) > r.PGCount) {
			panic("PG outside of the pool")
		}
		r.CheckPrimary(n, uint64(block))
	case *SecLock:
		r.Check(1)
	}
}

func FuzzLists(f *testing.F) {
	f.Add(bytes.Repeat([]byte{1, 2, 3}, 32), 4)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, bitmapBytes int) {
		var objects ObjectList
		for i := range ObjectList(b).Len() {
			objects = objects.Append(ObjectList(b).At(i))
			objects.Set(i, objects.At(i))
		}
		var locations DescribeList
		for i := range DescribeList(b).Len() {
			locations = locations.Append(DescribeList(b).At(i))
		}
		if !bytes.HasPrefix(b, objects) || len(b)-len(objects) >= ObjectItemBytes ||
			!bytes.HasPrefix(b, locations) || len(b)-len(locations) >= DescribeItemBytes {
			t.Errorf("% x became % x and % x", b, objects, locations)
		}
		bitmapBytes &= 0xffff
		n := len(b) / BitmapItemBytes(bitmapBytes)
		l, err := MakeBitmapList(b, bitmapBytes, n)
		if (err == nil) != (len(b)%BitmapItemBytes(bitmapBytes) == 0) {
			t.Errorf("%d bytes as %d bitmaps of %d: %v", len(b), n, bitmapBytes, err)
		}
		for i := range l.Len() {
			if l.SetVersion(i, l.Version(i)); len(l.Bitmap(i)) != bitmapBytes {
				t.Errorf("bitmap of %d bytes", len(l.Bitmap(i)))
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goldenConfigRequest))
	f.Add([]byte(goldenConfigReply))
	f.Add([]byte(`{"osd_num":"1","features":{"check_sequencing":"yes"},"connect_rdma":"\ud800","rdma_max_msg":1e3}`))
	f.Add([]byte(`{"osd_num":-1,"block_size":1.5,"rdma_address":"x","rdma_enabled":true,"readonly":"on"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		request := ParseConfigRequest(text)
		if again := ParseConfigRequest(request.AppendJSON(nil)); again != request {
			t.Errorf("%+v became %+v", request, again)
		}
		reply, err := ParseConfigReply(text)
		if err != nil {
			return
		}
		_, _ = reply.Check(1), reply.CheckStore(StoreParams{})
		if again, err := ParseConfigReply(reply.AppendJSON(nil)); err != nil || again != reply {
			t.Errorf("%+v became %+v, %v", reply, again, err)
		}
	})
}
