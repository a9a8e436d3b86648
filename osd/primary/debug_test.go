package primary

import (
	"fmt"
	"strings"

	"vitastor/internal/meta"
)

// describe tells what is in flight in a PG.
func (s *Server) describe(id meta.PG) string {
	p := s.pgs[id]
	if p == nil {
		return "no such PG"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations, %d syncs:", p.count, p.syncs)
	for o := p.head; o != nil; o = o.pgNext {
		fmt.Fprintf(&b, " {kind %d phase %d %v pending %d}", o.kind, o.phase, o.oid, o.pending)
	}
	return b.String()
}
