package session

import "testing"

func TestSameCluster(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "/vitastor@http://a:1", true},
		{"/vitastor@http://a:1", "/vitastor@http://a:1", true},
		{"/vitastor@http://a:1,http://b:1", "/vitastor@http://c:1,http://b:1", true},
		{"/vitastor@http://a:1", "/vitastor@http://a:2", false},
		{"/vitastor@http://a:1", "/other@http://a:1", false},
		{"@", "/other@http://a:1", false},
	} {
		if SameCluster(c.a, c.b) != c.want || SameCluster(c.b, c.a) != c.want {
			t.Errorf("%s, %s: not %t", c.a, c.b, c.want)
		}
	}
}
