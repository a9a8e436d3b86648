package wire

import "fmt"

// PayloadKind says what the body of a payload is.
type PayloadKind uint8

const (
	PayloadNone     PayloadKind = iota
	PayloadData                 // bitmap (Attr bytes), then data (Body bytes)
	PayloadObjects              // ObjectList
	PayloadBitmaps              // BitmapList
	PayloadDescribe             // DescribeList
	PayloadJSON                 // SHOW_CONFIG text
)

// Payload describes the bytes between a packet and the next one.
type Payload struct {
	Kind PayloadKind
	Attr uint32 // bitmap bytes, they come first; only with PayloadData
	Body uint32 // data, list or text bytes
	// Refused: the bytes belong to a request that is too long and will be
	// answered with EINVAL. They need not be kept.
	Refused bool
}

// Bytes is the length of the whole payload, at most MaxPayloadBytes.
func (p Payload) Bytes() uint32 { return p.Attr + p.Body }

// RequestPayload tells what follows a request. Opcodes that do not exist have
// no payload and are answered with EINVAL.
//
// An error means that the stream cannot go on: close the connection.
func RequestPayload(p *Packet) (Payload, error) {
	switch p.Op() {
	case OpSecWrite, OpSecWriteStable:
		attr, body := le.Uint32(p[56:60]), le.Uint32(p[52:56])
		pl, err := makePayload(p, PayloadData, uint64(attr), uint64(body))
		pl.Refused = pl.Body > MaxIOBytes || pl.Attr > MaxIOBytes
		return pl, err
	case OpWrite:
		pl, err := makePayload(p, PayloadData, 0, uint64(le.Uint32(p[40:44])))
		pl.Refused = pl.Body > MaxIOBytes
		return pl, err
	case OpSecStabilize, OpSecRollback, OpSecReadBmp:
		return makePayload(p, PayloadObjects, 0, le.Uint64(p[24:32]))
	case OpShowConfig:
		return makePayload(p, PayloadJSON, 0, le.Uint64(p[24:32]))
	}
	return Payload{}, nil
}

// ReplyPayload tells what follows a reply. The opcode of the reply decides,
// which is why it must repeat the one of the request: see CheckReply.
//
// An error means that the stream cannot go on: close the connection.
func ReplyPayload(p *Packet) (Payload, error) {
	op, retval := p.Op(), p.Retval()
	attr := uint64(replyAttrBytes(p, op))
	if retval.Failed() {
		if attr != 0 {
			return Payload{}, fmt.Errorf("%s: failed with %v but announces %d bytes of bitmap", p.name(), retval, attr)
		}
		return Payload{}, nil
	}
	body := uint64(retval)
	switch op {
	case OpRead, OpSecRead:
		return makePayload(p, PayloadData, attr, body)
	case OpSecList:
		// Clamped first, so that the product cannot overflow.
		return makePayload(p, PayloadObjects, 0, min(body, MaxPayloadBytes)*ObjectItemBytes)
	case OpSecReadBmp:
		return makePayload(p, PayloadBitmaps, 0, body)
	case OpShowConfig:
		return makePayload(p, PayloadJSON, 0, body)
	case OpDescribe:
		n := le.Uint64(p[32:40])
		if n != min(body, MaxPayloadBytes)*DescribeItemBytes {
			return Payload{}, fmt.Errorf("%s: result_bytes %d does not belong to %d items", p.name(), n, body)
		}
		return makePayload(p, PayloadDescribe, 0, n)
	}
	return Payload{}, nil
}

// replyAttrBytes is the bitmap length in a reply that has such a field in use.
func replyAttrBytes(p *Packet, op Op) uint32 {
	switch op {
	case OpRead:
		return le.Uint32(p[32:36])
	case OpSecRead:
		return le.Uint32(p[40:44])
	}
	return 0
}

// makePayload checks the length. Both parts are limited alone first: their sum
// cannot overflow.
func makePayload(p *Packet, kind PayloadKind, attr, body uint64) (Payload, error) {
	if attr > MaxPayloadBytes || body > MaxPayloadBytes || attr+body > MaxPayloadBytes {
		return Payload{}, fmt.Errorf("%s: announces a payload of %d+%d bytes, the limit is %d",
			p.name(), attr, body, MaxPayloadBytes)
	}
	if attr+body == 0 {
		return Payload{}, nil
	}
	return Payload{Kind: kind, Attr: uint32(attr), Body: uint32(body)}, nil
}

// CheckReply tells whether reply can be an answer to request (§3). maxAttr is
// the size of the bitmap that the requester expects at most. It does not say
// whether the operation succeeded.
//
// An error means that the peer is broken: close the connection.
func CheckReply(request, reply *Packet, maxAttr uint32) error {
	op, retval := request.Op(), reply.Retval()
	if reply.Op() != op || reply.ID() != request.ID() {
		return fmt.Errorf("%s: answers %s", reply.name(), request.name())
	}
	if retval.Failed() {
		if op == OpPing {
			return fmt.Errorf("%s: failed with %v", reply.name(), retval)
		}
		return nil
	}
	want := retval
	switch op {
	case OpRead, OpWrite:
		want = Retval(le.Uint32(request[40:44]))
	case OpSecRead, OpSecWrite, OpSecWriteStable:
		want = Retval(le.Uint32(request[52:56]))
	case OpPing:
		want = 0
	case OpSecList:
		if stable := le.Uint64(reply[32:40]); stable > uint64(retval) {
			return fmt.Errorf("%s: %d of %d items are stable", reply.name(), stable, retval)
		}
	}
	if retval != want {
		return fmt.Errorf("%s: retval %v, expected %v", reply.name(), retval, want)
	}
	if attr := replyAttrBytes(reply, op); attr > maxAttr {
		return fmt.Errorf("%s: %d bytes of bitmap, expected at most %d", reply.name(), attr, maxAttr)
	}
	return nil
}
