package simcluster

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Minimise removes faults from the plan of a failed run while a run without
// them fails with the same kind of violation, at most tries runs. The load ends
// right after the last fault that is left.
func Minimise(r *Result, tries int) *Result {
	best := r
	for size := max(1, len(best.Plan)/2); tries > 0; {
		shorter := false
		for i := 0; i < len(best.Plan) && tries > 0; {
			p := slices.Delete(slices.Clone(best.Plan), i, min(i+size, len(best.Plan)))
			tries--
			if next := Run(r.Config, p, Options{}); next.sameFailure(r) {
				best, shorter = next, true
			} else {
				i += size
			}
		}
		if size == 1 && !shorter {
			break
		}
		size = max(1, size/2)
	}
	return best
}

func (r *Result) sameFailure(o *Result) bool {
	return len(r.Violations) > 0 && len(o.Violations) > 0 && r.Violations[0].signature() == o.Violations[0].signature()
}

var pgStateWords = regexp.MustCompile(`: ((active|peering|incomplete|starting|repeering|stopping|no state)[a-z_+]*)`)

// signature is what two violations have in common that are probably the same:
// the kind, and the state in which a PG hangs.
func (v Violation) signature() string {
	if m := pgStateWords.FindStringSubmatch(v.Text); m != nil {
		return v.Kind + " " + m[1]
	}
	return v.Kind
}

// numbers are the faults of a plan, for -simcluster.only.
func (p Plan) numbers() string {
	var list []string
	for _, f := range p {
		list = append(list, strconv.Itoa(f.N))
	}
	return strings.Join(list, ",")
}
