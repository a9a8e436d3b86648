package option

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"vitastor/internal/invariant"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// Tristate is a switch that may be left to the program.
type Tristate uint8

const (
	Auto Tristate = iota
	Off
	On
)

// Typed getters, for options of other components. An option without a value
// gives zero.

// Int is the value of kinds Int, Bytes and Size.
func (s *Set) Int(name string) int64 { return get[int64](s, name) }

// Bool is the value of a switch.
func (s *Set) Bool(name string) bool { return get[bool](s, name) }

// Float is the value of kind Float.
func (s *Set) Float(name string) float64 { return get[float64](s, name) }

// Duration is the value of kinds Seconds, Millis, Micros and Interval.
func (s *Set) Duration(name string) time.Duration { return get[time.Duration](s, name) }

// Text is the value of kinds String, Path and Enum.
func (s *Set) Text(name string) string { return get[string](s, name) }

// List is the value of kind List.
func (s *Set) List(name string) []string { return get[[]string](s, name) }

// Networks is the value of kind Networks.
func (s *Set) Networks(name string) []netip.Prefix { return get[[]netip.Prefix](s, name) }

// Object is the value of kind Object.
func (s *Set) Object(name string) schema.Object { return get[schema.Object](s, name) }

func get[T any](s *Set, name string) T {
	v, ok := s.Get(name).(T)
	if !ok && s.Get(name) != nil {
		invariant.Fail("option %s has another type than %T", name, v)
	}
	return v
}

// fill sets every field of the struct that into points to from the option in
// its tag, and reports required ones that are missing.
func (s *Set) fill(into any, c Component) error {
	fillFields(s, reflect.ValueOf(into).Elem())
	var missing []error
	for _, o := range all {
		if o.Required&c != 0 && isZero(s.Get(o.Name)) {
			missing = append(missing, fmt.Errorf("parameter %s is required, but not given: %s", o.Name, o.Doc))
		}
	}
	return errors.Join(missing...)
}

func isZero(v any) bool {
	list, isList := v.([]string)
	return v == nil || isList && len(list) == 0 || !isList && reflect.ValueOf(v).IsZero()
}

func fillFields(s *Set, target reflect.Value) {
	for i := range target.NumField() {
		name := target.Type().Field(i).Tag.Get("option")
		if name == "" {
			fillFields(s, target.Field(i)) // a group of options
			continue
		}
		if v := s.Get(name); v != nil {
			setField(target.Field(i), name, v)
		}
	}
}

var duration = reflect.TypeFor[time.Duration]()

func setField(field reflect.Value, name string, v any) {
	value, to := reflect.ValueOf(v), field.Type()
	integers := value.CanInt() && value.Type() != to && value.Type() != duration && to != duration
	switch {
	case value.Type() == to:
		field.Set(value)
	case to == reflect.TypeFor[Tristate]():
		field.Set(reflect.ValueOf(Off))
		if v == true {
			field.Set(reflect.ValueOf(On))
		}
	case to == reflect.TypeFor[meta.CommitMode]():
		mode, err := meta.ParseCommitMode(v.(string))
		if err != nil {
			invariant.Fail("option %s: %v", name, err)
		}
		field.Set(reflect.ValueOf(mode))
	case integers && field.CanUint() && value.Int() >= 0 && !field.OverflowUint(uint64(value.Int())):
		field.SetUint(uint64(value.Int()))
	case integers && field.CanInt() && !field.OverflowInt(value.Int()):
		field.SetInt(value.Int())
	default:
		invariant.Fail("option %s: value %v does not fit a field of type %s", name, v, to)
	}
}
