package session

import (
	"slices"
	"strings"
)

// Cluster tells which cluster this is, for state files: two may have images of
// the same name.
func (s *Session) Cluster() string {
	return s.Options.Common.EtcdPrefix + "@" + strings.Join(s.Etcd, ",")
}

// SameCluster tells whether two results of Cluster may be about one: etcd may
// have got other members, but not all of them at once. "" may be any.
func SameCluster(a, b string) bool {
	prefix, all, _ := strings.Cut(a, "@")
	other, known, _ := strings.Cut(b, "@")
	if a == "" || b == "" {
		return true
	}
	members := strings.Split(known, ",")
	return prefix == other && slices.ContainsFunc(strings.Split(all, ","), func(m string) bool { return slices.Contains(members, m) })
}
