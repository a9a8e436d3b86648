package schema

import "strings"

// levelPlacement reads both forms of level_placement:
//
//	"dc=112233 host=123456"                      separated by white space
//	{"dc": "112233", "host": [1, 2, 3, 4, 5, 6]}
//
// A text has one item per character.
func (d *decoder) levelPlacement(v value) []LevelSequence {
	const want = `such as "dc=112233" or {"dc":"112233"}`
	var levels []LevelSequence
	switch v.kind() {
	case kindNull:
	case kindString:
		for rule := range strings.FieldsSeq(v.text()) {
			level, sequence, ok := strings.Cut(rule, "=")
			if !ok || level == "" {
				d.fail(v, want)
				return nil
			}
			levels = append(levels, LevelSequence{level, characters(sequence)})
		}
	case kindObject:
		for level, v := range d.object(v) {
			levels = append(levels, LevelSequence{string(level), d.sequence(v)})
		}
	default:
		d.fail(v, want)
	}
	return levels
}

func (d *decoder) sequence(v value) []string {
	if v.kind() != kindArray {
		return characters(d.scalar(v))
	}
	var items []string
	for _, item := range d.array(v) {
		items = append(items, d.scalar(item))
	}
	return items
}

func characters(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "")
}
