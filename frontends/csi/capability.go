package csi

import (
	"fmt"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

type mode = spec.VolumeCapability_AccessMode_Mode

const (
	singleNodeWriter       = spec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	singleNodeReader       = spec.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	singleNodeSingleWriter = spec.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	singleNodeMultiWriter  = spec.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	multiNodeReader        = spec.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	multiNodeSingleWriter  = spec.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	multiNodeMultiWriter   = spec.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

// use is how a volume is to be used.
type use struct {
	mode    mode
	block   bool
	fsType  string   // unless block
	options []string // of mount
}

// fsTypes are the file systems that we can make.
var fsTypes = map[string]bool{"ext4": true, "xfs": true}

const fsTypeDefault = "ext4"

// readOnly tells whether the mode allows no writers.
func (u use) readOnly() bool { return u.mode == singleNodeReader || u.mode == multiNodeReader }

// parseUse reads a capability, or tells why a volume cannot be used so.
func parseUse(c *spec.VolumeCapability) (use, error) {
	if c == nil {
		return use{}, fmt.Errorf("volume_capability is missing")
	}
	u := use{mode: c.GetAccessMode().GetMode()}
	switch {
	case c.GetBlock() != nil:
		u.block = true
	case c.GetMount() != nil:
		u.fsType, u.options = c.GetMount().GetFsType(), c.GetMount().GetMountFlags()
		if u.fsType == "" {
			u.fsType = fsTypeDefault
		}
		if !fsTypes[u.fsType] {
			return use{}, fmt.Errorf("file system %q is not supported: use ext4 or xfs", u.fsType)
		}
	default:
		return use{}, fmt.Errorf("volume_capability is neither block nor mount")
	}
	switch u.mode {
	case singleNodeWriter, singleNodeReader, singleNodeSingleWriter, singleNodeMultiWriter, multiNodeReader:
		return u, nil
	case multiNodeSingleWriter, multiNodeMultiWriter:
		if u.block {
			return u, nil
		}
		return use{}, fmt.Errorf("access mode %v is for block volumes only: a file system that several nodes write to would be destroyed", u.mode)
	}
	return use{}, fmt.Errorf("access mode %v is not supported", u.mode)
}

// parseUses reads several; all must be possible.
func parseUses(list []*spec.VolumeCapability) error {
	if len(list) == 0 {
		return fmt.Errorf("volume_capabilities are missing")
	}
	for _, c := range list {
		if _, err := parseUse(c); err != nil {
			return err
		}
	}
	return nil
}
