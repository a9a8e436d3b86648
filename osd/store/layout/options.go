package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Options are the parameters of an OSD by name, as in the disk superblock, on
// the command line and in etcd. One and the same parameter may be a string, a
// number or a boolean, depending on who wrote it; readers accept all of them.
// Values are string, bool, json.Number, nil, []any and map[string]any.
type Options map[string]any

// ParseOptions reads a JSON object. Numbers keep their text.
func ParseOptions(text []byte) (Options, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var o Options
	if err := d.Decode(&o); err != nil {
		return nil, fmt.Errorf("parameters are not a JSON object: %w", err)
	}
	if o == nil {
		return nil, fmt.Errorf("parameters are null, expected a JSON object")
	}
	if len(bytes.TrimLeft(text[d.InputOffset():], " \t\r\n\x00")) != 0 {
		return nil, fmt.Errorf("parameters: extra bytes behind the JSON object")
	}
	return o, nil
}

// JSON is the text form of the tools: one line, keys sorted, separated by
// ", " and ": ".
func (o Options) JSON() []byte { return appendJSON(nil, map[string]any(o)) }

func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			b = appendSeparator(b, i)
			b = append(appendScalar(b, k), ": "...)
			b = appendJSON(b, v[k])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, x := range v {
			b = appendJSON(appendSeparator(b, i), x)
		}
		return append(b, ']')
	}
	return appendScalar(b, v)
}

func appendSeparator(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ", "...)
	}
	return b
}

func appendScalar(b []byte, v any) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return append(b, "null"...) // channels, NaN...: not a parameter
	}
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// Text is a value the way it is passed on a command line: strings as they
// are, other kinds as JSON; "" if absent.
func (o Options) Text(key string) string {
	switch v := o[key].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return string(appendJSON(nil, v))
	}
}

// Flag is a boolean: true, "true", "yes", "1" and 1 against false, "false",
// "no", "0", 0, "" and absence.
func (o Options) Flag(key string) (bool, error) {
	switch strings.ToLower(o.Text(key)) {
	case "true", "yes", "1":
		return true, nil
	case "", "false", "no", "0":
		return false, nil
	}
	return false, fmt.Errorf("%s is %q, must be true or false", key, o.Text(key))
}

// Size is a number of bytes, with an optional suffix k, m, g or t (powers of
// 1024); absent or empty gives absent.
func (o Options) Size(key string, absent uint64) (uint64, error) {
	text := o.Text(key)
	if text == "" {
		return absent, nil
	}
	v, err := ParseSize(text)
	if err != nil {
		return 0, fmt.Errorf("%s is %q: %w", key, text, err)
	}
	return v, nil
}

// size32 is Size for values that fit 32 bits.
func (o Options) size32(key string, absent uint32) (uint32, error) {
	v, err := o.Size(key, uint64(absent))
	if err == nil && v > math.MaxUint32 {
		err = fmt.Errorf("%s is %d, must be below 4 GiB", key, v)
	}
	return uint32(v), err
}

// ParseSize reads a number of bytes: decimal, 0x hexadecimal or 0 octal, one
// optional suffix k, m, g, t in any case. A fraction is cut off.
func ParseSize(text string) (uint64, error) {
	digits, shift := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgt", text[n-1]|0x20); i >= 0 {
			digits, shift = text[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(digits, 0, 64)
	if err != nil || strings.ContainsRune(digits, '_') {
		f, ferr := strconv.ParseFloat(digits, 64)
		if shift != 0 || ferr != nil || !(f >= 0 && f < 1<<63) || strings.ContainsAny(digits, "_xX") {
			return 0, fmt.Errorf("not a size: expected a whole number with an optional suffix k, m, g or t")
		}
		return uint64(f), nil
	}
	if v > math.MaxUint64>>shift {
		return 0, fmt.Errorf("the size does not fit 64 bits")
	}
	return v << shift, nil
}

func jsonNumber(v uint64) json.Number { return json.Number(strconv.FormatUint(v, 10)) }
