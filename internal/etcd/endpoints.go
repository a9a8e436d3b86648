package etcd

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// defaultPort is where etcd serves its clients.
const defaultPort = "2379"

// ParseEndpoints reads etcd_address: each item is a list separated by commas of
// [http://|https://]host[:port][/v3] (etcd.md §4.1). The result are URLs without
// a path, in the given order, without duplicates.
func ParseEndpoints(items ...string) ([]string, error) {
	var urls []string
	for _, item := range items {
		for one := range strings.SplitSeq(item, ",") {
			if one = strings.TrimSpace(one); one == "" {
				continue
			}
			u, err := parseEndpoint(one)
			if err != nil {
				return nil, fmt.Errorf("etcd_address %q: %w", one, err)
			}
			if !slices.Contains(urls, u) {
				urls = append(urls, u)
			}
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("etcd_address is empty: set it to a list like 10.0.0.1:2379,10.0.0.2:2379")
	}
	return urls, nil
}

func parseEndpoint(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + bracketed(s)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("not an address: want [http://]host:port")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("scheme %q is not supported: use http or https", u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("only [http://]host:port is allowed here")
	case u.Hostname() == "":
		return "", fmt.Errorf("the host name is missing: want [http://]host:port")
	}
	if path := strings.Trim(u.Path, "/"); path != "" && path != "v3" {
		return "", fmt.Errorf("path %q: etcd is used through gRPC, which has no path: "+
			"give the address of etcd itself", u.Path)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port), nil
}

// bracketed puts a bare IPv6 address into the brackets that URLs want.
func bracketed(s string) string {
	host, path, _ := strings.Cut(s, "/")
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return "[" + host + "]/" + path
	}
	return s
}

// localFirst puts the endpoints on this machine first and shuffles the others,
// so that the load spreads over the cluster.
func localFirst(endpoints []string, local []netip.Addr) []string {
	isLocal := func(e string) bool {
		u, err := url.Parse(e)
		if err != nil {
			return false
		}
		a, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return u.Hostname() == "localhost"
		}
		return a.IsLoopback() || slices.Contains(local, a.Unmap())
	}
	var near, far []string
	for _, e := range endpoints {
		if isLocal(e) {
			near = append(near, e)
		} else {
			far = append(far, e)
		}
	}
	rand.Shuffle(len(far), func(i, j int) { far[i], far[j] = far[j], far[i] })
	return append(near, far...)
}

// localAddrs lists the addresses of this machine.
func localAddrs() []netip.Addr {
	var local []netip.Addr
	addrs, _ := net.InterfaceAddrs() // without them nothing is preferred
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			local = append(local, p.Addr().Unmap())
		}
	}
	return local
}
