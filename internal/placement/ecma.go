package placement

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Conversions of ECMAScript, which the reference monitor is written in, for
// values of json.go.

// appendNumber writes the shortest decimal form that reads back as f. What is
// not finite is null in JSON.
func appendNumber(b []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(b, "null"...)
	case f == 0:
		return append(b, '0') // also -0
	case abs >= 1e-6 && abs < 1e21:
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, f, 'e', -1, 64)
	if n := len(b); b[n-2] == '0' && (b[n-3] == '-' || b[n-3] == '+') {
		b[n-2] = b[n-1] // e-07 is e-7 there
		b = b[:n-1]
	}
	return b
}

// numberOf is Number(v) of a JSON text; NaN for what cannot be converted.
func numberOf(raw json.RawMessage) float64 {
	v, err := parseJSON(raw)
	if err != nil {
		return math.NaN()
	}
	return number(v)
}

func number(v any) float64 {
	switch v := v.(type) {
	case nil:
		return 0
	case bool:
		if v {
			return 1
		}
		return 0
	case float64:
		return v
	case object:
		return math.NaN()
	}
	return numberOfText(textOf(v)) // also a list, by way of its text
}

// isSpace is what Number ignores around a text.
func isSpace(r rune) bool { return r == 0xfeff || r != 0x85 && unicode.IsSpace(r) }

func numberOfText(s string) float64 {
	s = strings.TrimFunc(s, isSpace)
	if s == "" {
		return 0
	}
	if len(s) > 2 && s[0] == '0' {
		switch s[1] | 0x20 {
		case 'x':
			return wholeNumber(s[2:], 16)
		case 'o':
			return wholeNumber(s[2:], 8)
		case 'b':
			return wholeNumber(s[2:], 2)
		}
	}
	switch strings.TrimPrefix(s, "+") {
	case "Infinity":
		return math.Inf(1)
	case "-Infinity":
		if s[0] == '-' {
			return math.Inf(-1)
		}
	}
	if strings.Trim(s, "0123456789+-.eE") != "" {
		return math.NaN()
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return math.NaN()
	}
	return f
}

func wholeNumber(digits string, base int) float64 {
	n, ok := new(big.Int).SetString(digits, base)
	if !ok || digits[0] == '-' || digits[0] == '+' {
		return math.NaN()
	}
	f, _ := new(big.Float).SetInt(n).Float64()
	return f
}

// textOf is String(v).
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case float64:
		switch {
		case math.IsInf(v, 1):
			return "Infinity"
		case math.IsInf(v, -1):
			return "-Infinity"
		case math.IsNaN(v):
			return "NaN"
		}
		return string(appendNumber(nil, v))
	case text:
		return string(utf16.Decode(v))
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			if item != nil {
				parts[i] = textOf(item)
			}
		}
		return strings.Join(parts, ",")
	}
	return "[object Object]"
}

// truthy is Boolean(v).
func truthy(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0 && !math.IsNaN(v)
	case text:
		return len(v) > 0
	}
	return true
}
