package secondary

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sim"
	"vitastor/internal/wire"
)

// raw is a bare connection: it speaks in captured bytes (wire.md §15).
type raw struct {
	r    *rig
	t    *testing.T
	node *sim.Node
	s    env.Stream
	got  []byte
	id   uint64
	end  error
}

func (r *rig) raw(t *testing.T) *raw {
	x := &raw{r: r, t: t, node: r.w.NewNode("raw")}
	x.node.Do(func(e *env.Env) { x.s = e.Net.Dial(r.addr, x) })
	return x
}

func (x *raw) Connected()        {}
func (x *raw) ReadInto() []byte  { return nil }
func (x *raw) Received(b []byte) { x.got = append(x.got, b...) }
func (x *raw) Closed(err error)  { x.end = err }

// unhex reads hexadecimal text with separators.
func unhex(t *testing.T, text string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer("|", "", " ", "", "\n", "", "\t", "").Replace(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stale is what the reference leaves behind the last field of a request.
const stale = 0xa5

// send sends a request whose fields after the header are given.
func (x *raw) send(op wire.Op, fields string, payload ...[]byte) {
	x.id++
	p := bytes.Repeat([]byte{stale}, 128)
	copy(p, unhex(x.t, "5345432503b1d72b"))
	binary.LittleEndian.PutUint64(p[8:], x.id)
	binary.LittleEndian.PutUint64(p[16:], uint64(op))
	copy(p[24:], unhex(x.t, fields))
	all := append(p, bytes.Join(payload, nil)...)
	x.node.Do(func(*env.Env) { x.s.Send(&env.SendOp{Parts: [][]byte{all}, Done: func(*env.SendOp, error) {}}) })
}

// expect waits for the reply to the last request: fields from the retval on,
// zeroes behind them, and the payload.
func (x *raw) expect(op wire.Op, fields string, payload ...[]byte) {
	x.t.Helper()
	want := make([]byte, 128)
	copy(want, unhex(x.t, "5345437bb899a6ba"))
	binary.LittleEndian.PutUint64(want[8:], x.id)
	binary.LittleEndian.PutUint64(want[16:], uint64(op))
	copy(want[24:], unhex(x.t, fields))
	want = append(want, bytes.Join(payload, nil)...)
	if got := x.receive(len(want)); !bytes.Equal(got, want) {
		x.t.Errorf("reply to %v:\n got %x\nwant %x", op, got, want)
	}
}

func (x *raw) receive(n int) []byte {
	x.t.Helper()
	if !x.r.w.RunUntil(func() bool { return len(x.got) >= n || x.end != nil }, time.Minute) || len(x.got) < n {
		x.t.Fatalf("%d of %d bytes received, %v", len(x.got), n, x.end)
	}
	got := x.got[:n]
	x.got = x.got[n:]
	return got
}

func TestCapturedShowConfig(t *testing.T) {
	r := newRig(t, 1)
	x := r.raw(t)
	request := `{"features": {"check_sequencing": true}}`
	x.send(wire.OpShowConfig, "2800000000000000", []byte(request))
	p := (*wire.Packet)(x.receive(128))
	text := x.receive(int(p.Retval()))
	if text[len(text)-1] != 0 {
		t.Error("no NUL at the end")
	}
	var got, want map[string]any
	if err := json.Unmarshal(text[:len(text)-1], &got); err != nil {
		t.Fatal(err)
	}
	json.Unmarshal([]byte(`{"bitmap_granularity": 4096, "block_size": 131072, "blockstore_enabled": true, "features": {"pg_locks": true},
		"immediate_commit": "all", "lease_timeout": 15, "osd_num": 2, "primary_enabled": true, "protocol_version": 1, "readonly": false}`), &want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s", text)
	}
	// The sequence of ids is checked from now on.
	x.id++
	x.send(wire.OpSecSync, "0000000000000000")
	r.w.RunFor(time.Second)
	if x.end == nil {
		t.Error("a missing id was not noticed")
	}
}

// TestCapturedErasureCoded replays what a primary of the reference sent while
// it wrote 4096 bytes at 0x1000 of an object, moved one, and peered. The OSD
// under test plays osd2 and osd3 in one.
func TestCapturedErasureCoded(t *testing.T) {
	r := newRig(t, 1)
	x := r.raw(t)
	parity := pattern(4096, 5)
	x.send(wire.OpSecRead, "0800000000000200|0100000000000000|ffffffffffffffff|00100000|00100000|00000000|00000000")
	x.expect(wire.OpSecRead, "feffffffffffffff")
	x.send(wire.OpSecWrite, "0800000000000200|0100000000000000|0100000000000000|00000000|00000000|04000000|00000000", make([]byte, 4))
	x.expect(wire.OpSecWrite, "0000000000000000|0100000000000000")
	x.send(wire.OpSecWrite, "0800000000000200|0200000000000000|0100000000000000|00100000|00100000|04000000|00000000", []byte{2, 0, 0, 0}, parity)
	x.expect(wire.OpSecWrite, "0010000000000000|0100000000000000")
	x.send(wire.OpSecStabilize, "1800000000000000|00000000|00000000", unhex(t, "0800000000000200|0100000000000000|0100000000000000"))
	x.expect(wire.OpSecStabilize, "0000000000000000")
	x.send(wire.OpSecStabilize, "1800000000000000|00000000|00000000", unhex(t, "0800000000000200|0200000000000000|0100000000000000"))
	x.expect(wire.OpSecStabilize, "0000000000000000")
	x.send(wire.OpSecRead, "0800000000000200|0200000000000000|ffffffffffffffff|00100000|00100000|00000000|00000000")
	x.expect(wire.OpSecRead, "0010000000000000|0100000000000000|04000000", []byte{2, 0, 0, 0}, parity)
	x.send(wire.OpSecRead, "0800000000000200|0200000000000000|ffffffffffffffff|00000000|00000000|00000000|00000000")
	x.expect(wire.OpSecRead, "0000000000000000|0100000000000000|04000000", []byte{2, 0, 0, 0})
	// Recovery of an object of inode 7; the version is of epoch 2.
	x.send(wire.OpSecWrite, "0700000000000200|0100000000000000|0100020000000000|00000000|00000000|04000000|01000000", make([]byte, 4))
	x.expect(wire.OpSecWrite, "0000000000000000|0100020000000000")
	x.send(wire.OpSecDelete, "0800000000000200|0100000000000000|0200000000000000|00000000|00000000")
	x.expect(wire.OpSecDelete, "0000000000000000|0200000000000000")
	x.send(wire.OpSecSync, "00000000|00000000")
	x.expect(wire.OpSecSync, "0000000000000000")
}

func TestCapturedListing(t *testing.T) {
	r := newRig(t, 1)
	x := r.raw(t)
	objects := []string{"0700000000000200|0100000000000000|0100010000000000", "4600000000000200|0100000000000000|0100010000000000"}
	for _, o := range objects {
		x.send(wire.OpSecWrite, o+"|00000000|00000000|04000000|00000000", make([]byte, 4))
		x.expect(wire.OpSecWrite, "0000000000000000|0100010000000000")
		x.send(wire.OpSecStabilize, "1800000000000000|00000000|00000000", unhex(t, o))
		x.expect(wire.OpSecStabilize, "0000000000000000")
	}
	x.send(wire.OpSecList, `01000000|01000000|0000040000000000|0000000000000200|ffffffffffff0200|0000000000000000|0000000000000000|
		00000000|0000000000000000`)
	got := x.receive(128 + 48)
	if p := (*wire.Packet)(got); p.Retval() != 2 || !bytes.Equal(p[32:128], append([]byte{2}, make([]byte, 95)...)) {
		t.Errorf("got %x", p[:])
	}
	items := []string{string(got[128:152]), string(got[152:])}
	slices.Sort(items)
	if items[0] != string(unhex(t, objects[0])) || items[1] != string(unhex(t, objects[1])) {
		t.Errorf("got %x", items)
	}
	// LIST_PRIMARY is not for us: nobody is primary here.
	x.send(wire.OpSecList, `01000000|01000000|0000000000000000|0700000000000200|0700000000000200|0000000000000000|0000000000000000|
		00000000|0100000000000000`)
	x.expect(wire.OpSecList, "e0ffffffffffffff")
}

func TestCapturedBitmapsAndLocks(t *testing.T) {
	r := newRig(t, 1)
	x := r.raw(t)
	x.send(wire.OpSecWriteStable, "0700000000000200|0000000000000000|0100000000000000|00f00100|00100000|04000000|00000000",
		[]byte{0, 0, 0, 0x80}, make([]byte, 4096))
	x.expect(wire.OpSecWriteStable, "0010000000000000|0100000000000000")
	x.send(wire.OpSecReadBmp, "3000000000000000|00000000",
		unhex(t, "0700000000000200|0000000000000000|ffffffffffffffff|6300000000000200|0000000000000000|ffffffffffffffff"))
	x.expect(wire.OpSecReadBmp, "1800000000000000", unhex(t, "0100000000000000|00000080|0000000000000000|00000000"))
	hello := `{"osd_num": 1, "features": {"check_sequencing": true}}`
	x.send(wire.OpShowConfig, "3600000000000000", []byte(hello))
	p := (*wire.Packet)(x.receive(128))
	x.receive(int(p.Retval()))
	x.send(wire.OpSecLock, "0100000000000000|0100000000000000|0200000000000000|0200000000000000")
	x.expect(wire.OpSecLock, "0000000000000000")
	x.send(wire.OpSecLock, "0100000000000000|0100000000000000|0200000000000000|0800000000000000")
	x.expect(wire.OpSecLock, "0000000000000000")
	if r.s.locks.Len() != 1 {
		t.Errorf("%d locks", r.s.locks.Len())
	}
	x.send(wire.OpTestSyncStab, "")
	x.expect(wire.OpTestSyncStab, "eaffffffffffffff")
	x.send(wire.Op(20), "")
	x.expect(wire.Op(20), "eaffffffffffffff")
}
