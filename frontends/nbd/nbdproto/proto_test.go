package nbdproto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"syscall"
	"testing"
)

// shop has one export, and many names.
type shop struct{}

func (shop) Find(name string) (Export, error) {
	if name != "" && name != "disk" {
		return Export{}, errors.New("there is no such disk")
	}
	return Export{Name: "disk", Description: "a disk", SizeBytes: 1 << 30, Flags: HasFlags | SendFlush | SendDF,
		MinBlock: 1, PreferredBlock: 4096, MaxPayload: 32 << 20}, nil
}

func (shop) List(f func(name, description string)) { f("disk", "a disk"); f("other", "") }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes below were written by hand from the protocol's document.
const (
	clientFlags = "00000003"
	haveOpt     = "49484156454f5054"
	answerMagic = "0003e889045565a9"
)

// TestHandshake: what is sent, and what must be answered.
func TestHandshake(t *testing.T) {
	for _, c := range []struct {
		name     string
		tls      TLS
		in, out  string
		verdict  Verdict
		contains string // instead of out
	}{
		{"structured replies", TLSNone, haveOpt + "00000008 00000000", answerMagic + "00000008 00000001 00000000", Answered, ""},
		{"go to the default export", TLSNone, haveOpt + "00000007 00000006 00000000 0000",
			answerMagic + "00000007 00000003 0000000c 0000 0000000040000000 0005" +
				answerMagic + "00000007 00000003 00000006 0001 6469736b" +
				answerMagic + "00000007 00000003 00000008 0002 61206469736b" +
				answerMagic + "00000007 00000003 0000000e 0003 00000001 00001000 02000000" +
				answerMagic + "00000007 00000001 00000000", Ready, ""},
		{"an unknown export", TLSNone, haveOpt + "00000006 0000000c 00000004 6e6f7065 0001 0003", "", Answered, "there is no such disk"},
		{"a request for information that is cut", TLSNone, haveOpt + "00000006 00000008 00000004 6e6f7065", "", Answered, "malformed"},
		{"a name that is longer than the option", TLSNone, haveOpt + "00000007 00000006 ffffffff 0000", "", Answered, "malformed"},
		{"list", TLSNone, haveOpt + "00000003 00000000",
			answerMagic + "00000003 00000002 0000000e 00000004 6469736b 61206469736b" +
				answerMagic + "00000003 00000002 00000009 00000005 6f74686572" +
				answerMagic + "00000003 00000001 00000000", Answered, ""},
		{"list with data", TLSNone, haveOpt + "00000003 00000001 00", "", Answered, "no data"},
		{"abort", TLSNone, haveOpt + "00000002 00000000", answerMagic + "00000002 00000001 00000000", Finished, ""},
		{"export name", TLSNone, haveOpt + "00000001 00000004 6469736b", "0000000040000000 0005", Ready, ""},
		{"an unknown option", TLSNone, haveOpt + "0000000b 00000002 ffff", "", Answered, "unknown option"},
		{"TLS that is not offered", TLSNone, haveOpt + "00000005 00000000", "", Answered, "no certificate"},
		{"TLS", TLSOffered, haveOpt + "00000005 00000000", answerMagic + "00000005 00000001 00000000", StartTLS, ""},
		{"TLS is required", TLSRequired, haveOpt + "00000007 00000006 00000000 0000", "", Answered, "requires TLS"},
		{"contexts before structured replies", TLSNone, haveOpt + "0000000a 00000008 00000000 00000000", "", Answered, "need structured replies"},
		{"contexts that are cut", TLSNone, haveOpt + "00000009 0000000c 00000000 00000001 00000009", "", Answered, "malformed"},
		{"too many contexts", TLSNone, haveOpt + "00000009 00000008 00000000 ffffffff", "", Answered, "at most"},
		{"all contexts", TLSNone, haveOpt + "00000009 00000008 00000000 00000000",
			answerMagic + "00000009 00000004 00000013 00000000 626173653a616c6c6f636174696f6e" + answerMagic + "00000009 00000001 00000000", Answered, ""},
		{"an option that is too long", TLSNone, haveOpt + "00000007 00010001", "", Answered, "options have at most"},
	} {
		h := NewHandshake(shop{}, c.tls)
		used, out, v, err := h.Next(unhex(t, clientFlags), nil)
		if used != 4 || len(out) != 0 || v != Answered || err != nil {
			t.Fatalf("the client's flags: %d %x %v %v", used, out, v, err)
		}
		in := unhex(t, c.in)
		// The beginning alone is never enough, and is not used up.
		for n := range in {
			if n == 16 && c.name == "an option that is too long" {
				break
			}
			if used, out, v, err := h.Next(in[:n], nil); used != 0 || len(out) != 0 || v != NeedMore || err != nil {
				t.Fatalf("%s: %d bytes of %d: %d %x %v %v", c.name, n, len(in), used, out, v, err)
			}
		}
		used, out, v, err = h.Next(in, nil)
		if err != nil || used != len(in) || v != c.verdict {
			t.Errorf("%s: used %d of %d, verdict %v, %v", c.name, used, len(in), v, err)
		}
		if c.contains != "" {
			if !strings.Contains(string(out), c.contains) {
				t.Errorf("%s: no %q in %q", c.name, c.contains, out)
			}
		} else if want := unhex(t, c.out); !bytes.Equal(out, want) {
			t.Errorf("%s:\n%x, want\n%x", c.name, out, want)
		}
	}
}

func TestHandshakeErrors(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"flags", "00000004", "unknown flags"},
		{"magic", clientFlags + "494841564500000000000001 00000000", "magic"},
		{"no such name", clientFlags + haveOpt + "00000001 00000003 6f6e65", "no such disk"},
		{"a name that is too long", clientFlags + haveOpt + "00000001 00100000", "too long"},
	} {
		h := NewHandshake(shop{}, TLSNone)
		in := unhex(t, c.in)
		var err error
		for v := Answered; err == nil && v == Answered; {
			var used int
			used, _, v, err = h.Next(in, nil)
			in = in[used:]
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestSkip: the data of a refused option is skipped, however it comes.
func TestSkip(t *testing.T) {
	h := NewHandshake(shop{}, TLSNone)
	h.Next(unhex(t, clientFlags), nil)
	used, _, _, _ := h.Next(unhex(t, haveOpt+"0000002a 00010010"), nil)
	left := 0x10010
	if used != 16 {
		t.Fatal(used)
	}
	abort := unhex(t, haveOpt+"00000002 00000000")
	for _, n := range []int{1, 65536, left - 65537} {
		in := make([]byte, n)
		if left -= n; left == 0 {
			in = append(in, abort...)
		}
		used, out, v, err := h.Next(in, nil)
		if used != n || len(out) != 0 || err != nil || (left > 0) != (v == NeedMore) {
			t.Fatalf("%d of %d bytes skipped, %v %v", used, n, v, err)
		}
	}
	if _, _, v, err := h.Next(abort, nil); v != Finished || err != nil {
		t.Errorf("%v %v", v, err)
	}
}

// TestContexts: base:allocation counts only for the export it was selected for,
// and for the last selection.
func TestContexts(t *testing.T) {
	const structured = haveOpt + "00000008 00000000"
	const choose = haveOpt + "0000000a 0000001f 00000004 6469736b 00000001 0000000f 626173653a616c6c6f636174696f6e"
	const other = haveOpt + "0000000a 00000012 00000004 6469736b 00000001 00000002 783a"
	const start = haveOpt + "00000007 00000006 00000000 0000"
	for _, c := range []struct {
		name, in string
		want     bool
	}{
		{"selected", structured + choose + start, true},
		{"not selected", structured + start, false},
		{"unknown", structured + other + start, false},
		{"selected, then not", structured + choose + other + start, false},
	} {
		h := NewHandshake(shop{}, TLSNone)
		in := unhex(t, clientFlags+c.in)
		v := Answered
		for v == Answered {
			used, _, now, err := h.Next(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			in, v = in[used:], now
		}
		if s := h.Session(); v != Ready || s.Allocation != c.want || !s.Structured || s.Export != "disk" || s.Flags&SendDF == 0 {
			t.Errorf("%s: %v %+v", c.name, v, h.Session())
		}
	}
}

func TestInsideTLS(t *testing.T) {
	h := NewHandshake(shop{}, TLSRequired)
	h.Next(unhex(t, "00000001"), nil) // zeroes are wanted
	inside := h.Inside(shop{})
	_, out, v, err := inside.Next(unhex(t, haveOpt+"00000005 00000000"), nil)
	if v != Answered || err != nil || !strings.Contains(string(out), "on already") {
		t.Errorf("TLS inside of TLS: %v %v %q", v, err, out)
	}
	_, out, v, err = inside.Next(unhex(t, haveOpt+"00000001 00000000"), nil)
	if v != Ready || err != nil || len(out) != 10+124 {
		t.Errorf("%v %v, %d bytes", v, err, len(out))
	}
}

func TestRequest(t *testing.T) {
	b := [RequestBytes]byte(unhex(t, "25609513 0001 0006 0102030405060708 1112131415161718 21222324"))
	r, ok := ParseRequest(&b)
	if want := (Request{FlagFUA, CmdWriteZeroes, 0x0102030405060708, 0x1112131415161718, 0x21222324}); !ok || r != want {
		t.Errorf("%+v %v", r, ok)
	}
	var again [RequestBytes]byte
	if r.Put(&again); again != b {
		t.Errorf("%x", again)
	}
	b[0]++
	if _, ok := ParseRequest(&b); ok {
		t.Error("a wrong magic number is taken")
	}
}

func TestReplies(t *testing.T) {
	var b [ErrorChunkBytes]byte
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"simple", bytes.Clone(PutSimple(b[:], 0x0102030405060708, EPERM)), "67446698 00000001 0102030405060708"},
		{"done", bytes.Clone(PutDone(b[:], 7)), "668e33ef 0001 0000 0000000000000007 00000000"},
		{"data", bytes.Clone(PutData(b[:], 7, 0x1000, 512)), "668e33ef 0001 0001 0000000000000007 00000208 0000000000001000"},
		{"error", bytes.Clone(PutError(b[:], 7, ENOSPC, "full")), "668e33ef 0001 8001 0000000000000007 0000000a 0000001c 0004 66756c6c"},
		{"status", AppendStatus(AppendStatus(bytes.Clone(PutStatusHead(b[:], 7, 2)), 4096, true), 8192, false),
			"668e33ef 0001 0005 0000000000000007 00000014 00000001 00001000 00000000 00002000 00000003"},
		{"greeting", Greeting(nil), "4e42444d41474943 49484156454f5054 0003"},
	} {
		if !bytes.Equal(c.got, unhex(t, c.want)) {
			t.Errorf("%s: %x, want %s", c.name, c.got, c.want)
		}
	}
	if n := len(PutError(b[:], 7, EIO, strings.Repeat("x", 10000))); n != ErrorChunkBytes {
		t.Errorf("a long text: %d bytes", n)
	}
}

func TestCheck(t *testing.T) {
	full := Session{Flags: HasFlags, Structured: true, Allocation: true, MaxPayload: 4096}
	fixed := full
	fixed.Flags |= ReadOnly
	plain := Session{Flags: HasFlags, MaxPayload: 4096}
	for _, c := range []struct {
		s    *Session
		r    Request
		want Errno
	}{
		{&full, Request{Type: CmdRead, Length: 4096, Flags: FlagDF}, 0},
		{&plain, Request{Type: CmdRead, Length: 4096, Flags: FlagDF}, EINVAL},
		{&full, Request{Type: CmdRead, Length: 4097}, EOVERFLOW},
		{&full, Request{Type: CmdWrite, Length: 4097}, EOVERFLOW},
		{&full, Request{Type: CmdWrite, Length: 4096, Flags: FlagFUA}, 0},
		{&full, Request{Type: CmdWrite, Length: 4096, Flags: FlagNoHole}, EINVAL},
		{&fixed, Request{Type: CmdWrite, Length: 4096}, EPERM},
		{&fixed, Request{Type: CmdTrim, Length: 4096}, EPERM},
		{&fixed, Request{Type: CmdWriteZeroes, Length: 4096}, EPERM},
		{&fixed, Request{Type: CmdFlush}, 0},
		{&full, Request{Type: CmdFlush, Flags: FlagFUA}, 0},
		{&full, Request{Type: CmdTrim, Length: 1 << 31}, 0},
		{&full, Request{Type: CmdWriteZeroes, Length: 1 << 31, Flags: FlagNoHole | FlagFUA}, 0},
		{&full, Request{Type: CmdBlockStatus, Length: 1 << 31, Flags: FlagReqOne}, 0},
		{&full, Request{Type: CmdBlockStatus}, EINVAL},
		{&plain, Request{Type: CmdBlockStatus, Length: 1}, EINVAL},
		{&full, Request{Type: CmdCache, Length: 1}, EINVAL},
		{&full, Request{Type: 99}, EINVAL},
	} {
		if e, text := c.s.Check(&c.r); e != c.want || (e == 0) != (text == "") {
			t.Errorf("%+v: %d %q, want %d", c.r, e, text, c.want)
		}
	}
}

func TestErrno(t *testing.T) {
	for from, to := range map[syscall.Errno]Errno{0: 0, syscall.EROFS: EPERM, syscall.ENOENT: ESHUTDOWN, syscall.ENOSPC: ENOSPC,
		syscall.ETIMEDOUT: EIO, syscall.EINVAL: EINVAL} {
		if got := ErrnoOf(from); got != to {
			t.Errorf("%v: %d, want %d", from, got, to)
		}
	}
}

// FuzzHandshake: whatever comes, in whatever pieces, is answered in the same
// way, and answers stay small.
func FuzzHandshake(f *testing.F) {
	for _, s := range []string{haveOpt + "00000008 00000000", haveOpt + "00000007 00000006 00000000 0000",
		haveOpt + "0000000a 0000001f 00000004 6469736b 00000001 0000000f 626173653a616c6c6f636174696f6e",
		haveOpt + "00000001 00000004 6469736b", haveOpt + "00000003 00000000" + haveOpt + "00000002 00000000",
		haveOpt + "00000005 00000000", haveOpt + "0000002a ffffffff 00"} {
		f.Add(unhex(f, clientFlags+s), uint8(0), uint8(3))
		f.Add(unhex(f, clientFlags+s), uint8(1), uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, tls, piece uint8) {
		whole, v1 := converse(t, in, TLS(tls%4), len(in))
		pieces, v2 := converse(t, in, TLS(tls%4), int(piece)+1)
		if !bytes.Equal(whole, pieces) || v1 != v2 {
			t.Errorf("%v %x, in pieces of %d: %v %x", v1, whole, int(piece)+1, v2, pieces)
		}
		if len(whole) > 100*len(in)+1000 {
			t.Errorf("%d bytes are answered with %d", len(in), len(whole))
		}
	})
}

// converse sends in to a new handshake in pieces.
func converse(t *testing.T, in []byte, tls TLS, piece int) (out []byte, v Verdict) {
	h := NewHandshake(shop{}, tls)
	held := []byte(nil)
	for len(in) > 0 {
		n := min(piece, len(in))
		held, in = append(held, in[:n]...), in[n:]
		for v = Answered; v == Answered; {
			used, reply, now, err := h.Next(held, nil)
			if used > len(held) {
				t.Fatalf("used %d of %d bytes", used, len(held))
			}
			if err != nil && now != Finished {
				t.Fatalf("an error goes on: %v", err)
			}
			held, out, v = held[used:], append(out, reply...), now
		}
		if v != NeedMore {
			return out, v
		}
		if len(held) > OptionBytesMax+optionHeadBytes {
			t.Fatalf("%d bytes are held", len(held))
		}
	}
	return out, v
}

func FuzzRequest(f *testing.F) {
	f.Add(unhex(f, "25609513 0001 0006 0102030405060708 1112131415161718 21222324"), true, true, uint16(0x1ff))
	f.Fuzz(func(t *testing.T, b []byte, structured, allocation bool, flags uint16) {
		if len(b) < RequestBytes {
			return
		}
		s := Session{Flags: flags, Structured: structured, Allocation: allocation, MaxPayload: 4096}
		r, ok := ParseRequest((*[RequestBytes]byte)(b))
		if !ok {
			return
		}
		if e, _ := s.Check(&r); e == 0 && r.Type != CmdTrim && r.Type != CmdWriteZeroes && r.Type != CmdBlockStatus &&
			r.Type != CmdFlush && r.Type != CmdDisconnect && r.Length > s.MaxPayload {
			t.Errorf("%+v is allowed", r)
		}
	})
}
