package option

import (
	"bytes"
	"errors"
	"fmt"

	"vitastor/internal/schema"
)

// ReadLayer reads the text of a source: the configuration file (where = its
// path), config/global (where = the key) or a superblock. data is nil if there
// is none, which is the same as an empty one.
//
// A text that is no JSON object counts as empty too, with a problem; it is
// fatal for the monitor's file and for a superblock. Pass it on to the
// administrator.
func ReadLayer(c Component, src Source, where string, data []byte) (Layer, *Problem) {
	l := Layer{Source: src, Where: where}
	if data == nil {
		return l, nil
	}
	p := &Problem{Where: where, Fatal: src == Superblock || src == File && c&Monitor != 0}
	effect := "it is treated as empty"
	if p.Fatal {
		effect = "correct or remove it"
	}
	if len(bytes.TrimSpace(data)) == 0 {
		p.Text = "there is nothing in it, it must be a JSON object; " + effect
		return l, p
	}
	values, err := schema.DecodeObject(where, data)
	var field *schema.FieldError
	if errors.As(err, &field) {
		p.Text = fmt.Sprintf("it must be a JSON object; found %s, which is not %s; %s", field.Value, field.Want, effect)
		return l, p
	}
	l.Values = values
	return l, nil
}
