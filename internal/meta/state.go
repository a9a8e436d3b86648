package meta

import (
	"fmt"
	"strings"
)

// Scheme is how a pool protects its data.
type Scheme uint8

const (
	Replicated Scheme = iota + 1
	XOR
	EC
)

// ParseScheme understands the names in config/pools ("jerasure" is an old name
// of "ec").
func ParseScheme(s string) (Scheme, error) {
	switch s {
	case "replicated":
		return Replicated, nil
	case "xor":
		return XOR, nil
	case "ec", "jerasure":
		return EC, nil
	}
	return 0, fmt.Errorf("unknown pool scheme %q: use replicated, xor or ec", s)
}

func (s Scheme) String() string {
	return [...]string{"none", "replicated", "xor", "ec"}[min(s, EC+1)%(EC+1)]
}

// CommitMode says which writes are durable when they are acknowledged
// (immediate_commit).
type CommitMode uint8

const (
	CommitNone  CommitMode = iota // none: only SYNC makes writes durable
	CommitSmall                   // writes smaller than a block
	CommitAll                     // every write
)

// ParseCommitMode understands none, small and all.
func ParseCommitMode(s string) (CommitMode, error) {
	switch s {
	case "none":
		return CommitNone, nil
	case "small":
		return CommitSmall, nil
	case "all":
		return CommitAll, nil
	}
	return 0, fmt.Errorf("unknown immediate_commit %q: use all, small or none", s)
}

func (m CommitMode) String() string {
	return [...]string{"none", "small", "all"}[min(m, CommitAll)]
}

// PGState is a set of PG state bits (osd.md §10). Exactly one of the
// life-cycle bits is set.
type PGState uint32

const (
	PGStarting        PGState = 1 << iota // trying to acquire the etcd key
	PGPeering                             // listing objects
	PGIncomplete                          // not enough OSDs
	PGActive                              // serves clients
	PGRepeering                           // waits for operations, then peers again
	PGStopping                            // waits for operations and locks
	PGOffline                             // released
	PGDegraded                            // fewer OSDs than pg_size
	PGHasIncomplete                       // objects that cannot be read
	PGHasDegraded                         // objects with missing copies
	PGHasMisplaced                        // objects on wrong OSDs
	PGHasUnclean                          // unstable versions to flush
	PGHasInvalid                          // objects with impossible roles
	PGHasCorrupted                        // objects with corrupted copies
	PGHasInconsistent                     // objects whose copies differ
	PGLeftOnDead                          // some former members are dead
	PGScrubbing                           // being verified
)

// PGLifeCycle are the bits of which exactly one is set.
const PGLifeCycle = PGStarting | PGPeering | PGIncomplete | PGActive |
	PGRepeering | PGStopping | PGOffline

// pgStateNames is in the canonical order of pg/state arrays (etcd.md 2.7.2),
// which is not the order of the bits. Scripts compare the arrays literally.
var pgStateNames = []struct {
	bit  PGState
	name string
}{
	{PGStarting, "starting"}, {PGPeering, "peering"}, {PGIncomplete, "incomplete"},
	{PGActive, "active"}, {PGRepeering, "repeering"}, {PGStopping, "stopping"},
	{PGOffline, "offline"}, {PGDegraded, "degraded"},
	{PGHasInconsistent, "has_inconsistent"}, {PGHasCorrupted, "has_corrupted"},
	{PGHasIncomplete, "has_incomplete"}, {PGHasDegraded, "has_degraded"},
	{PGHasMisplaced, "has_misplaced"}, {PGHasUnclean, "has_unclean"},
	{PGHasInvalid, "has_invalid"}, {PGLeftOnDead, "left_on_dead"},
	{PGScrubbing, "scrubbing"},
}

// Names returns the keywords of s in canonical order.
func (s PGState) Names() []string {
	names := make([]string, 0, 4)
	for _, n := range pgStateNames {
		if s&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

func (s PGState) String() string { return strings.Join(s.Names(), "+") }

// ParsePGState reads the keywords of pg/state. Like every reader in a mixed
// cluster it refuses a state with an unknown word or a wrong combination.
func ParsePGState(names []string) (PGState, error) {
	s := PGState(0)
	for _, name := range names {
		bit := pgStateBit(name)
		if bit == 0 {
			return 0, fmt.Errorf("unknown PG state keyword %q", name)
		}
		s |= bit
	}
	return s, s.Validate()
}

func pgStateBit(name string) PGState {
	for _, n := range pgStateNames {
		if n.name == name {
			return n.bit
		}
	}
	return 0
}

// Validate checks the combination of bits (etcd.md 2.7.2): offline and peering
// stand alone, incomplete goes only with has_invalid.
func (s PGState) Validate() error {
	life := s & PGLifeCycle
	switch {
	case life == 0 || life&(life-1) != 0:
		return fmt.Errorf("PG state %q must have exactly one of starting, peering, "+
			"incomplete, active, repeering, stopping, offline", s)
	case life&(PGOffline|PGPeering) != 0 && s != life,
		life == PGIncomplete && s&^PGHasInvalid != life:
		return fmt.Errorf("PG state %q combines words that exclude each other", s)
	}
	return nil
}

// ObjectState is a set of object state bits; 0 = clean (osd.md §3).
type ObjectState uint32

const (
	ObjectDegraded     ObjectState = 0x02
	ObjectIncomplete   ObjectState = 0x04
	ObjectMisplaced    ObjectState = 0x08
	ObjectCorrupted    ObjectState = 0x10
	ObjectInconsistent ObjectState = 0x20
)

var objectStateNames = []struct {
	bit  ObjectState
	name string
}{
	{ObjectDegraded, "degraded"}, {ObjectIncomplete, "incomplete"},
	{ObjectMisplaced, "misplaced"}, {ObjectCorrupted, "corrupted"},
	{ObjectInconsistent, "inconsistent"},
}

func (s ObjectState) String() string {
	if s == 0 {
		return "clean"
	}
	var names []string
	for _, n := range objectStateNames {
		if s&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "+")
}

// LocBad says what is wrong with one location of an object; 0 = good.
type LocBad uint32

const (
	LocOutdated     LocBad = 1 // holds an older version
	LocCorrupted    LocBad = 2 // unreadable or fails its checksum
	LocInconsistent LocBad = 4 // differs from the others
)
