package nbdproto

import (
	"errors"
	"fmt"
	"strings"
)

const (
	greetingMagic = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic   = 0x49484156454f5054 // "IHAVEOPT"
	replyMagic    = 0x3e889045565a9

	fixedNewstyle = 1 << 0
	noZeroes      = 1 << 1

	optionHeadBytes = 16
	// OptionBytesMax limits the data of one option. Longer ones are refused, and
	// skipped.
	OptionBytesMax = 64 << 10
	// NameBytesMax is the protocol's limit of strings.
	NameBytesMax = 4096
	queriesMax   = 64
)

// Options.
const (
	optExportName     = 1
	optAbort          = 2
	optList           = 3
	optStartTLS       = 5
	optInfo           = 6
	optGo             = 7
	optStructured     = 8
	optListMeta       = 9
	optSetMeta        = 10
	repAck            = 1
	repServer         = 2
	repInfo           = 3
	repMeta           = 4
	repErrUnsupported = 1<<31 + 1
	repErrPolicy      = 1<<31 + 2
	repErrInvalid     = 1<<31 + 3
	repErrTLSRequired = 1<<31 + 5
	repErrUnknown     = 1<<31 + 6
	repErrTooBig      = 1<<31 + 9

	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

const allocation = "base:allocation"

// Export is what the handshake tells of an export.
type Export struct {
	Name           string
	Description    string
	SizeBytes      uint64
	Flags          uint16
	MinBlock       uint32
	PreferredBlock uint32
	MaxPayload     uint32
}

// Exports are what a server offers.
type Exports interface {
	// Find looks for a name; "" is the default export. The error is for the
	// client: what to do about it.
	Find(name string) (Export, error)
	// List calls f for each export that is told to everybody.
	List(f func(name, description string))
}

// TLS says whether a connection is, or can be, encrypted.
type TLS uint8

const (
	TLSNone     TLS = iota // not offered
	TLSOffered             // the client may ask for it
	TLSRequired            // nothing else is answered before
	TLSActive              // everything here is inside of it
)

// Verdict says how a handshake goes on.
type Verdict uint8

const (
	NeedMore Verdict = iota // the input ends inside of something
	Answered                // one thing was answered; more input may be there
	StartTLS                // send the reply, then do TLS and go on with a new Handshake
	Ready                   // send the reply; requests follow: see Session
	Finished                // send the reply and close: the client has said good bye
)

// Handshake is the state of one.
type Handshake struct {
	exports Exports
	tls     TLS
	began   bool // the client's flags were read
	zeroes  bool // pad the answer to EXPORT_NAME
	skip    uint64
	session Session
	// metaFor is the export that base:allocation was selected for.
	metaFor string
	meta    bool
}

// NewHandshake begins a connection: Greeting is sent first.
func NewHandshake(exports Exports, tls TLS) *Handshake {
	return &Handshake{exports: exports, tls: tls}
}

// Inside is the handshake that begins inside of TLS, after StartTLS. What was
// agreed upon before is void.
func (h *Handshake) Inside(exports Exports) *Handshake {
	return &Handshake{exports: exports, tls: TLSActive, began: true, zeroes: h.zeroes}
}

// Greeting appends what a server says first.
func Greeting(out []byte) []byte {
	out = be.AppendUint64(out, greetingMagic)
	out = be.AppendUint64(out, optionMagic)
	return be.AppendUint16(out, fixedNewstyle|noZeroes)
}

// Session is the result, after Ready.
func (h *Handshake) Session() Session { return h.session }

// Next reads one thing from in, appends the answer to out, and tells how many
// bytes of in were used. An error ends the connection.
func (h *Handshake) Next(in, out []byte) (used int, reply []byte, v Verdict, err error) {
	if h.skip > 0 {
		n := min(h.skip, uint64(len(in)))
		if h.skip -= n; h.skip > 0 || n == 0 {
			return int(n), out, NeedMore, nil
		}
		return int(n), out, Answered, nil
	}
	if !h.began {
		return h.clientFlags(in, out)
	}
	if len(in) < optionHeadBytes {
		return 0, out, NeedMore, nil
	}
	if be.Uint64(in) != optionMagic {
		return 0, out, Finished, errors.New("not the NBD protocol: an option has the wrong magic number")
	}
	option, length := be.Uint32(in[8:]), be.Uint32(in[12:])
	if length > OptionBytesMax {
		h.skip = uint64(length)
		if option == optExportName {
			return optionHeadBytes, out, Finished, errors.New("the name of the export is too long")
		}
		return optionHeadBytes, refuse(out, option, repErrTooBig, fmt.Sprintf("options have at most %d bytes", OptionBytesMax)), Answered, nil
	}
	used = optionHeadBytes + int(length)
	if len(in) < used {
		return 0, out, NeedMore, nil
	}
	reply, v, err = h.option(option, in[optionHeadBytes:used], out)
	return used, reply, v, err
}

func (h *Handshake) clientFlags(in, out []byte) (int, []byte, Verdict, error) {
	if len(in) < 4 {
		return 0, out, NeedMore, nil
	}
	flags := be.Uint32(in)
	if flags&^(fixedNewstyle|noZeroes) != 0 {
		return 4, out, Finished, fmt.Errorf("the client has unknown flags %#x", flags)
	}
	h.began, h.zeroes = true, flags&noZeroes == 0
	return 4, out, Answered, nil
}

// option answers one option.
func (h *Handshake) option(option uint32, data, out []byte) ([]byte, Verdict, error) {
	if h.tls == TLSRequired && option != optStartTLS && option != optAbort {
		if option == optExportName {
			return out, Finished, errors.New("the client does not use TLS, which is required here")
		}
		return refuse(out, option, repErrTLSRequired, "this server requires TLS"), Answered, nil
	}
	switch option {
	case optExportName:
		return h.exportName(data, out)
	case optAbort:
		return answer(out, option, repAck, nil), Finished, nil
	case optList:
		return h.list(data, out), Answered, nil
	case optStartTLS:
		return h.startTLS(data, out)
	case optInfo, optGo:
		return h.inform(option, data, out)
	case optStructured:
		if len(data) != 0 {
			return refuse(out, option, repErrInvalid, "this option has no data"), Answered, nil
		}
		h.session.Structured = true
		return answer(out, option, repAck, nil), Answered, nil
	case optListMeta, optSetMeta:
		return h.contexts(option, data, out), Answered, nil
	}
	return refuse(out, option, repErrUnsupported, "unknown option"), Answered, nil
}

// find looks for an export, and tells of it what makes sense here.
func (h *Handshake) find(name string) (Export, error) {
	x, err := h.exports.Find(name)
	if !h.session.Structured {
		x.Flags &^= SendDF
	}
	return x, err
}

// choose makes an export that of the session.
func (h *Handshake) choose(x *Export) {
	s := &h.session
	s.Export, s.Flags, s.MaxPayload = x.Name, x.Flags, x.MaxPayload
	s.Allocation = s.Structured && h.meta && h.metaFor == x.Name
}

// exportName is the old way to choose an export: nothing but silence tells
// that there is none.
func (h *Handshake) exportName(data, out []byte) ([]byte, Verdict, error) {
	x, err := h.find(string(data))
	if err != nil {
		return out, Finished, err
	}
	h.choose(&x)
	out = be.AppendUint64(out, x.SizeBytes)
	out = be.AppendUint16(out, x.Flags)
	if h.zeroes {
		out = append(out, make([]byte, 124)...)
	}
	return out, Ready, nil
}

func (h *Handshake) list(data, out []byte) []byte {
	if len(data) != 0 {
		return refuse(out, optList, repErrInvalid, "this option has no data")
	}
	h.exports.List(func(name, description string) {
		item := be.AppendUint32(nil, uint32(len(name)))
		item = append(append(item, name...), description...)
		out = answer(out, optList, repServer, item)
	})
	return answer(out, optList, repAck, nil)
}

func (h *Handshake) startTLS(data, out []byte) ([]byte, Verdict, error) {
	switch {
	case len(data) != 0:
		return refuse(out, optStartTLS, repErrInvalid, "this option has no data"), Answered, nil
	case h.tls == TLSActive:
		return refuse(out, optStartTLS, repErrInvalid, "TLS is on already"), Answered, nil
	case h.tls == TLSNone:
		return refuse(out, optStartTLS, repErrPolicy, "this server has no certificate: start it with --tls_cert and --tls_key"), Answered, nil
	}
	return answer(out, optStartTLS, repAck, nil), StartTLS, nil
}

// inform answers INFO and GO.
//
//	| length 4 | name | number 2 | requested kinds of information 2 ... |
func (h *Handshake) inform(option uint32, data, out []byte) ([]byte, Verdict, error) {
	d := decoder{data}
	name := d.text()
	for n := int(d.uint16()); n > 0 && !d.failed(); n-- {
		d.uint16() // all are told
	}
	if d.failed() || len(d.rest) != 0 {
		return refuse(out, option, repErrInvalid, "the request for information is malformed"), Answered, nil
	}
	x, err := h.find(name)
	if err != nil {
		return refuse(out, option, repErrUnknown, err.Error()), Answered, nil
	}
	info := be.AppendUint16(nil, infoExport)
	info = be.AppendUint64(info, x.SizeBytes)
	out = answer(out, option, repInfo, be.AppendUint16(info, x.Flags))
	out = answer(out, option, repInfo, append(be.AppendUint16(nil, infoName), x.Name...))
	if x.Description != "" {
		out = answer(out, option, repInfo, append(be.AppendUint16(nil, infoDescription), x.Description...))
	}
	info = be.AppendUint16(nil, infoBlockSize)
	info = be.AppendUint32(info, x.MinBlock)
	info = be.AppendUint32(info, x.PreferredBlock)
	out = answer(out, option, repInfo, be.AppendUint32(info, x.MaxPayload))
	out = answer(out, option, repAck, nil)
	if option == optInfo {
		return out, Answered, nil
	}
	h.choose(&x)
	return out, Ready, nil
}

// contexts answers LIST_META_CONTEXT and SET_META_CONTEXT.
//
//	| length 4 | export | number 4 | length 4 | query | ...
func (h *Handshake) contexts(option uint32, data, out []byte) []byte {
	d := decoder{data}
	name := d.text()
	n := d.uint32()
	if n > queriesMax {
		return refuse(out, option, repErrTooBig, fmt.Sprintf("at most %d queries", queriesMax))
	}
	wanted := n == 0 && option == optListMeta
	for ; n > 0 && !d.failed(); n-- {
		q := d.text()
		wanted = wanted || q == allocation || q == "base:" && option == optListMeta
	}
	if option == optSetMeta {
		h.meta = false
	}
	switch {
	case d.failed() || len(d.rest) != 0:
		return refuse(out, option, repErrInvalid, "the list of metadata contexts is malformed")
	case option == optSetMeta && !h.session.Structured:
		return refuse(out, option, repErrInvalid, "metadata contexts need structured replies")
	}
	x, err := h.find(name)
	if err != nil {
		return refuse(out, option, repErrUnknown, err.Error())
	}
	if wanted {
		id := uint32(0)
		if option == optSetMeta {
			h.meta, h.metaFor, id = true, x.Name, AllocationID
		}
		out = answer(out, option, repMeta, append(be.AppendUint32(nil, id), allocation...))
	}
	return answer(out, option, repAck, nil)
}

func answer(out []byte, option, kind uint32, data []byte) []byte {
	out = be.AppendUint64(out, replyMagic)
	out = be.AppendUint32(out, option)
	out = be.AppendUint32(out, kind)
	out = be.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

func refuse(out []byte, option, kind uint32, text string) []byte {
	text = strings.ToValidUTF8(text[:min(len(text), NameBytesMax)], "?")
	return answer(out, option, kind, []byte(text))
}

// decoder takes numbers and strings off the data of an option. After a failure
// rest is nil and everything is zero.
type decoder struct{ rest []byte }

// failure is what rest becomes: nil.
func (d *decoder) failed() bool { return d.rest == nil }

func (d *decoder) take(n uint32) []byte {
	if d.rest == nil || uint32(len(d.rest)) < n {
		d.rest = nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

// text is a string with its length before it.
func (d *decoder) text() string {
	n := d.uint32()
	if n > NameBytesMax {
		d.rest = nil
		return ""
	}
	return string(d.take(n))
}
