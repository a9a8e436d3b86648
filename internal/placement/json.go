package placement

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON as ECMAScript reads and writes it. Values are nil, bool, float64, text,
// []any and object.

// text is a string as UTF-16 code units: it need not be valid, and orders
// differently than UTF-8.
type text []uint16

// object has its members in the order of their names.
type object []member

type member struct {
	name  text
	value any
}

func textFrom(s string) text { return utf16.Encode([]rune(s)) }

// set replaces or adds a member.
func (o *object) set(name string, v any) {
	key := textFrom(name)
	i, found := o.find(key)
	if found {
		(*o)[i].value = v
		return
	}
	*o = slices.Insert(*o, i, member{key, v})
}

// get returns a member; given is false if there is none.
func (o object) get(name string) (v any, given bool) {
	i, found := o.find(textFrom(name))
	if !found {
		return nil, false
	}
	return o[i].value, true
}

func (o *object) remove(name string) {
	if i, found := o.find(textFrom(name)); found {
		*o = slices.Delete(*o, i, i+1)
	}
}

func (o object) find(key text) (int, bool) {
	return slices.BinarySearchFunc(o, key, func(m member, key text) int { return slices.Compare(m.name, key) })
}

// Canonical writes JSON the way it goes into the hash (monitor.md 3.6): keys
// sorted by UTF-16 code units, no white space, the fewest escapes, numbers in
// their shortest form.
func Canonical(data []byte) ([]byte, error) {
	v, err := parseJSON(data)
	if err != nil {
		return nil, err
	}
	return appendJSON(nil, v), nil
}

// parseJSON reads a JSON text. Of members with the same name the last one
// counts.
func parseJSON(data []byte) (any, error) {
	if !json.Valid(data) {
		return nil, fmt.Errorf("not JSON: %.60q", data)
	}
	r := jsonReader{data: data}
	return r.value(), nil
}

// jsonReader walks over a text that is known to be valid.
type jsonReader struct {
	data []byte
	i    int
}

// next skips white space, commas and colons and returns the next byte.
func (r *jsonReader) next() byte {
	for {
		switch c := r.data[r.i]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			r.i++
		default:
			return c
		}
	}
}

func (r *jsonReader) value() any {
	switch r.next() {
	case '{':
		return r.object()
	case '[':
		r.i++
		list := []any{}
		for r.next() != ']' {
			list = append(list, r.value())
		}
		r.i++
		return list
	case '"':
		return r.text()
	case 't':
		r.i += len("true")
		return true
	case 'f':
		r.i += len("false")
		return false
	case 'n':
		r.i += len("null")
		return nil
	}
	start := r.i
	for r.i < len(r.data) && isNumberByte(r.data[r.i]) {
		r.i++
	}
	f, _ := strconv.ParseFloat(string(r.data[start:r.i]), 64) // too big: infinite, as there
	return f
}

func isNumberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

func (r *jsonReader) object() object {
	r.i++
	o := object{}
	for r.next() != '}' {
		name := r.text()
		r.next()
		o = append(o, member{name, r.value()})
	}
	r.i++
	slices.SortStableFunc(o, func(a, b member) int { return slices.Compare(a.name, b.name) })
	kept := o[:0]
	for i, m := range o {
		if i+1 == len(o) || slices.Compare(m.name, o[i+1].name) != 0 {
			kept = append(kept, m)
		}
	}
	return kept
}

// text reads a string. An escape is one code unit, so that halves of pairs
// survive.
func (r *jsonReader) text() text {
	t := text{}
	for r.i++; r.data[r.i] != '"'; {
		if r.data[r.i] == '\\' {
			t = append(t, r.escape())
			continue
		}
		c, size := utf8.DecodeRune(r.data[r.i:])
		t = utf16.AppendRune(t, c)
		r.i += size
	}
	r.i++
	return t
}

func (r *jsonReader) escape() uint16 {
	c := r.data[r.i+1]
	r.i += 2
	switch c {
	case 'u':
		n, _ := strconv.ParseUint(string(r.data[r.i:r.i+4]), 16, 16)
		r.i += 4
		return uint16(n)
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return uint16(c)
}

func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case float64:
		return appendNumber(b, v)
	case text:
		return appendQuoted(b, v)
	case []any:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, item)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, m := range v.(object) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, m.name), ':')
		b = appendJSON(b, m.value)
	}
	return append(b, '}')
}

func appendQuoted(b []byte, t text) []byte {
	b = append(b, '"')
	for i := 0; i < len(t); i++ {
		u := t[i]
		switch {
		case u == '"' || u == '\\':
			b = append(b, '\\', byte(u))
		case u < ' ':
			b = appendControl(b, u)
		case !utf16.IsSurrogate(rune(u)):
			b = utf8.AppendRune(b, rune(u))
		case i+1 < len(t) && utf16.DecodeRune(rune(u), rune(t[i+1])) != utf8.RuneError:
			b = utf8.AppendRune(b, utf16.DecodeRune(rune(u), rune(t[i+1])))
			i++
		default: // half of a pair
			b = fmt.Appendf(b, "\\u%04x", u)
		}
	}
	return append(b, '"')
}

func appendControl(b []byte, u uint16) []byte {
	switch u {
	case '\b':
		return append(b, '\\', 'b')
	case '\t':
		return append(b, '\\', 't')
	case '\n':
		return append(b, '\\', 'n')
	case '\f':
		return append(b, '\\', 'f')
	case '\r':
		return append(b, '\\', 'r')
	}
	return fmt.Appendf(b, "\\u%04x", u)
}

// quoteText is s as a JSON string.
func quoteText(s string) json.RawMessage { return appendQuoted(nil, textFrom(s)) }
