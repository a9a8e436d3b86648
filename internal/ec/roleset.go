package ec

import "math/bits"

// RoleSet is a set of roles 0..MaxRoles-1. It is comparable; the zero value is
// empty.
type RoleSet [MaxRoles / 64]uint64

// Roles makes a set. Numbers that are not roles are ignored.
func Roles(roles ...int) (s RoleSet) {
	for _, r := range roles {
		s.Add(r)
	}
	return s
}

// Add puts a role in; nothing happens when it is not a role.
func (s *RoleSet) Add(role int) {
	if uint(role) < MaxRoles {
		s[role>>6] |= 1 << (role & 63)
	}
}

// Remove takes a role out.
func (s *RoleSet) Remove(role int) {
	if uint(role) < MaxRoles {
		s[role>>6] &^= 1 << (role & 63)
	}
}

// Has tells whether a role is in.
func (s *RoleSet) Has(role int) bool {
	return uint(role) < MaxRoles && s[role>>6]>>(role&63)&1 != 0
}

// Len is the number of roles in the set.
func (s *RoleSet) Len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// Next is the smallest role >= from, or -1. To walk over a set:
//
//	for r := s.Next(0); r >= 0; r = s.Next(r + 1) {
func (s *RoleSet) Next(from int) int {
	if from < 0 {
		from = 0
	}
	for word := from >> 6; word < len(s); word++ {
		rest := s[word]
		if word == from>>6 {
			rest &= ^uint64(0) << (from & 63)
		}
		if rest != 0 {
			return word<<6 + bits.TrailingZeros64(rest)
		}
	}
	return -1
}

// Intersects tells whether a role is in both sets.
func (s *RoleSet) Intersects(t *RoleSet) bool {
	for i := range s {
		if s[i]&t[i] != 0 {
			return true
		}
	}
	return false
}

// First returns the n smallest roles of s that are below limit. ok is false
// when there are fewer.
func (s *RoleSet) First(n, limit int) (first RoleSet, ok bool) {
	for r := s.Next(0); r >= 0 && r < limit && n > 0; r = s.Next(r + 1) {
		first.Add(r)
		n--
	}
	return first, n == 0
}
