package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Interface is an address of this host on an interface that is up and running.
type Interface struct {
	Addr     netip.Addr
	Loopback bool
}

// Bind says where to listen, and which addresses to announce (osd.md §14). The
// interfaces may be empty if bind_address is an address.
func (c *Config) Bind(interfaces []Interface) (listen, announce []netip.Addr, err error) {
	switch networks := slices.Concat(c.Network.Public, c.Network.Cluster); {
	case len(c.BindAddress) > 0:
		for _, text := range c.BindAddress {
			a, err := netip.ParseAddr(strings.Trim(text, "[] "))
			if err != nil {
				return nil, nil, fmt.Errorf("bind_address %q is not an IP address", text)
			}
			listen = append(listen, a)
		}
	case len(networks) > 0:
		for _, i := range interfaces {
			if slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(i.Addr) }) {
				listen = append(listen, i.Addr)
			}
		}
		if len(listen) == 0 {
			return nil, nil, fmt.Errorf("no address of this host is inside osd_network or osd_cluster_network %v: it has %v", networks, addresses(interfaces))
		}
	default:
		listen = []netip.Addr{netip.IPv4Unspecified()}
	}
	for _, a := range listen {
		if a.IsUnspecified() {
			announce = append(announce, reachable(interfaces)...)
		} else {
			announce = append(announce, a)
		}
	}
	slices.SortFunc(announce, netip.Addr.Compare)
	return listen, slices.Compact(announce), nil
}

// reachable are the addresses to announce for a wildcard. A host without a
// network can still be tried out.
func reachable(interfaces []Interface) (list []netip.Addr) {
	for _, i := range interfaces {
		if i.Addr.Is4() && !i.Loopback {
			list = append(list, i.Addr)
		}
	}
	if len(list) == 0 {
		list = append(list, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return list
}

func addresses(interfaces []Interface) (list []netip.Addr) {
	for _, i := range interfaces {
		list = append(list, i.Addr)
	}
	return list
}
