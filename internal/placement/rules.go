package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vitastor/internal/schema"
)

// Op compares the node of a candidate at some level with others.
type Op uint8

const (
	Equal    Op = iota // equal to all
	NotEqual           // equal to none
	Greater            // its id is greater than all
	Prefer             // equal to all if possible
)

var opNames = [...]string{"=", "!=", ">", "?="}

func (o Op) String() string { return opNames[o] }

// Arg is what a condition compares with: the node that holds an earlier
// position of the PG, or a node by its name.
type Arg struct {
	Position int // from 1; 0 = Node
	Node     string
}

// Condition is one requirement for one position.
type Condition struct {
	Level string
	Op    Op
	Args  []Arg
}

// Rules are the conditions of each position of a PG; all of a position must
// hold.
type Rules [][]Condition

// RulesOf reads the rules of a pool (monitor.md 3.3). One list per position.
func RulesOf(pool *schema.Pool) (Rules, error) {
	if pool.RawPlacement != "" {
		rules, err := ParseRules(pool.RawPlacement)
		if err == nil && len(rules) != pool.PGSize {
			err = fmt.Errorf("it has %d positions, pg_size is %d", len(rules), pool.PGSize)
		}
		if err != nil {
			return nil, fmt.Errorf("raw_placement of pool %d (%s): %w", pool.ID, pool.Name, err)
		}
		return rules, nil
	}
	rules := make(Rules, pool.PGSize)
	for _, s := range pool.LevelPlacement {
		if s.Level == pool.FailureDomain {
			continue // all different, see below
		}
		if len(s.Items) != pool.PGSize {
			return nil, fmt.Errorf("level_placement of pool %d (%s): level %s has %d items, pg_size is %d",
				pool.ID, pool.Name, s.Level, len(s.Items), pool.PGSize)
		}
		for i := 1; i < pool.PGSize; i++ {
			rules[i] = append(rules[i], sameOrNew(s, i))
		}
	}
	for i := 1; i < pool.PGSize; i++ {
		different := Condition{Level: pool.FailureDomain, Op: NotEqual}
		for position := 1; position <= i; position++ {
			different.Args = append(different.Args, Arg{Position: position})
		}
		rules[i] = append(rules[i], different)
	}
	return rules, nil
}

// sameOrNew is the condition of item i of a sequence: in the same node as the
// first equal item, or in another one than the first of every other item.
func sameOrNew(s schema.LevelSequence, i int) Condition {
	if first := slices.Index(s.Items, s.Items[i]); first < i {
		return Condition{s.Level, Equal, []Arg{{Position: first + 1}}}
	}
	c := Condition{Level: s.Level, Op: NotEqual}
	for j := range i {
		if slices.Index(s.Items, s.Items[j]) == j {
			c.Args = append(c.Args, Arg{Position: j + 1})
		}
	}
	return c
}

// Levels are the levels that some condition mentions.
func (r Rules) Levels() map[string]bool {
	levels := map[string]bool{}
	for _, conditions := range r {
		for _, c := range conditions {
			levels[c.Level] = true
		}
	}
	return levels
}

// String is the text that ParseRules reads.
func (r Rules) String() string {
	positions := make([]string, len(r))
	for i, conditions := range r {
		texts := make([]string, len(conditions))
		for j, c := range conditions {
			texts[j] = c.String()
		}
		positions[i] = strings.Join(texts, " ")
		if len(conditions) == 0 {
			positions[i] = anyNode
		}
	}
	return strings.Join(positions, ", ")
}

func (c Condition) String() string {
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = a.String()
	}
	text := strings.Join(args, ", ")
	if len(args) != 1 {
		text = "(" + text + ")"
	}
	return quoteWord(c.Level, false) + c.Op.String() + text
}

func (a Arg) String() string {
	if a.Position != 0 {
		return strconv.Itoa(a.Position)
	}
	return quoteWord(a.Node, true)
}

// quoteWord quotes what would not be read as one word, or as a position.
func quoteWord(s string, isArg bool) string {
	if s == "" || strings.ContainsAny(s, special) || isArg && strings.Trim(s, "0123456789") == "" {
		return `"` + s + `"`
	}
	return s
}
