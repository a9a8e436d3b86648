package csi

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

const (
	mib = 1 << 20
	// sizeDefault is for requests that do not say a size.
	sizeDefault = 1 << 30
	// sizeUnit is what sizes are rounded up to, sizeAlign what they must be
	// multiples of if that is too much for the request.
	sizeUnit, sizeAlign = mib, 4096
	// sizeMax is the largest size that can be rounded up.
	sizeMax = 1<<63 - sizeUnit
	// cloneMark begins names of snapshots which exist only because a volume was
	// cloned from another one.
	cloneMark = "csi-clone-"
)

// params are the parameters of a StorageClass (spec integrations.md §4).
type params struct {
	pool       string // name or number
	prefix     string // of image names
	configPath string
}

// obsolete parameters were used by older drivers, and mean nothing any more.
var obsolete = []string{"etcdUrl", "etcdPrefix"}

// parseParams reads them.
func parseParams(given map[string]string, defaultConfig string, log *slog.Logger) (params, error) {
	p := params{pool: given["poolId"], prefix: given["volumePrefix"], configPath: given["configPath"]}
	if p.prefix == "" {
		p.prefix = given["etcdVolumePrefix"]
	}
	if p.configPath == "" {
		p.configPath = defaultConfig
	}
	for name := range given {
		if !slices.Contains([]string{"poolId", "volumePrefix", "etcdVolumePrefix", "configPath", "vitastorfs"}, name) &&
			!slices.Contains(obsolete, name) && !strings.HasPrefix(name, "csi.storage.k8s.io/") {
			log.Warn("a parameter of the StorageClass is ignored: nobody knows it", "parameter", name)
		}
	}
	switch {
	case given["vitastorfs"] != "":
		return p, invalid("parameter vitastorfs: this driver makes no volumes in file systems, only block volumes (also with a file system on them)")
	case p.pool == "":
		return p, invalid("parameter poolId is missing: it is the name or number of a pool, see `vitastor-cli ls-pools`")
	case !filepath.IsAbs(p.configPath):
		return p, invalid("parameter configPath: %q is no absolute path", p.configPath)
	case strings.Contains(p.prefix, "@"):
		return p, invalid("parameter volumePrefix: %q must not contain @", p.prefix)
	}
	return p, nil
}

// checkName tells whether a name can be that of an image or a snapshot.
func checkName(kind, name string) error {
	switch {
	case name == "":
		return invalid("the name of the %s is missing", kind)
	case strings.Contains(name, "@"):
		return invalid("the name of the %s must not contain @: %q", kind, name)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid("the name of the %s must not contain control characters: %q", kind, name)
	case kind == "snapshot" && strings.HasPrefix(name, cloneMark):
		return invalid("names of snapshots that begin with %s are reserved: %q", cloneMark, name)
	}
	return nil
}

// sizes is what a request allows, in bytes; most = 0 is no limit.
type sizes struct{ least, most uint64 }

func sizesOf(r *spec.CapacityRange) (sizes, error) {
	least, most := r.GetRequiredBytes(), r.GetLimitBytes()
	switch {
	case least < 0 || most < 0:
		return sizes{}, invalid("capacity_range: negative sizes make no sense")
	case most > 0 && least > most:
		return sizes{}, invalid("capacity_range: required_bytes %d is more than limit_bytes %d", least, most)
	case least > sizeMax:
		return sizes{}, outOfRange("capacity_range: %d bytes are more than any volume can have", least)
	}
	return sizes{uint64(least), uint64(most)}, nil
}

// choose is the size of a new volume; usual is what nobody objects to.
func (s sizes) choose(usual uint64) (uint64, error) {
	size := s.least
	if size == 0 {
		size = usual
		if s.most > 0 && size > s.most {
			size = s.most / sizeAlign * sizeAlign
		}
	}
	for _, unit := range []uint64{sizeUnit, sizeAlign} {
		rounded := (size + unit - 1) / unit * unit
		if rounded > 0 && s.allow(rounded) {
			return rounded, nil
		}
	}
	return 0, outOfRange("capacity_range: there is no multiple of %d between required_bytes %d and limit_bytes %d", sizeAlign, s.least, s.most)
}

// allow tells whether a volume of a size is what was asked for.
func (s sizes) allow(bytes uint64) bool { return bytes >= s.least && (s.most == 0 || bytes <= s.most) }
