package cluster

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// network is one flat network of namespaces, 10.<a>.<b>.0/24:
//
//	namespace hub: bridge "switch" ---- host end: 10.a.b.254, for clients in this process
//	   |      |
//	  eth0   eth0 ...              one namespace per process: 10.a.b.1 and so on
//
// A process has one at a time. All names begin with vte<pid>: namespaces of dead processes are removed by the
// next user.
type network struct {
	prefix string // of namespaces
	base   string // "10.a.b."
	count  int
	hosts  map[string]string // name -> address
	cuts   map[[2]string]bool
}

// ErrNoNamespaces means that this user or machine cannot make network
// namespaces.
var ErrNoNamespaces = errors.New("network namespaces cannot be made")

const namePrefix = "vte"

// ip runs the program of that name.
func ip(args string) error {
	_, err := run("", append([]string{"ip"}, strings.Fields(args)...)...)
	return err
}

func newNetwork() (*network, error) {
	removeStale()
	pid := os.Getpid()
	n := &network{prefix: fmt.Sprintf("%s%d", namePrefix, pid), hosts: map[string]string{}, cuts: map[[2]string]bool{},
		base: fmt.Sprintf("10.%d.%d.", 64+pid>>8%64, pid%256)}
	hub := n.prefix + "-hub"
	if err := ip("netns add " + hub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNamespaces, err)
	}
	for _, cmd := range []string{
		"-n " + hub + " link add name switch type bridge",
		"-n " + hub + " link set switch up",
		"link add " + n.prefix + " type veth peer name host netns " + hub,
		"-n " + hub + " link set host master switch up",
		"addr add " + n.base + "254/24 dev " + n.prefix,
		"link set " + n.prefix + " up",
	} {
		if err := ip(cmd); err != nil {
			n.remove()
			return nil, fmt.Errorf("%w: %w", ErrNoNamespaces, err)
		}
	}
	return n, nil
}

func (n *network) namespace(name string) string { return n.prefix + "-" + name }

// add makes a namespace and returns its address; the same for the same name.
func (n *network) add(name string) (string, error) {
	if address := n.hosts[name]; address != "" {
		return address, nil
	}
	n.count++
	address, ns, hub := n.base+strconv.Itoa(n.count), n.namespace(name), n.namespace("hub")
	for _, cmd := range []string{
		"netns add " + ns,
		"-n " + ns + " link set lo up",
		"-n " + ns + " link add eth0 type veth peer name " + name + " netns " + hub,
		"-n " + hub + " link set " + name + " master switch up",
		"-n " + ns + " addr add " + address + "/24 dev eth0",
		"-n " + ns + " link set eth0 up",
	} {
		if err := ip(cmd); err != nil {
			return "", err
		}
	}
	n.hosts[name] = address
	return address, nil
}

func (n *network) remove() {
	for name := range n.hosts {
		ip("netns del " + n.namespace(name))
	}
	ip("link del " + n.prefix)
	ip("netns del " + n.namespace("hub"))
}

// removeStale removes what killed processes have left.
func removeStale() {
	out, err := run("", "ip", "netns", "list")
	if err != nil {
		return
	}
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		owner, _, _ := strings.Cut(strings.TrimPrefix(name, namePrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || !strings.HasPrefix(name, namePrefix) {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			ip("netns del " + name)
		}
	}
}

// Host is the name of this process in Cut.
const Host = "host"

// Isolate cuts a process off from everybody, without a word to anybody: its
// cable is pulled at the switch.
func (c *Cluster) Isolate(name string) error {
	return ip("-n " + c.net.namespace("hub") + " link set " + name + " down")
}

// Rejoin ends Isolate.
func (c *Cluster) Rejoin(name string) error {
	return ip("-n " + c.net.namespace("hub") + " link set " + name + " up")
}

// deadMAC is nobody's address.
const deadMAC = "02:00:00:00:de:ad"

// Cut loses everything that one process sends to another; what that one sends
// still arrives.
func (c *Cluster) Cut(from, to string) error {
	c.net.cuts[[2]string{from, to}] = true
	return c.neighbour("replace", from, to, " lladdr "+deadMAC+" nud permanent")
}

// Mend ends Cut.
func (c *Cluster) Mend(from, to string) error {
	delete(c.net.cuts, [2]string{from, to})
	return c.neighbour("del", from, to, "")
}

func (c *Cluster) neighbour(action, from, to, more string) error {
	address := c.net.hosts[to]
	if to == Host {
		address = c.net.base + "254"
	}
	if from == Host {
		return ip("neigh " + action + " " + address + " dev " + c.net.prefix + more)
	}
	return ip("-n " + c.net.namespace(from) + " neigh " + action + " " + address + " dev eth0" + more)
}
