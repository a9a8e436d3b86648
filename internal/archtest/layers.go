package archtest

import (
	"fmt"
	"strings"
)

// Layer is a floor of the architecture; imports only go down.
type Layer int

const (
	Kit        Layer = iota // no knowledge of the product
	Vocabulary              // what things are called and how they are coded; no I/O
	Runtime                 // connections, loop, etcd
	Subsystem               // osd, mon, libclient
	Product                 // front ends and programs
	Support                 // tests and tools; imported by nothing that ships
	unknownLayer
)

func (l Layer) String() string {
	return [...]string{"0 kit", "1 vocabulary", "2 runtime", "3 subsystem",
		"4 product", "T support", "unknown"}[l]
}

// Module is the name of our module.
const Module = "vitastor"

// layers maps folders to layers; the longest prefix wins.
var layers = []struct {
	dir   string
	layer Layer
}{
	{"internal/env", Kit}, {"internal/invariant", Kit}, {"internal/uring", Kit},
	{"internal/pinned", Kit}, {"internal/sys", Kit}, {"internal/guestmem", Kit},
	{"internal/meta", Vocabulary}, {"internal/wire", Vocabulary},
	{"internal/schema", Vocabulary}, {"internal/ec", Vocabulary},
	{"internal/placement", Vocabulary},
	{"internal/loop", Runtime}, {"internal/msgr", Runtime},
	{"internal/etcd", Runtime}, {"internal/clusterview", Runtime},
	{"osd", Subsystem}, {"mon", Subsystem}, {"libclient", Subsystem},
	{"frontends", Product}, {"libclient/libvitastor", Product},
	{"libclient/examples", Product},
	{"internal/sim", Support}, {"internal/simcluster", Support},
	{"internal/e2e", Support}, {"internal/archtest", Support},
	{"internal/tools", Support}, {"internal/bench", Support}, {"openstack", Support}, {"proxmox", Support},
	{"internal/env/envtest", Support}, {"internal/etcd/kvtest", Support},
	{"osd/store/layout/vectortest", Support}, {"osd/store/crashtest", Support},
	{"osd/store/storebench", Support}, {"internal/placement/figures", Support},
}

// LayerOf returns the layer of a folder. A program (a folder named vitastor-*)
// is a product wherever it stands.
func LayerOf(dir string) Layer {
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, "vitastor-") {
			return Product
		}
	}
	best, found := "", unknownLayer
	for _, l := range layers {
		if within(dir, l.dir) && len(l.dir) >= len(best) {
			best, found = l.dir, l.layer
		}
	}
	return found
}

func within(dir, root string) bool {
	return dir == root || strings.HasPrefix(dir, root+"/")
}

// CheckLayers reports imports that do not go down, and folders that no layer
// knows. Test files may import anything.
func (t *Tree) CheckLayers() []Violation {
	var out []Violation
	for _, f := range t.Files {
		from := LayerOf(f.Dir())
		if from == unknownLayer {
			out = append(out, Violation{"layer", f.Path,
				"the folder belongs to no layer: add it to internal/archtest/layers.go and docs/ARCHITECTURE.md"})
			continue
		}
		if f.Test || from == Support {
			continue
		}
		for _, imp := range f.Imports() {
			dir, ours := strings.CutPrefix(imp, Module+"/")
			if ours && !mayImport(f.Dir(), from, dir) {
				out = append(out, Violation{"layer", f.Path, fmt.Sprintf(
					"layer %s must not import %s (layer %s)", from, dir, LayerOf(dir))})
			}
		}
	}
	return out
}

// mayImport is the rule itself. Kit and vocabulary packages may use siblings;
// above, only packages of the same subsystem or product may know each other.
func mayImport(dir string, from Layer, target string) bool {
	to := LayerOf(target)
	switch {
	case to == Support || to == unknownLayer:
		return false
	case to < from:
		return true
	case to > from:
		return false
	case from <= Vocabulary:
		return true
	case from == Runtime:
		return family(dir, 2) == family(target, 2)
	case from == Subsystem:
		return family(dir, 1) == family(target, 1)
	}
	// What the front ends share, and a program with the package it runs.
	return shared(target) || family(dir, 2) == family(target, 2)
}

// shared tells whether a folder belongs to what several front ends use.
func shared(dir string) bool {
	return within(dir, "frontends/blockdev") || within(dir, "frontends/virtio")
}

// family is the first n elements of a folder.
func family(dir string, n int) string {
	parts := strings.SplitN(dir, "/", n+1)
	return strings.Join(parts[:min(n, len(parts))], "/")
}

// fences lists imports that only certain folders may use.
var fences = []struct {
	imports []string
	dirs    []string
	why     string
}{
	{
		imports: []string{"unsafe", "golang.org/x/sys/unix"},
		dirs: []string{"internal/sys", "internal/uring", "internal/pinned", "internal/guestmem", "internal/rdma",
			"frontends/nbd/netlink", "frontends/ublk", "frontends/vduse", "frontends/vhost",
			"libclient/libvitastor"},
		why: "system calls and unsafe memory stay in layer 0 and the device front ends",
	},
	{
		imports: []string{"C"},
		dirs:    []string{"libclient/libvitastor", "internal/rdma"},
		why:     "cgo is for the C library only",
	},
	{
		imports: []string{"go.etcd.io/etcd/server/"},
		dirs:    []string{"internal/etcd/embed"},
		why:     "the etcd server is large: one package embeds it",
	},
	{
		imports: []string{"math/rand"},
		dirs:    nil,
		why:     "randomness comes from env.Rand (math/rand/v2 over it), else the simulator is not deterministic",
	},
}

// CheckFences reports imports outside the folders they are meant for.
func (t *Tree) CheckFences() []Violation {
	var out []Violation
	for _, f := range t.Files {
		if f.Test || LayerOf(f.Dir()) == Support {
			continue
		}
		for _, imp := range f.Imports() {
			if why := fenced(f.Dir(), imp); why != "" {
				out = append(out, Violation{"fence", f.Path, "must not import " + imp + ": " + why})
			}
		}
	}
	return out
}

func fenced(dir, imp string) string {
	for _, fence := range fences {
		for _, bad := range fence.imports {
			if imp != bad && !(strings.HasSuffix(bad, "/") && strings.HasPrefix(imp, bad)) {
				continue
			}
			allowed := false
			for _, d := range fence.dirs {
				allowed = allowed || within(dir, d)
			}
			if !allowed {
				return fence.why
			}
		}
	}
	return ""
}

// nondeterministic are calls that deciding code must not make, because they
// cannot be simulated (architecture §1).
var nondeterministic = map[string][]string{
	"time": {"Now", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Since", "Until"},
}

// CheckDeterminism reports uses of the real clock below the products, outside
// the packages that implement internal/env.
func (t *Tree) CheckDeterminism() []Violation {
	var out []Violation
	for _, f := range t.Files {
		dir := f.Dir()
		layer := LayerOf(dir)
		real := within(dir, "internal/loop") || within(dir, "internal/sys") ||
			within(dir, "internal/uring") || within(dir, "internal/etcd")
		if f.Test || layer >= Product || real {
			continue
		}
		for _, use := range selectorUses(f.AST, nondeterministic) {
			out = append(out, Violation{"determinism", t.Fset.Position(use.Pos()).String(),
				"the real clock cannot be simulated: use env.Clock"})
		}
	}
	return out
}
