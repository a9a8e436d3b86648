package schema

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/meta"
)

// uint reads a number field by the rule of etcd.md 1.1 and config.md §3.
// Values above limit are an error.
func (d *decoder) uint(v value, limit uint64) uint64 {
	n, ok := uint64(0), true
	switch v.kind() {
	case kindNumber:
		n, ok = truncate(string(v))
	case kindString:
		n, ok = parseUintText(v.text())
	}
	if !ok || n > limit {
		d.fail(v, fmt.Sprintf("a whole number from 0 to %d", limit))
		return 0
	}
	return n
}

func (d *decoder) uint64(v value) uint64   { return d.uint(v, math.MaxUint64) }
func (d *decoder) osd(v value) meta.OSDNum { return meta.OSDNum(d.uint64(v)) }

// parseUintText reads a number written as a string. Compat: text after the
// number makes it 0 (etcd.md 1.1); text instead of a number, a negative one or one that needs more
// than 64 bits is not ok.
func parseUintText(s string) (n uint64, ok bool) {
	if !startsWithNumber(s) {
		return 0, false
	}
	if strings.Trim(strings.TrimPrefix(s, "-"), "0123456789") != "" {
		return 0, true
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

func startsWithNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	return s != "" && s[0] >= '0' && s[0] <= '9'
}

// truncate returns a JSON number without its fraction, exactly: 64-bit numbers
// do not survive float64. Not ok: below 0 or above 64 bits.
func truncate(s string) (n uint64, ok bool) {
	mantissa, exponent := s, int64(0)
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		// An exponent out of range saturates, and decides below.
		exponent, _ = strconv.ParseInt(s[i+1:], 10, 32)
	}
	unsigned := strings.TrimPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(unsigned, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return 0, true
	}
	// The value is 0.digits * 10^point.
	point := int64(len(digits)-len(fraction)) + exponent
	switch {
	case point <= 0:
		return 0, true
	case point > 20 || len(unsigned) < len(mantissa):
		return 0, false
	case point < int64(len(digits)):
		digits = digits[:point]
	default:
		digits += strings.Repeat("0", int(point)-len(digits))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// bytes reads a byte count. Other than uint it accepts a size suffix: k, m, g
// or t. suffixed tells that one was used: reference programs read that as 0.
func (d *decoder) bytes(v value, limit uint64) (n uint64, suffixed bool) {
	if v.kind() != kindString {
		return d.uint(v, limit), false
	}
	s := v.text()
	digits := strings.TrimLeft(s, "0123456789")
	shift := 10 * (1 + strings.Index("kmgt", strings.ToLower(digits)))
	if len(digits) != 1 || shift == 0 || len(s) == 1 {
		return d.uint(v, limit), false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
	if err != nil || n > limit>>shift {
		d.fail(v, fmt.Sprintf("a size of at most %d bytes", limit))
		return 0, true
	}
	return n << shift, true
}

// float reads a number with a fraction.
func (d *decoder) float(v value) float64 {
	text := string(v)
	switch v.kind() {
	case kindNumber:
	case kindString:
		text = v.text()
		if !startsWithNumber(text) {
			d.fail(v, "a number")
			return 0
		}
		if strings.Trim(text, "0123456789+-.eE") != "" {
			return 0
		}
	default:
		return 0
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d.fail(v, "a number")
		return 0
	}
	return f
}

// bool accepts every documented spelling (config.md §3, kinds A to J).
func (d *decoder) bool(v value) bool {
	switch v.kind() {
	case kindNull:
		return false
	case kindBool:
		return v[0] == 't'
	case kindNumber:
		return strings.Trim(mantissaOf(string(v)), "-0.") != ""
	case kindString:
		switch s := v.text(); s {
		case "true", "yes":
			return true
		case "false", "no", "":
			return false
		default:
			if n, err := strconv.ParseUint(s, 10, 64); err == nil {
				return n != 0
			}
		}
	}
	d.fail(v, `true or false (or "yes", "no", "1", "0")`)
	return false
}

func mantissaOf(number string) string {
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		return number[:i]
	}
	return number
}

// str reads a string; null is "".
func (d *decoder) str(v value) string {
	switch v.kind() {
	case kindNull:
		return ""
	case kindString:
		return v.text()
	}
	d.fail(v, "a string")
	return ""
}

// strs reads a list of strings; a non-empty string is a list of one.
func (d *decoder) strs(v value) []string {
	if v.kind() == kindString {
		if s := v.text(); s != "" {
			return []string{s}
		}
		return nil
	}
	var list []string
	for _, item := range d.array(v) {
		list = append(list, d.scalar(item))
	}
	return list
}

// scalar reads a string, or the text of a number or bool.
func (d *decoder) scalar(v value) string {
	switch v.kind() {
	case kindNumber, kindBool:
		return string(v)
	}
	return d.str(v)
}

// osds appends the numbers of a list to dst.
func (d *decoder) osds(dst []meta.OSDNum, v value) []meta.OSDNum {
	for _, item := range d.array(v) {
		dst = append(dst, d.osd(item))
	}
	return dst
}

// id parses a member name as a decimal id without leading zeros, or reports it.
func id[T ~uint32 | ~uint64](d *decoder, name []byte, limit uint64, out *T) bool {
	if parseID(string(name), limit, out) {
		return true
	}
	d.fail(value(name), fmt.Sprintf("named by a number from 1 to %d without leading zeros", limit))
	return false
}

func poolID(d *decoder, name []byte) (p meta.PoolID, ok bool) {
	ok = id(d, name, uint64(meta.MaxPoolID), &p)
	return p, ok
}

// ParseInterval reads a time of the configuration: a whole number with a
// suffix s, m (minute), h, d, M (30 days) or y (365 days); without one, seconds.
// Only m and M differ by case.
func ParseInterval(s string) (time.Duration, error) {
	digits := strings.TrimLeft(s, "0123456789")
	unit, ok := intervalUnits[digits]
	n, err := strconv.ParseUint(s[:len(s)-len(digits)], 10, 64)
	if !ok || err != nil || n > uint64(math.MaxInt64/unit) {
		return 0, fmt.Errorf("%q is not a time: use a number with s, m, h, d, M or y, such as 30d", s)
	}
	return time.Duration(n) * unit, nil
}

const day = 24 * time.Hour

var intervalUnits = map[string]time.Duration{
	"": time.Second, "s": time.Second, "S": time.Second, "m": time.Minute,
	"h": time.Hour, "H": time.Hour, "d": day, "D": day,
	"M": 30 * day, "y": 365 * day, "Y": 365 * day,
}

// jsNumber is ECMAScript's Number(v); NaN for what it cannot convert.
// Compat: the reference monitor applies it to reweight (monitor.md 3.1).
func jsNumber(v value) float64 {
	switch v.kind() {
	case kindNull:
		return 0
	case kindBool:
		if v[0] == 't' {
			return 1
		}
		return 0
	case kindNumber:
		f, _ := strconv.ParseFloat(string(v), 64) // too big: Inf, as there
		return f
	case kindString:
		return jsNumberText(v.text())
	case kindArray:
		return jsNumberArray(v)
	}
	return math.NaN()
}

// jsNumberArray follows the conversion of a list by way of its text: an empty
// one is 0, one of a single item is that item, unless it is a bool.
func jsNumberArray(v value) float64 {
	var items []value
	for _, item := range (&decoder{}).array(v) {
		items = append(items, item)
	}
	switch {
	case len(items) == 0:
		return 0
	case len(items) == 1 && items[0].kind() != kindBool:
		return jsNumber(items[0])
	}
	return math.NaN()
}

func jsNumberText(s string) float64 {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	if len(s) > 2 && s[0] == '0' && strings.IndexByte("xXoObB", s[1]) >= 0 {
		if n, err := strconv.ParseUint(strings.ReplaceAll(s, "_", "?"), 0, 64); err == nil {
			return float64(n)
		}
		return math.NaN()
	}
	if strings.Trim(s, "0123456789+-.eE") != "" {
		return math.NaN() // "Infinity" ends up as 1 just like NaN
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return math.NaN()
	}
	return f
}
