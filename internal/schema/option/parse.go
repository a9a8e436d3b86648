package option

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"vitastor/internal/schema"
)

// Parse reads one value: any spelling that some program of the cluster
// accepts. nil = not given (JSON null; "" for what is not a string or a bool).
// note, if not "", says that the value is outside of what is allowed and what
// is used instead. The error says what is allowed.
func (o *Option) Parse(raw json.RawMessage) (value any, note string, err error) {
	text, isString := stringOf(raw)
	want := ""
	switch {
	case string(raw) == "null" || len(raw) == 0:
		return nil, "", nil
	case o.Kind.IsBool():
		value, want = parseBool(raw, text, isString)
	case isString && text == "" && o.Kind != String && o.Kind != Path:
		return nil, "", nil
	case o.Kind == Float:
		value, want = parseFloat(raw, text, isString)
	case o.Kind == Interval:
		value, want = parseInterval(text, isString)
	case o.Kind >= String:
		value, want = o.parseText(raw, text, isString)
	default:
		value, want = o.parseInt(raw, text, isString)
	}
	if want == "" && value != nil && o.Check != nil {
		want = o.Check(value)
	}
	if want != "" {
		return nil, "", fmt.Errorf("%s", want)
	}
	value, note = o.limit(value)
	return value, note, nil
}

// stringOf is the content of a JSON string.
func stringOf(raw json.RawMessage) (text string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return text, json.Unmarshal(raw, &text) == nil
}

const wantBool = `true or false (or "yes", "no", 1, 0)`

// parseBool accepts the union of all spellings of config.md §3.
func parseBool(raw json.RawMessage, text string, isString bool) (any, string) {
	if !isString {
		text = string(raw)
	}
	switch text {
	case "true", "yes":
		return true, ""
	case "false", "no", "":
		return false, ""
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !isNumber(text) {
		return nil, wantBool
	}
	return f != 0, ""
}

// isNumber tells that text has the characters of a decimal number, so that
// strconv's other forms (inf, 0x1p-2, 1_000) are not accepted.
func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789+-.eE") == ""
}

func parseFloat(raw json.RawMessage, text string, isString bool) (any, string) {
	if !isString {
		text = string(raw)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !isNumber(text) || f < 0 {
		return nil, "a number that is not negative, such as 0.95"
	}
	return f, ""
}

// parseInterval does not accept numbers. Compat: reference programs ignore
// them here, and 30 could be meant as days.
func parseInterval(text string, isString bool) (any, string) {
	d, err := schema.ParseInterval(text)
	if !isString || err != nil || d > maxDuration {
		return nil, `a string: a number with s, m, h, d, M or y, such as "30d"`
	}
	return d, ""
}

// parseInt reads the kinds Int, Bytes and Size, and numbers of time units.
func (o *Option) parseInt(raw json.RawMessage, text string, isString bool) (any, string) {
	var n int64
	var ok bool
	switch {
	case !isString:
		n, ok = parseIntNumber(string(raw))
	case o.Kind == Bytes || o.Kind == Size:
		n, ok = parseSize(text, o.Kind == Size)
	default:
		n, ok = parseDecimal(text)
	}
	low, high := o.bounds()
	if !ok || n < low || n > high {
		return nil, o.wantInt(low, high)
	}
	if unit := o.Kind.unit(); unit != 0 {
		return time.Duration(n) * unit, ""
	}
	return n, ""
}

// maxDuration is 68 years: sums of a few times cannot overflow.
const maxDuration = math.MaxInt32 * time.Second

// bounds are what is accepted at all; Min and Max are applied afterwards.
func (o *Option) bounds() (low, high int64) {
	switch {
	case o.Kind.unit() != 0:
		high = int64(maxDuration / o.Kind.unit())
	case o.Kind == Bytes || o.Kind == Size || o.Max > math.MaxInt32:
		high = 1 << 62
	default:
		high = math.MaxInt32
	}
	return int64(min(o.Min, 0)), high
}

func (o *Option) wantInt(low, high int64) string {
	if o.Min > 0 {
		low = int64(o.Min)
	}
	if o.Max != 0 {
		high = int64(o.Max)
	}
	if o.Kind == Bytes || o.Kind == Size {
		return fmt.Sprintf("a number of bytes from %d to %d, perhaps with k, m, g or t (powers of 1024)", low, high)
	}
	unit := ""
	switch o.Kind {
	case Seconds, Millis, Micros:
		unit = " of " + map[Kind]string{Seconds: "seconds", Millis: "milliseconds", Micros: "microseconds"}[o.Kind]
	}
	return fmt.Sprintf("a whole number%s from %d to %d", unit, low, high)
}

// parseIntNumber cuts off the fraction of a JSON number. Exact within 64 bits
// if it is written without an exponent.
func parseIntNumber(raw string) (int64, bool) {
	whole, fraction, _ := strings.Cut(raw, ".")
	if strings.ContainsAny(raw, "eE") {
		f, err := strconv.ParseFloat(raw, 64)
		if err != nil || math.Abs(f) >= 1<<63 {
			return 0, false
		}
		return int64(f), true
	}
	if !isDigits(fraction) {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	return n, err == nil
}

func isDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }

func parseDecimal(text string) (int64, bool) {
	if !isDigits(strings.TrimPrefix(text, "-")) {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// parseSize reads a number of bytes with an optional suffix. Hexadecimal and
// octal prefixes count where the reference honours them (prefixes).
func parseSize(text string, prefixes bool) (int64, bool) {
	digits, shift := text, 0
	if i := strings.IndexByte("kmgt", text[len(text)-1]|0x20); i >= 0 {
		digits, shift = text[:len(text)-1], 10*(i+1)
	}
	number, negative := strings.CutPrefix(digits, "-")
	base := 10
	if prefixes && len(number) > 1 && number[0] == '0' {
		base, number = 8, number[1:]
		if number[0]|0x20 == 'x' {
			base, number = 16, number[1:]
		}
	}
	n, err := strconv.ParseUint(number, base, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, false
	}
	if negative {
		return -int64(n << shift), true
	}
	return int64(n << shift), true
}

// parseText reads strings, lists and objects. Compat: what is not a string in
// a superblock arrives on the command line as JSON text.
func (o *Option) parseText(raw json.RawMessage, text string, isString bool) (any, string) {
	switch o.Kind {
	case List, Networks:
		if isString && strings.HasPrefix(text, "[") {
			raw, isString = json.RawMessage(text), false
		}
		return o.parseList(raw, text, isString)
	case Object:
		if isString {
			raw = json.RawMessage(text)
		}
		return parseObject(raw)
	}
	if !isString {
		return nil, o.wantString()
	}
	if o.Kind == Enum && !slices.Contains(o.Choices, text) {
		return nil, o.wantString()
	}
	return text, ""
}

func (o *Option) wantString() string {
	switch o.Kind {
	case Enum:
		return "one of " + strings.Join(o.Choices, ", ")
	case Path:
		return "a path"
	}
	return "a string"
}

func parseObject(raw json.RawMessage) (any, string) {
	object, err := schema.DecodeObject("", raw)
	if err != nil {
		return nil, "a JSON object"
	}
	return object, ""
}

func (o *Option) parseList(raw json.RawMessage, text string, isString bool) (any, string) {
	items, want := []string{text}, `a list of strings, or a string with commas`
	if o.Kind == Networks {
		want = `a network such as "10.0.0.0/8" or "fd00::/8", or a list of them`
	}
	if !isString {
		if items = nil; json.Unmarshal(raw, &items) != nil {
			return nil, want
		}
	}
	var list []string
	for _, item := range items {
		for one := range strings.SplitSeq(item, ",") {
			if one = strings.TrimSpace(one); one != "" {
				list = append(list, one)
			}
		}
	}
	if o.Kind != Networks {
		return list, ""
	}
	var networks []netip.Prefix
	for _, one := range list {
		network, err := netip.ParsePrefix(one)
		if err != nil {
			return nil, want
		}
		networks = append(networks, network)
	}
	return networks, ""
}

// limit applies ZeroRule, Min and Max.
func (o *Option) limit(v any) (limited any, note string) {
	f, unit, ok := magnitude(v, o.Kind)
	if !ok {
		return v, ""
	}
	if f == 0 && o.Zero == ZeroKept {
		return v, ""
	}
	if f == 0 && o.Zero == ZeroDefault {
		if o.Default == "0" || o.Default == "" && o.derive == nil {
			return v, ""
		}
		return nil, "0 means the default here"
	}
	limit, word := o.Min, "less"
	switch {
	case o.Max != 0 && f > o.Max:
		limit, word = o.Max, "more"
	case f >= o.Min:
		return v, ""
	}
	shown := strconv.FormatFloat(limit, 'f', -1, 64)
	if o.OutsideDefault {
		return nil, fmt.Sprintf("%s than %s, the default is used", word, shown)
	}
	note = fmt.Sprintf("%s than %s, which is used instead", word, shown)
	switch v.(type) {
	case float64:
		return limit, note
	case time.Duration:
		return time.Duration(limit) * unit, note
	}
	return int64(limit), note
}

// magnitude is a number in the unit of its kind.
func magnitude(v any, k Kind) (f float64, unit time.Duration, ok bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), 0, true
	case float64:
		return v, 0, true
	case time.Duration:
		if unit = k.unit(); k == Interval {
			unit = time.Second
		}
		return float64(v / unit), unit, true
	}
	return 0, 0, false
}

func oneOf(allowed ...int64) Check {
	return func(v any) string {
		if slices.Contains(allowed, v.(int64)) {
			return ""
		}
		text := strings.Trim(fmt.Sprint(allowed), "[]")
		return "one of " + strings.ReplaceAll(text, " ", ", ")
	}
}

// powerOfTwo lets 0 through: it stands for the default.
func powerOfTwo(low, high int64) Check {
	return func(v any) string {
		if n := v.(int64); n == 0 || n >= low && n <= high && n&(n-1) == 0 {
			return ""
		}
		return fmt.Sprintf("a power of two from %d to %d", low, high)
	}
}

func multipleOf512(v any) string {
	if n := v.(int64); n%512 == 0 && n <= schema.MaxBlockBytes {
		return ""
	}
	return fmt.Sprintf("a multiple of 512, at most %d", schema.MaxBlockBytes)
}

func positive(v any) string {
	if v.(int64) > 0 {
		return ""
	}
	return "a number from 1"
}

func port(v any) string {
	if v.(int64) <= math.MaxUint16 {
		return ""
	}
	return "a port from 1 to 65535 (0: the default)"
}
