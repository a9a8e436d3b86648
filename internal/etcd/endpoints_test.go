package etcd

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParseEndpoints(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string // URLs, or a part of the error after "!"
	}{
		{[]string{"10.0.0.1:2379"}, "http://10.0.0.1:2379"},
		{[]string{"http://a:1/v3"}, "http://a:1"},
		{[]string{"a:1/v3/"}, "http://a:1"},
		{[]string{"a:1, b:2 ,,a:1", "https://c"}, "http://a:1 http://b:2 https://c:2379"},
		{[]string{"[::1]:5"}, "http://[::1]:5"},
		{[]string{"::1"}, "http://[::1]:2379"},
		{[]string{"::1/v3"}, "http://[::1]:2379"},
		{[]string{"etcd"}, "http://etcd:2379"},
		{nil, "!etcd_address is empty"},
		{[]string{" , "}, "!etcd_address is empty"},
		{[]string{"ftp://a:1"}, `!"ftp://a:1": scheme "ftp" is not supported`},
		{[]string{"a:1/gateway"}, `!path "/gateway"`},
		{[]string{"a:99999"}, `!port "99999"`},
		{[]string{"a:b"}, "!not an address"},
		{[]string{"http://:5"}, "!host name is missing"},
		{[]string{"u:p@a:1"}, "!only [http://]host:port"},
	} {
		got, err := ParseEndpoints(c.in...)
		want, wantErr := strings.CutPrefix(c.want, "!")
		switch {
		case wantErr && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: error %v, want %q", c.in, err, want)
		case !wantErr && (err != nil || strings.Join(got, " ") != want):
			t.Errorf("%q: %q, %v", c.in, got, err)
		}
	}
}

func FuzzParseEndpoints(f *testing.F) {
	for _, s := range []string{"a:1", "http://[::1]:2/v3,b", "https://x", "%zz", "[::1", "a:1/v3/../"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		urls, err := ParseEndpoints(s)
		if err != nil {
			return
		}
		again, err := ParseEndpoints(urls...)
		if err != nil || !slices.Equal(urls, again) {
			t.Errorf("%q: %q, then %q, %v", s, urls, again, err)
		}
	})
}

func TestLocalFirst(t *testing.T) {
	in := []string{"http://far1:1", "http://10.0.0.7:1", "http://far2:1", "http://localhost:1", "http://[::1]:1"}
	local := []netip.Addr{netip.MustParseAddr("10.0.0.7")}
	orders := map[string]bool{}
	for range 100 {
		got := localFirst(in, local)
		if !slices.Equal(got[:3], []string{in[1], in[3], in[4]}) {
			t.Fatalf("local ones are not first: %q", got)
		}
		orders[got[3]] = true
	}
	if len(orders) != 2 {
		t.Errorf("the others are always in the order %v", orders)
	}
}
