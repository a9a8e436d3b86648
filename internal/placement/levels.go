package placement

import (
	"math"

	"vitastor/internal/schema"
)

// LevelHost is the level of the nodes that are made for the hosts of OSDs.
const LevelHost = "host"

// Levels are the levels of the tree; a smaller number is higher.
type Levels struct {
	object  schema.Object // as configured, with host and osd
	numbers map[string]float64
}

// NewLevels reads placement_levels. host and osd always exist.
func NewLevels(configured *schema.Object) Levels {
	l := Levels{object: configured.Clone(), numbers: map[string]float64{}}
	if l.object.Get(LevelHost) == nil {
		l.object.SetUint(LevelHost, 100)
	}
	if l.object.Get(schema.LevelOSD) == nil {
		l.object.SetUint(schema.LevelOSD, 101)
	}
	for name, raw := range l.object.All() {
		l.numbers[name] = numberOf(raw)
	}
	return l
}

// Known tells whether there is such a level.
func (l *Levels) Known(level string) bool {
	_, ok := l.numbers[level]
	return ok
}

// Number is the number of a level; NaN if there is none.
func (l *Levels) Number(level string) float64 {
	if n, ok := l.numbers[level]; ok {
		return n
	}
	return math.NaN()
}

// above tells whether nodes of level a may be parents of nodes of level b.
func (l *Levels) above(a, b string) bool { return l.Number(a) < l.Number(b) }
