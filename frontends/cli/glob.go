package cli

// glob tells whether a pattern matches the whole of a name: * is any text, ? any
// byte, \ takes the meaning from the next byte (spec cli.md §1.1). It is linear
// in practice: only the last * is ever tried again.
func glob(pattern, name string) bool {
	p, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
			continue
		case p < len(pattern) && pattern[p] == '?':
			p, n = p+1, n+1
			continue
		case p+1 < len(pattern) && pattern[p] == '\\' && pattern[p+1] == name[n]:
			p, n = p+2, n+1
			continue
		case p < len(pattern) && pattern[p] != '\\' && pattern[p] == name[n]:
			p, n = p+1, n+1
			continue
		case star < 0:
			return false
		}
		resume++
		p, n = star+1, resume
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// selected tells whether a name is wanted: no patterns want all.
func selected(patterns []string, exact bool, name string) bool {
	for _, p := range patterns {
		if exact && p == name || !exact && glob(p, name) {
			return true
		}
	}
	return len(patterns) == 0
}
