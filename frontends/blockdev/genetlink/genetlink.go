// Package genetlink talks with drivers of the kernel by generic netlink
// (linux/netlink.h, linux/genetlink.h): one request, one answer.
//
//	message    | length 4 | type 2 | flags 2 | sequence 4 | port 4 |    nlmsghdr
//	           | command 1 | version 1 | 0 2 | attributes ...           genlmsghdr
//	attribute  | length 2 | type 2 | value | padding to 4 |             nlattr
//
// Numbers are in the byte order of the host.
//
// Guarantee: what the kernel answers is checked before it is used; its refusals
// are returned as errors that wrap the errno, with the kernel's own words if it
// has some.
//
// Concurrency: Call blocks for as long as the kernel does, on a socket of its
// own; any goroutine may call it. A Message belongs to one goroutine.
package genetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

var native = binary.NativeEndian

const (
	headBytes  = 20 // nlmsghdr and genlmsghdr
	plainBytes = 16 // nlmsghdr

	controlID      = 0x10 // the family "nlctrl"
	controlVersion = 1
	getFamily      = 3
	familyID       = 1
	familyName     = 2

	typeError     = 2
	flagRequest   = 1
	flagAck       = 4
	flagCapped    = 0x100 // the answer has no copy of the request's payload
	flagExtended  = 0x200 // attributes stand behind an error
	errorText     = 1     // NLMSGERR_ATTR_MSG
	errorMinimum  = 4
	attrHeadBytes = 4
)

// Nested marks the type of an attribute that consists of attributes.
const Nested = 0x8000

// ErrMalformed means that an answer is none.
var ErrMalformed = errors.New("the kernel's answer is malformed")

// Attrs are attributes in a row.
type Attrs struct{ b []byte }

// Bytes appends an attribute.
func (a *Attrs) Bytes(kind uint16, value []byte) {
	a.b = native.AppendUint16(a.b, uint16(attrHeadBytes+len(value)))
	a.b = native.AppendUint16(a.b, kind)
	a.b = append(a.b, value...)
	for len(a.b)%4 != 0 {
		a.b = append(a.b, 0)
	}
}

// U32 appends a number of 4 bytes.
func (a *Attrs) U32(kind uint16, n uint32) { a.Bytes(kind, native.AppendUint32(nil, n)) }

// U64 appends a number of 8 bytes.
func (a *Attrs) U64(kind uint16, n uint64) { a.Bytes(kind, native.AppendUint64(nil, n)) }

// String appends a text, which ends with a zero byte.
func (a *Attrs) String(kind uint16, text string) { a.Bytes(kind, append([]byte(text), 0)) }

// Nest appends attributes as one.
func (a *Attrs) Nest(kind uint16, inner Attrs) { a.Bytes(kind|Nested, inner.b) }

// Message is a request.
type Message struct {
	Attrs
	command, version byte
}

// New begins a request without attributes.
func New(command, version byte) *Message { return &Message{command: command, version: version} }

// Encode is the message to the family with this number.
func (m *Message) Encode(family uint16, sequence uint32) []byte {
	b := make([]byte, headBytes, headBytes+len(m.b))
	native.PutUint32(b, uint32(headBytes+len(m.b)))
	native.PutUint16(b[4:], family)
	native.PutUint16(b[6:], flagRequest|flagAck)
	native.PutUint32(b[8:], sequence)
	b[16], b[17] = m.command, m.version
	return append(b, m.b...)
}

// familyMessage asks for the number of a family.
func familyMessage(name string) *Message {
	m := New(getFamily, controlVersion)
	m.String(familyName, name)
	return m
}

// Answer are the attributes that the kernel has answered with, by type.
type Answer map[uint16][]byte

// Number reads an attribute of 2 or 4 bytes.
func (a Answer) Number(kind uint16) (uint32, bool) {
	switch v := a[kind]; len(v) {
	case 2:
		return uint32(native.Uint16(v)), true
	case 4:
		return native.Uint32(v), true
	}
	return 0, false
}

// reply is one message of an answer.
type reply struct {
	final bool          // an acknowledgement or an error: the last message
	err   syscall.Errno // 0 = success
	text  string        // what the kernel says about err
	attrs Answer
}

// failure is the error of a final reply.
func (r *reply) failure() error {
	switch {
	case r.err == 0:
		return nil
	case r.text != "":
		return fmt.Errorf("%w (%s)", r.err, r.text)
	}
	return r.err
}

// parse reads the messages of a datagram that answer a request.
func parse(b []byte, sequence uint32) (list []reply, err error) {
	for len(b) > 0 {
		if len(b) < plainBytes {
			return nil, ErrMalformed
		}
		n := uint64(native.Uint32(b))
		if n < plainBytes || n > uint64(len(b)) {
			return nil, ErrMalformed
		}
		m := b[:n]
		b = b[min(uint64(len(b)), (n+3)/4*4):]
		if native.Uint32(m[8:]) != sequence {
			continue
		}
		r, err := parseOne(m)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func parseOne(m []byte) (r reply, err error) {
	if native.Uint16(m[4:]) == typeError {
		return parseError(m)
	}
	if len(m) < headBytes {
		return r, ErrMalformed
	}
	r.attrs, err = parseAttrs(m[headBytes:])
	return r, err
}

// parseError reads an acknowledgement:
//
//	nlmsghdr | -errno 4 | header of the request | its payload, unless capped | attributes, if extended
func parseError(m []byte) (r reply, err error) {
	if len(m) < plainBytes+errorMinimum {
		return r, ErrMalformed
	}
	r = reply{final: true, err: syscall.Errno(-int32(native.Uint32(m[plainBytes:])))}
	flags, rest := native.Uint16(m[6:]), m[plainBytes+errorMinimum:]
	if flags&flagExtended == 0 || len(rest) < plainBytes {
		return r, nil
	}
	skip := uint64(plainBytes)
	if flags&flagCapped == 0 {
		skip = (uint64(native.Uint32(rest)) + 3) / 4 * 4
	}
	if skip > uint64(len(rest)) {
		return r, ErrMalformed
	}
	attrs, err := parseAttrs(rest[skip:])
	if text := attrs[errorText]; len(text) > 0 {
		r.text = string(text[:len(text)-1])
	}
	return r, err
}

func parseAttrs(b []byte) (Answer, error) {
	attrs := Answer{}
	for len(b) >= attrHeadBytes {
		n := int(native.Uint16(b))
		if n < attrHeadBytes || n > len(b) {
			return nil, ErrMalformed
		}
		attrs[native.Uint16(b[2:])&^Nested] = b[attrHeadBytes:n]
		b = b[min(len(b), (n+3)/4*4):]
	}
	return attrs, nil
}
