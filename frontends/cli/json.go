package cli

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object of a result.
type object = map[string]any

// encodeJSON writes a value in one line: keys sorted, separators ", " and ": ",
// floats with 17 digits (spec cli.md §1.1).
func encodeJSON(v any) string {
	var b strings.Builder
	appendJSON(&b, v)
	return b.String()
}

func appendJSON(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case object:
		appendObject(b, v)
	case json.RawMessage:
		appendJSON(b, decodeAny(v))
	case json.Number:
		b.WriteString(v.String())
	case string:
		appendString(b, v)
	case float64:
		b.WriteString(strconv.FormatFloat(v, 'g', 17, 64))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	default:
		appendOther(b, reflect.ValueOf(v))
	}
}

// appendOther writes lists and numbers of named types.
func appendOther(b *strings.Builder, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteString(", ")
			}
			appendJSON(b, v.Index(i).Interface())
		}
		b.WriteByte(']')
	case v.CanInt():
		b.WriteString(strconv.FormatInt(v.Int(), 10))
	case v.CanUint():
		b.WriteString(strconv.FormatUint(v.Uint(), 10))
	default:
		appendString(b, fmt.Sprint(v.Interface()))
	}
}

func appendObject(b *strings.Builder, o object) {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	b.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		appendString(b, name)
		b.WriteString(": ")
		appendJSON(b, o[name])
	}
	b.WriteByte('}')
}

func appendString(b *strings.Builder, s string) {
	const short = `\b` + `\t` + `\n` + `\v` + `\f` + `\r`
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c >= '\b' && c <= '\r' && c != '\v':
			b.WriteString(short[2*(c-'\b') : 2*(c-'\b')+2])
		case c < ' ' || c == '\u2028' || c == '\u2029':
			fmt.Fprintf(b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
}

// decodeAny reads JSON with its numbers as they are written; nil if it is none.
func decodeAny(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}
