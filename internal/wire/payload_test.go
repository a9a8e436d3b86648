package wire

import (
	"math"
	"strings"
	"testing"
)

func TestRequestPayload(t *testing.T) {
	data := func(attr, body uint32) Payload { return Payload{Kind: PayloadData, Attr: attr, Body: body} }
	refused := func(attr, body uint32) Payload { return Payload{PayloadData, attr, body, true} }
	for _, c := range []struct {
		request Message
		want    Payload
		err     string
	}{
		{&SecRw{Op: OpSecRead, Len: 4096, AttrLen: 1 << 31}, Payload{}, ""},
		{&SecRw{Op: OpSecWrite, Len: 4096, AttrLen: 4}, data(4, 4096), ""},
		{&SecRw{Op: OpSecWriteStable, Len: 0, AttrLen: 4}, data(4, 0), ""},
		{&SecRw{Op: OpSecWrite, Len: 0, AttrLen: 0}, Payload{}, ""},
		{&SecRw{Op: OpSecWrite, Len: MaxIOBytes, AttrLen: 4}, data(4, MaxIOBytes), ""},
		{&SecRw{Op: OpSecWrite, Len: MaxIOBytes + 1, AttrLen: 4}, refused(4, MaxIOBytes+1), ""},
		{&SecRw{Op: OpSecWriteStable, Len: 1, AttrLen: MaxIOBytes + 1}, refused(MaxIOBytes+1, 1), ""},
		{&SecRw{Op: OpSecWrite, Len: 1<<31 - 5, AttrLen: 4}, refused(4, 1<<31-5), ""},
		{&SecRw{Op: OpSecWrite, Len: 1<<31 - 4, AttrLen: 4}, Payload{}, "SEC_WRITE request 0: announces a payload of 4+2147483644 bytes"},
		{&SecRw{Op: OpSecWrite, Len: 1<<32 - 1, AttrLen: 1}, Payload{}, "1+4294967295"}, // 2^32 in all
		{&SecRw{Op: OpSecWrite, AttrLen: 1<<31 - 1}, refused(1<<31-1, 0), ""},
		{&SecRw{Op: OpSecWriteStable, AttrLen: 1 << 31}, Payload{}, "limit is 2147483647"},
		{&SecSync{Flags: 7}, Payload{}, ""},
		{&SecStab{Op: OpSecStabilize, Len: 49}, Payload{Kind: PayloadObjects, Body: 49}, ""},
		{&SecStab{Op: OpSecRollback, Len: 0}, Payload{}, ""},
		{&SecStab{Op: OpSecRollback, Len: 1<<31 - 1}, Payload{Kind: PayloadObjects, Body: 1<<31 - 1}, ""},
		{&SecStab{Op: OpSecStabilize, Len: 1 << 31}, Payload{}, "limit"},
		{&SecStab{Op: OpSecStabilize, Len: 1<<64 - 1}, Payload{}, "limit"},
		{&SecDel{Version: 9}, Payload{}, ""},
		{&HeaderOnly{Op: OpTestSyncStab}, Payload{}, ""},
		{&SecList{PG: 1}, Payload{}, ""},
		{&ShowConfig{JSONLen: 40}, Payload{Kind: PayloadJSON, Body: 40}, ""},
		{&ShowConfig{}, Payload{}, ""},
		{&ShowConfig{JSONLen: 1 << 40}, Payload{}, "limit"},
		{&Rw{Op: OpRead, Len: 1 << 31}, Payload{}, ""},
		{&Rw{Op: OpWrite, Len: 4096}, data(0, 4096), ""},
		{&Rw{Op: OpWrite, Len: MaxIOBytes}, data(0, MaxIOBytes), ""},
		{&Rw{Op: OpWrite, Len: MaxIOBytes + 4096}, refused(0, MaxIOBytes+4096), ""},
		{&Rw{Op: OpWrite, Len: 1 << 31}, Payload{}, "limit"},
		{&Rw{Op: OpDelete, Len: 4096}, Payload{}, ""},
		{&Rw{Op: OpScrub, Len: 4096}, Payload{}, ""},
		{&HeaderOnly{Op: OpSync}, Payload{}, ""},
		{&HeaderOnly{Op: OpPing}, Payload{}, ""},
		{&SecReadBmp{Len: 48}, Payload{Kind: PayloadObjects, Body: 48}, ""},
		{&SecReadBmp{Len: 1 << 31}, Payload{}, "limit"},
		{&Describe{Limit: 1}, Payload{}, ""},
		{&SecLock{Flags: 1}, Payload{}, ""},
		{&HeaderOnly{Op: 0}, Payload{}, ""},
		{&HeaderOnly{Op: 20}, Payload{}, ""},
		{&HeaderOnly{Op: 1<<64 - 1}, Payload{}, ""},
	} {
		var p Packet
		c.request.Encode(&p)
		got, err := RequestPayload(&p)
		checkPayload(t, &p, got, err, c.want, c.err)
	}
}

func checkPayload(t *testing.T, p *Packet, got Payload, err error, want Payload, errText string) {
	t.Helper()
	switch {
	case errText == "" && err != nil, errText != "" && err == nil,
		err != nil && !strings.Contains(err.Error(), errText):
		t.Errorf("%v: error %v, want %q", p, err, errText)
	case got != want:
		t.Errorf("%v: payload %+v, want %+v", p, got, want)
	case got.Bytes() != want.Attr+want.Body:
		t.Errorf("%v: %d bytes", p, got.Bytes())
	}
}

func TestReplyPayload(t *testing.T) {
	for _, c := range []struct {
		reply Message
		want  Payload
		err   string
	}{
		{&SecRwReply{Op: OpSecRead, Retval: 4096, AttrLen: 4}, Payload{Kind: PayloadData, Attr: 4, Body: 4096}, ""},
		{&SecRwReply{Op: OpSecRead, Retval: 0, AttrLen: 4}, Payload{Kind: PayloadData, Attr: 4}, ""},
		{&SecRwReply{Op: OpSecRead, Retval: 1<<31 - 1, AttrLen: 1}, Payload{}, "SEC_READ reply 0: announces"},
		{&SecRwReply{Op: OpSecRead, Retval: 4096, AttrLen: 1<<32 - 4096}, Payload{}, "limit"},
		{&SecRwReply{Op: OpSecRead, Retval: ENOENT}, Payload{}, ""},
		{&SecRwReply{Op: OpSecWrite, Retval: 4096, AttrLen: 4}, Payload{}, ""},
		{&SecListReply{Retval: 2}, Payload{Kind: PayloadObjects, Body: 48}, ""},
		{&SecListReply{Retval: 0}, Payload{}, ""},
		{&SecListReply{Retval: EAGAIN, StableCount: 5}, Payload{}, ""},
		{&SecListReply{Retval: 89478485}, Payload{Kind: PayloadObjects, Body: 2147483640}, ""},
		{&SecListReply{Retval: 89478486}, Payload{}, "limit"},
		{&SecListReply{Retval: math.MaxInt64 / 2}, Payload{}, "limit"}, // times 24 is short modulo 2^64
		{&StatusReply{Op: OpShowConfig, Retval: 240}, Payload{Kind: PayloadJSON, Body: 240}, ""},
		{&StatusReply{Op: OpShowConfig, Retval: 1 << 31}, Payload{}, "limit"},
		{&RwReply{Op: OpRead, Retval: 4096, BitmapLen: 4}, Payload{Kind: PayloadData, Attr: 4, Body: 4096}, ""},
		{&RwReply{Op: OpRead, Retval: 4096}, Payload{Kind: PayloadData, Body: 4096}, ""},
		{&RwReply{Op: OpRead, Retval: math.MaxInt64, BitmapLen: 4}, Payload{}, "limit"},
		{&RwReply{Op: OpWrite, Retval: 4096, BitmapLen: 4}, Payload{}, ""},
		{&RwReply{Op: OpScrub, Retval: 1}, Payload{}, ""},
		{&DeleteReply{Flags: 3, Count: 1}, Payload{}, ""},
		{&StatusReply{Op: OpSecReadBmp, Retval: 24}, Payload{Kind: PayloadBitmaps, Body: 24}, ""},
		{&StatusReply{Op: OpSecReadBmp, Retval: 1 << 31}, Payload{}, "limit"},
		{&DescribeReply{Retval: 2}, Payload{Kind: PayloadDescribe, Body: 64}, ""},
		{&DescribeReply{Retval: EINVAL}, Payload{}, ""},
		{&DescribeReply{Retval: 1 << 26}, Payload{}, "limit"},
		{&DescribeReply{Retval: 1 << 59}, Payload{}, "result_bytes"}, // times 32 is 0 modulo 2^64
		{&StatusReply{Op: OpDescribe, Retval: 1}, Payload{}, "result_bytes 0 does not belong to 1 items"},
		{&SecLockReply{Retval: EBUSY, CurPrimary: 1}, Payload{}, ""},
		{&StatusReply{Op: OpSync, Retval: 77}, Payload{}, ""},
		{&StatusReply{Op: 20, Retval: EINVAL}, Payload{}, ""},
	} {
		var p Packet
		c.reply.Encode(&p)
		got, err := ReplyPayload(&p)
		checkPayload(t, &p, got, err, c.want, c.err)
	}
}

func TestCheckReply(t *testing.T) {
	for _, c := range []struct {
		request, reply Message
		err            string
	}{
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: 4096, BitmapLen: 4}, ""},
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: 4096, BitmapLen: 3}, ""},
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: EIO}, ""},
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: 4096, BitmapLen: 5}, "5 bytes of bitmap, expected at most 4"},
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: 4095}, "READ reply 0: retval 4095, expected 4096"},
		{&Rw{Op: OpRead, Len: 4096}, &RwReply{Op: OpRead, Retval: 8192}, "expected 4096"},
		{&Rw{Op: OpRead, Len: 4096}, &SecRwReply{Op: OpSecRead, Retval: 4096}, "SEC_READ reply 0: answers READ request 0"},
		{&Rw{ID: 5, Op: OpRead}, &RwReply{ID: 6, Op: OpRead}, "answers"},
		{&Rw{Op: OpWrite, Len: 4096}, &RwReply{Op: OpWrite, Retval: 4096}, ""},
		{&Rw{Op: OpWrite, Len: 4096}, &RwReply{Op: OpWrite, Retval: EINTR, Version: 3}, ""},
		{&Rw{Op: OpWrite, Len: 4096}, &RwReply{Op: OpWrite, Retval: 0}, "expected 4096"},
		{&Rw{Op: OpScrub}, &RwReply{Op: OpScrub}, ""},
		{&Rw{Op: OpDelete, Len: 4096}, &DeleteReply{}, ""},
		{&SecRw{Op: OpSecRead, Len: 4096}, &SecRwReply{Op: OpSecRead, Retval: 4096, AttrLen: 4}, ""},
		{&SecRw{Op: OpSecRead, Len: 4096}, &SecRwReply{Op: OpSecRead, Retval: 0, AttrLen: 4}, "expected 4096"},
		{&SecRw{Op: OpSecRead}, &SecRwReply{Op: OpSecRead, AttrLen: 8}, "bitmap"},
		{&SecRw{Op: OpSecRead, Len: 4096}, &SecRwReply{Op: OpSecRead, Retval: ENOENT}, ""},
		{&SecRw{Op: OpSecWrite, Len: 4096}, &SecRwReply{Op: OpSecWrite, Retval: 4096}, ""},
		{&SecRw{Op: OpSecWriteStable, Len: 4096}, &SecRwReply{Op: OpSecWriteStable, Retval: 0}, "expected 4096"},
		{&SecList{}, &SecListReply{Retval: 2, StableCount: 2}, ""},
		{&SecList{}, &SecListReply{Retval: 2, StableCount: 3}, "3 of 2 items are stable"},
		{&SecList{}, &SecListReply{Retval: EAGAIN, StableCount: 3}, ""},
		{&HeaderOnly{Op: OpPing}, &StatusReply{Op: OpPing}, ""},
		{&HeaderOnly{Op: OpPing}, &StatusReply{Op: OpPing, Retval: 1}, "retval 1, expected 0"},
		{&HeaderOnly{Op: OpPing}, &StatusReply{Op: OpPing, Retval: EINVAL}, "failed with EINVAL"},
		{&HeaderOnly{Op: OpSync}, &StatusReply{Op: OpSync}, ""},
	} {
		var req, rep Packet
		c.request.Encode(&req)
		c.reply.Encode(&rep)
		err := CheckReply(&req, &rep, 4)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%v\n%v: error %v, want %q", &req, &rep, err, c.err)
		}
	}
}
