package schema

import (
	"bytes"
	"encoding/json"
	"iter"
	"math"
	"slices"
	"strconv"

	"vitastor/internal/meta"
)

// Object is a JSON object as it is stored: members in their order, values
// verbatim but without white space. Read-modify-write goes through it, so that
// what we do not know is kept. The zero value is an empty object. Not safe for
// concurrent changes.
type Object struct{ members []member }

type member struct {
	name  string
	value json.RawMessage
}

// DecodeObject reads any JSON object; nothing and null are an empty one.
func DecodeObject(key string, data []byte) (Object, error) {
	d := open(key, data)
	return d.keep(d.root), d.err()
}

// keep copies v. Of members with the same name the last one counts.
func (d *decoder) keep(v value) Object {
	var o Object
	var index map[string]int
	for name, item := range d.object(v) {
		if index == nil {
			index = make(map[string]int)
		}
		i, seen := index[string(name)]
		if !seen {
			i = len(o.members)
			index[string(name)] = i
			o.members = append(o.members, member{name: string(name)})
		}
		o.members[i].value = compact(item)
	}
	return o
}

func compact(v value) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return json.RawMessage("null") // cannot happen: v is valid
	}
	return b.Bytes()
}

// Len is the number of members.
func (o *Object) Len() int { return len(o.members) }

// Get returns the member as stored, or nil. The result must not be changed.
func (o *Object) Get(name string) json.RawMessage {
	if i := o.find(name); i >= 0 {
		return o.members[i].value
	}
	return nil
}

func (o *Object) find(name string) int {
	return slices.IndexFunc(o.members, func(m member) bool { return m.name == name })
}

// All yields the members in their order.
func (o *Object) All() iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		for _, m := range o.members {
			if !yield(m.name, m.value) {
				return
			}
		}
	}
}

// Set replaces a member, or adds it at the end. raw must be valid JSON.
func (o *Object) Set(name string, raw json.RawMessage) {
	if i := o.find(name); i >= 0 {
		o.members[i].value = raw
		return
	}
	o.members = append(o.members, member{name, raw})
}

// SetString is Set with a string.
func (o *Object) SetString(name, s string) { o.Set(name, appendString(nil, s)) }

// SetUint is Set with a number.
func (o *Object) SetUint(name string, n uint64) { o.Set(name, strconv.AppendUint(nil, n, 10)) }

// SetStrings is Set with a list of strings.
func (o *Object) SetStrings(name string, list []string) {
	var w writer
	w.strs(list)
	o.Set(name, w.buf)
}

// Delete removes a member if it exists.
func (o *Object) Delete(name string) {
	if i := o.find(name); i >= 0 {
		o.members = slices.Delete(o.members, i, i+1)
	}
}

// Clone is a copy with members of its own.
func (o *Object) Clone() Object { return Object{slices.Clone(o.members)} }

// Encode is the object without white space, members in their order.
func (o *Object) Encode() []byte {
	var w writer
	w.open('{')
	w.members(o)
	w.close('}')
	return w.buf
}

// writer builds JSON text. It puts the commas by looking at the last byte,
// which is safe because every string ends in a quote.
type writer struct{ buf []byte }

func (w *writer) comma() {
	if n := len(w.buf); n > 0 {
		switch w.buf[n-1] {
		case '{', '[', ':':
		default:
			w.buf = append(w.buf, ',')
		}
	}
}

func (w *writer) open(c byte) {
	w.comma()
	w.buf = append(w.buf, c)
}

func (w *writer) close(c byte) { w.buf = append(w.buf, c) }

// name starts a member; its value must follow.
func (w *writer) name(s string) {
	w.comma()
	w.buf = append(appendString(w.buf, s), ':')
}

// id starts a member that is named by a number.
func (w *writer) id(n uint64) {
	w.comma()
	w.buf = append(w.buf, '"')
	w.buf = append(strconv.AppendUint(w.buf, n, 10), '"', ':')
}

func (w *writer) str(s string) {
	w.comma()
	w.buf = appendString(w.buf, s)
}

func (w *writer) uint(n uint64) {
	w.comma()
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

// uintString writes a number as a decimal string.
func (w *writer) uintString(n uint64) {
	w.comma()
	w.buf = append(w.buf, '"')
	w.buf = append(strconv.AppendUint(w.buf, n, 10), '"')
}

func (w *writer) bool(b bool) {
	w.comma()
	w.buf = strconv.AppendBool(w.buf, b)
}

func (w *writer) raw(r json.RawMessage) {
	w.comma()
	w.buf = append(w.buf, r...)
}

// float writes the shortest form that ECMAScript would write.
func (w *writer) float(f float64) {
	w.comma()
	abs := math.Abs(f)
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		w.buf = append(w.buf, "null"...)
	case f == 0:
		w.buf = append(w.buf, '0')
	case abs >= 1e-6 && abs < 1e21:
		w.buf = strconv.AppendFloat(w.buf, f, 'f', -1, 64)
	default:
		w.buf = strconv.AppendFloat(w.buf, f, 'e', -1, 64)
		if n := len(w.buf); n >= 4 && w.buf[n-4] == 'e' && w.buf[n-2] == '0' {
			w.buf[n-2] = w.buf[n-1] // e-07 is e-7 there
			w.buf = w.buf[:n-1]
		}
	}
}

func (w *writer) strs(list []string) {
	w.open('[')
	for _, s := range list {
		w.str(s)
	}
	w.close(']')
}

// osds writes OSD numbers as numbers.
func (w *writer) osds(list []meta.OSDNum) {
	w.open('[')
	for _, o := range list {
		w.uint(uint64(o))
	}
	w.close(']')
}

// osdStrings writes OSD numbers the way the monitor does. Compat: decimal
// strings, and the number 0 for nobody. The string "0" would be a real OSD to the reference.
func (w *writer) osdStrings(list []meta.OSDNum) {
	w.open('[')
	for _, o := range list {
		w.osdString(o)
	}
	w.close(']')
}

func (w *writer) osdString(o meta.OSDNum) {
	if o == 0 {
		w.uint(0)
	} else {
		w.uintString(uint64(o))
	}
}

func (w *writer) members(o *Object) {
	for name, v := range o.All() {
		w.name(name)
		w.raw(v)
	}
}

const hexDigits = "0123456789abcdef"

// appendString quotes s with the fewest escapes, as ECMAScript does. Bytes that
// are not UTF-8 stay as they are.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		default:
			b = appendControl(b, c)
		}
	}
	return append(b, '"')
}

func appendControl(b []byte, c byte) []byte {
	switch c {
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}
