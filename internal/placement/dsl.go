package placement

import (
	"fmt"
	"strconv"
	"strings"

	"vitastor/internal/schema"
)

// The language of raw_placement:
//
//	rules     = position { separator position }
//	separator = "," or a new line; a comma at the end of a line is one separator
//	position  = "any" | condition { condition }
//	condition = level op arg
//	op        = "=" | "!=" | ">" | "?="
//	arg       = position number | node | "(" arg { [","] arg } ")"
//	node      = word | '"' anything '"'
//
// Example: any, dc=1 host!=1, dc!=1 host!=(1,2)
const (
	anyNode = "any"
	special = " \t\r\n,()\"=!>?" // what ends a word
)

// ParseRules reads raw_placement.
func ParseRules(text string) (Rules, error) {
	p := &ruleParser{rest: strings.Trim(text, " \t\r\n")}
	for {
		conditions, err := p.position()
		if err != nil {
			return nil, fmt.Errorf("position %d: %w", len(p.rules)+1, err)
		}
		p.rules = append(p.rules, conditions)
		more, err := p.separator()
		if err != nil {
			return nil, fmt.Errorf("position %d: %w", len(p.rules), err)
		}
		if !more {
			return p.rules, nil
		}
		if len(p.rules) == schema.MaxPGSize {
			return nil, fmt.Errorf("more than %d positions", schema.MaxPGSize)
		}
	}
}

type ruleParser struct {
	rules Rules
	rest  string
}

// skip removes leading characters of a set, and returns them.
func (p *ruleParser) skip(set string) (removed string) {
	trimmed := strings.TrimLeft(p.rest, set)
	removed = p.rest[:len(p.rest)-len(trimmed)]
	p.rest = trimmed
	return removed
}

const blank = " \t\r"

// separator skips what is between two positions.
func (p *ruleParser) separator() (more bool, err error) {
	between := p.skip(blank + "\n,")
	if strings.Count(between, ",") > 1 || p.rest == "" && strings.Contains(between, ",") {
		return false, fmt.Errorf("nothing after the comma: write %q for a position without conditions", anyNode)
	}
	return p.rest != "", nil
}

// position reads up to the next separator, or the end.
func (p *ruleParser) position() ([]Condition, error) {
	var conditions []Condition
	for first := true; ; first = false {
		p.skip(blank)
		if p.rest == "" || p.rest[0] == ',' || p.rest[0] == '\n' {
			if first {
				return nil, fmt.Errorf("it is empty: write %q if there are no conditions", anyNode)
			}
			return conditions, nil
		}
		quoted := p.rest[0] == '"'
		level, err := p.word("a level")
		if err != nil {
			return nil, err
		}
		p.skip(blank)
		if level == anyNode && !quoted && first && (p.rest == "" || strings.IndexByte(",\n", p.rest[0]) >= 0) {
			return nil, nil
		}
		c, err := p.condition(level)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, c)
	}
}

// condition reads op and arg.
func (p *ruleParser) condition(level string) (Condition, error) {
	c := Condition{Level: level}
	for op, name := range opNames {
		if rest, ok := strings.CutPrefix(p.rest, name); ok {
			p.rest, c.Op = rest, Op(op)
			p.skip(blank)
			args, err := p.args()
			c.Args = args
			return c, err
		}
	}
	return c, fmt.Errorf("after %s there must be one of = != > ?=, found %s", level, p.found())
}

func (p *ruleParser) args() ([]Arg, error) {
	if !strings.HasPrefix(p.rest, "(") {
		a, err := p.arg()
		return []Arg{a}, err
	}
	p.rest = p.rest[1:]
	var list []Arg
	for {
		if between := p.skip(blank + "\n,"); strings.Count(between, ",") > 1 || list == nil && strings.Contains(between, ",") {
			return nil, fmt.Errorf("too many commas in the list in parentheses")
		}
		if strings.HasPrefix(p.rest, ")") && list != nil {
			p.rest = p.rest[1:]
			return list, nil
		}
		a, err := p.arg()
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
}

func (p *ruleParser) arg() (Arg, error) {
	quoted := strings.HasPrefix(p.rest, `"`)
	name, err := p.word("a position or a node")
	if err != nil {
		return Arg{}, err
	}
	if quoted || strings.Trim(name, "0123456789") != "" {
		return Arg{Node: name}, nil
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 1 || n > len(p.rules) {
		return Arg{}, fmt.Errorf("%s is not an earlier position (put the name of a node in quotes)", name)
	}
	return Arg{Position: n}, nil
}

// word reads a bare or quoted word; what says what is expected.
func (p *ruleParser) word(what string) (string, error) {
	if rest, ok := strings.CutPrefix(p.rest, `"`); ok {
		name, after, closed := strings.Cut(rest, `"`)
		if !closed || name == "" {
			return "", fmt.Errorf("the quotes at %s must contain a name and be closed", p.found())
		}
		p.rest = after
		return name, nil
	}
	end := strings.IndexAny(p.rest, special)
	if end < 0 {
		end = len(p.rest)
	}
	if end == 0 {
		return "", fmt.Errorf("there must be %s, found %s", what, p.found())
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name, nil
}

// found is the place of an error for a message.
func (p *ruleParser) found() string {
	if p.rest == "" {
		return "the end"
	}
	return strconv.Quote(p.rest[:min(len(p.rest), 20)])
}
