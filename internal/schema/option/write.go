package option

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"vitastor/internal/schema"
)

// JSON writes a value (of the Go type that the kind stands for) for the
// configuration file, etcd or the superblock, in a form that reference
// programs read as meant. Store it under WriteName.
func (o *Option) JSON(v any) json.RawMessage {
	switch v := v.(type) {
	case nil:
		return json.RawMessage("null")
	case time.Duration:
		if unit := o.Kind.unit(); unit != 0 {
			return strconv.AppendInt(nil, int64(v/unit), 10)
		}
		return quote(formatInterval(v))
	case string:
		return quote(v)
	case []netip.Prefix:
		texts := make([]string, len(v))
		for i, network := range v {
			texts[i] = network.String()
		}
		return list(texts)
	case []string:
		return list(v)
	case schema.Object:
		return v.Encode()
	}
	raw, err := json.Marshal(v) // bool, int64, float64
	if err != nil {
		return json.RawMessage("null") // NaN and Inf: Parse never returns them
	}
	return raw
}

// Arg writes a value for the command line of a reference program. Not ok:
// there is no such form, so leave it out if it is the default, or put it into
// the configuration file.
func (o *Option) Arg(v any) (text string, ok bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case bool:
		return o.boolArg(v)
	case string:
		return v, true
	case []string:
		if len(v) == 1 {
			return v[0], true
		}
		return join(v), o.Name == "etcd_address" && len(v) > 0
	case []netip.Prefix:
		if len(v) == 1 {
			return v[0].String(), true
		}
		return "", false
	}
	raw := o.JSON(v)
	if text, ok := stringOf(raw); ok {
		return text, true
	}
	return string(raw), true
}

func (o *Option) boolArg(v bool) (string, bool) {
	switch {
	case o.Kind == BoolE && v: // strings are never true
		return "", false
	case o.Kind == BoolJ && !v: // "0" is true
		return "", true
	case v:
		return "1", true
	}
	return "0", true
}

func join(list []string) string {
	text := ""
	for i, item := range list {
		if i > 0 {
			text += ","
		}
		text += item
	}
	return text
}

func quote(s string) json.RawMessage {
	var o schema.Object
	o.SetString("", s)
	return o.Get("")
}

func list(items []string) json.RawMessage {
	var o schema.Object
	o.SetStrings("", items)
	return o.Get("")
}

// formatInterval uses the largest unit without a fraction. Months and years
// are left out: they are not the same everywhere.
func formatInterval(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d != 0 && d%u.unit == 0 {
			return fmt.Sprintf("%d%s", d/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// otherReading tells how reference programs read raw, if not as we do; "" =
// the same. Only what they share with us matters: the file and etcd.
func (o *Option) otherReading(raw json.RawMessage, ours any) string {
	text, isString := stringOf(raw)
	switch {
	case o.Kind.IsBool():
		theirs, ok := o.referenceBool(raw, text, isString)
		switch {
		case !ok:
			return "reference programs stop with an exception"
		case ours != nil && theirs != ours:
			return fmt.Sprintf("reference programs read it as %t; write %t without quotes", theirs, ours)
		case ours == nil:
			return fmt.Sprintf("reference programs read it as %t", theirs)
		}
		return ""
	case o.Kind == Networks && isString && ours != nil && len(ours.([]netip.Prefix)) > 1:
		return "reference programs want several networks as a JSON list"
	case o.Kind > Float || !isString:
		return ""
	}
	// Numbers as strings.
	switch digits := digitsOf(text); {
	case digits == 0:
		return "reference programs stop with an exception"
	case o.Kind == Size || o.Kind == Float || digits == len(text):
		return ""
	}
	return "reference programs read it as 0"
}

// digitsOf counts the digits (and a sign) that text begins with.
func digitsOf(text string) int {
	i := 0
	if len(text) > 1 && text[0] == '-' {
		i = 1
	}
	start := i
	for i < len(text) && text[i] >= '0' && text[i] <= '9' {
		i++
	}
	if i == start {
		return 0
	}
	return i
}

// referenceBool is the rule of each kind of bool in config.md §3. Not ok: it
// raises an exception.
func (o *Option) referenceBool(raw json.RawMessage, text string, isString bool) (v, ok bool) {
	number, numberErr := strconv.ParseFloat(string(raw), 64)
	isNumber := !isString && numberErr == nil
	isTrue := string(raw) == "true"
	yes := isString && slices.Contains([]string{"true", "yes", "1"}, text)
	no := isString && slices.Contains([]string{"false", "no", "0"}, text)
	switch o.Kind {
	case BoolB:
		return !(string(raw) == "false" || isNumber && number == 0 || no), true
	case BoolC:
		if isString {
			n, err := strconv.ParseInt(text, 10, 64)
			return err == nil && n != 0, digitsOf(text) != 0
		}
		return isTrue || isNumber && math.Trunc(number) != 0, true
	case BoolD:
		if o.Default == "true" { // inmemory_*
			return !(string(raw) == "false" || no), true
		}
		return isTrue || yes || isNumber && number == 1, true
	case BoolE:
		return isTrue, true
	case BoolJ:
		return isTrue || isString && text != "" || isNumber && number != 0 ||
			len(raw) > 0 && (raw[0] == '[' || raw[0] == '{'), true
	}
	return isTrue || yes, true
}

// cachedIO converts the old switches of data_io, meta_io and journal_io.
func cachedIO(raw json.RawMessage) json.RawMessage {
	text, isString := stringOf(raw)
	v, _ := parseBool(raw, text, isString)
	switch v {
	case true:
		return json.RawMessage(`"cached"`)
	case false:
		return json.RawMessage(`"direct"`)
	}
	return raw
}
