package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"unicode/utf8"
)

// FieldError says which field of which key is wrong, and what is allowed.
type FieldError struct {
	Key   string // full key
	Field string // path inside the value, such as "items.1.5.osd_set[2]"; "" = the whole value
	Value string // what is there (shortened)
	Want  string // what may be there
}

// Error names the key and the field.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("etcd key %s: the value is %s, it must be %s", e.Key, e.Value, e.Want)
	}
	return fmt.Sprintf("etcd key %s: field %s is %s, it must be %s", e.Key, e.Field, e.Value, e.Want)
}

// value is one JSON value inside a text that was found valid, without white
// space around it. Empty = nothing, which reads like null.
type value []byte

type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

func (v value) kind() kind {
	if len(v) == 0 {
		return kindNull
	}
	switch v[0] {
	case 'n':
		return kindNull
	case 't', 'f':
		return kindBool
	case '"':
		return kindString
	case '[':
		return kindArray
	case '{':
		return kindObject
	}
	return kindNumber
}

// text is the content of a string value.
func (v value) text() string { return string(unquote(v)) }

// unquote returns the content of a JSON string. It is part of v, unless v
// contains escapes.
func unquote(v value) []byte {
	inner := v[1 : len(v)-1]
	for _, c := range inner {
		if c == '\\' {
			var s string
			if json.Unmarshal(v, &s) != nil {
				return nil // cannot happen: the text is valid
			}
			return []byte(s)
		}
	}
	return inner
}

const (
	maxErrors    = 16 // reported per value
	maxErrorText = 60 // bytes of a wrong value shown in an error
)

// decoder reads one value of etcd and collects what is wrong with it. Its
// methods read the field it stands at.
type decoder struct {
	key    string
	root   value
	path   []step
	errs   []error
	unsaid int // errors beyond maxErrors
}

// step is a member name or (nil name) an index.
type step struct {
	name  []byte
	index int
}

// open checks that data is JSON. If not, root is null and the error is noted.
func open(key string, data []byte) *decoder {
	d := &decoder{key: key}
	start := skipSpace(data, 0)
	if start == len(data) {
		return d
	}
	if !json.Valid(data) {
		var raw json.RawMessage
		err := json.Unmarshal(data, &raw)
		d.errs = append(d.errs, &FieldError{key, "", shorten(data), fmt.Sprintf("JSON (%v)", err)})
		return d
	}
	d.root = value(data[start:skipValue(data, start)])
	return d
}

func (d *decoder) err() error {
	if d.unsaid > 0 {
		d.errs = append(d.errs, fmt.Errorf("etcd key %s: and %d more errors", d.key, d.unsaid))
		d.unsaid = 0
	}
	return errors.Join(d.errs...)
}

func (d *decoder) errorCount() int { return len(d.errs) + d.unsaid }

// fail notes that v, at the current field, is not what it must be.
func (d *decoder) fail(v value, want string) {
	if len(d.errs) == maxErrors {
		d.unsaid++
		return
	}
	d.errs = append(d.errs, &FieldError{d.key, d.field(), shorten(v), want})
}

func (d *decoder) field() string {
	var b []byte
	for _, s := range d.path {
		if s.name == nil {
			b = append(b, '[')
			b = strconv.AppendInt(b, int64(s.index), 10)
			b = append(b, ']')
			continue
		}
		if b != nil {
			b = append(b, '.')
		}
		b = append(b, s.name...)
	}
	return string(b)
}

func shorten(v []byte) string {
	if len(v) > maxErrorText {
		end := maxErrorText
		for end > 0 && !utf8.RuneStart(v[end]) {
			end--
		}
		return string(v[:end]) + "..."
	}
	if len(v) == 0 {
		return "missing"
	}
	return string(v)
}

// object yields the members of v in their order and keeps the decoder's path.
// Anything but an object or null is an error and yields nothing. The name is
// valid until the next step, unless it is copied.
func (d *decoder) object(v value) iter.Seq2[[]byte, value] {
	return func(yield func([]byte, value) bool) {
		if k := v.kind(); k != kindObject {
			if k != kindNull {
				d.fail(v, "a JSON object")
			}
			return
		}
		depth := len(d.path)
		d.path = append(d.path, step{})
		for i := 1; ; {
			i = skipSpace(v, i)
			if v[i] == '}' {
				break
			}
			if v[i] == ',' {
				i = skipSpace(v, i+1)
			}
			end := skipValue(v, i)
			name := unquote(v[i:end])
			i = skipSpace(v, skipSpace(v, end)+1)
			end = skipValue(v, i)
			d.path[depth] = step{name: name}
			if !yield(name, v[i:end]) {
				break
			}
			i = end
		}
		d.path = d.path[:depth]
	}
}

// array yields the items of v and keeps the decoder's path. Anything but an
// array or null is an error and yields nothing.
func (d *decoder) array(v value) iter.Seq2[int, value] {
	return func(yield func(int, value) bool) {
		if k := v.kind(); k != kindArray {
			if k != kindNull {
				d.fail(v, "a list")
			}
			return
		}
		depth := len(d.path)
		d.path = append(d.path, step{})
		n := 0
		for i := 1; ; n++ {
			i = skipSpace(v, i)
			if v[i] == ']' {
				break
			}
			if v[i] == ',' {
				i = skipSpace(v, i+1)
			}
			end := skipValue(v, i)
			d.path[depth] = step{index: n}
			if !yield(n, v[i:end]) {
				break
			}
			i = end
		}
		d.path = d.path[:depth]
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the end of the value that starts at i. b is valid JSON.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; i < len(b); {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			i++
			if depth == 0 {
				return i
			}
		}
		return i
	}
	for i < len(b) {
		switch b[i] {
		case ',', ']', '}', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}
