package csi

import (
	"context"
	"log/slog"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// controller makes and removes volumes and snapshots; any node may run it, and
// several may.
type controller struct {
	spec.UnimplementedControllerServer
	log    *slog.Logger
	config string // path of the configuration file, unless a volume has another one
	images images
	guard  *guard
}

// controllerRPCs are what the service announces.
var controllerRPCs = []spec.ControllerServiceCapability_RPC_Type{
	spec.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	spec.ControllerServiceCapability_RPC_CLONE_VOLUME,
	spec.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	spec.ControllerServiceCapability_RPC_LIST_VOLUMES,
	spec.ControllerServiceCapability_RPC_GET_VOLUME,
	spec.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
	spec.ControllerServiceCapability_RPC_GET_CAPACITY,
	spec.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	spec.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
	spec.ControllerServiceCapability_RPC_GET_SNAPSHOT,
	spec.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
}

// ControllerGetCapabilities implements the RPC.
func (c *controller) ControllerGetCapabilities(context.Context, *spec.ControllerGetCapabilitiesRequest) (*spec.ControllerGetCapabilitiesResponse, error) {
	r := &spec.ControllerGetCapabilitiesResponse{}
	for _, t := range controllerRPCs {
		r.Capabilities = append(r.Capabilities, &spec.ControllerServiceCapability{
			Type: &spec.ControllerServiceCapability_Rpc{Rpc: &spec.ControllerServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// existing finds the volume of an id; errors have a code.
func (c *controller) existing(ctx context.Context, id string) (handle, *image, error) {
	if id == "" {
		return handle{}, nil, invalid("volume_id is missing")
	}
	h, err := parseHandle(id, c.config)
	if err != nil || h.Snapshot != "" {
		return h, nil, notFound("there is no volume %q", id)
	}
	if h.VitastorFS != "" {
		return h, nil, errFileSystem(h)
	}
	found, err := c.images.find(ctx, h)
	switch {
	case err != nil:
		return h, nil, statusOf(err, "volume %s", h.Name)
	case found == nil:
		return h, nil, notFound("there is no image %s in the cluster of %s", h.Name, h.ConfigPath)
	}
	return h, found, nil
}

// errFileSystem is about volumes in file systems, of the reference's driver.
func errFileSystem(h handle) error {
	return precondition("volume %s is a folder of the file system %s: this driver has block volumes only", h.Name, h.VitastorFS)
}

// ValidateVolumeCapabilities implements the RPC.
func (c *controller) ValidateVolumeCapabilities(ctx context.Context, r *spec.ValidateVolumeCapabilitiesRequest) (*spec.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() != "" && len(r.GetVolumeCapabilities()) == 0 {
		return nil, invalid("volume_capabilities are missing")
	}
	if _, _, err := c.existing(ctx, r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := parseUses(r.GetVolumeCapabilities()); err != nil {
		return &spec.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &spec.ValidateVolumeCapabilitiesResponse{Confirmed: &spec.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters()}}, nil
}

// ControllerGetVolume implements the RPC.
func (c *controller) ControllerGetVolume(ctx context.Context, r *spec.ControllerGetVolumeRequest) (*spec.ControllerGetVolumeResponse, error) {
	h, found, err := c.existing(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &spec.ControllerGetVolumeResponse{Volume: &spec.Volume{VolumeId: h.String(), CapacityBytes: int64(found.Size)},
		Status: &spec.ControllerGetVolumeResponse_VolumeStatus{}}, nil
}

// ControllerExpandVolume implements the RPC. The device and the file system are
// enlarged by the node.
func (c *controller) ControllerExpandVolume(ctx context.Context, r *spec.ControllerExpandVolumeRequest) (*spec.ControllerExpandVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if r.GetCapacityRange() == nil {
		return nil, invalid("capacity_range is missing")
	}
	want, err := sizesOf(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability() != nil {
		if _, err := parseUse(r.GetVolumeCapability()); err != nil {
			return nil, invalid("%v", err)
		}
	}
	h, _, err := c.existing(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return guarded(ctx, c.guard, locks{alone: []string{h.key()}}, func(ctx context.Context) (*spec.ControllerExpandVolumeResponse, error) {
		return c.expand(ctx, h, want)
	})
}

func (c *controller) expand(ctx context.Context, h handle, want sizes) (*spec.ControllerExpandVolumeResponse, error) {
	_, now, err := c.existing(ctx, h.String())
	if err != nil {
		return nil, err
	}
	size := now.Size
	if size < want.least {
		if size, err = want.choose(size); err != nil {
			return nil, err
		}
		if err := c.images.grow(ctx, h, size); err != nil {
			return nil, statusOf(err, "enlarging volume %s to %d bytes", h.Name, size)
		}
	}
	if !want.allow(size) {
		return nil, outOfRange("volume %s has %d bytes already, and cannot become smaller", h.Name, size)
	}
	return &spec.ControllerExpandVolumeResponse{CapacityBytes: int64(size), NodeExpansionRequired: true}, nil
}

// GetCapacity implements the RPC: what the pool of the parameters has room for,
// or, without parameters, the pool that has most.
func (c *controller) GetCapacity(ctx context.Context, r *spec.GetCapacityRequest) (*spec.GetCapacityResponse, error) {
	if len(r.GetVolumeCapabilities()) > 0 && parseUses(r.GetVolumeCapabilities()) != nil {
		return &spec.GetCapacityResponse{}, nil
	}
	p := params{configPath: c.config}
	if len(r.GetParameters()) > 0 {
		var err error
		if p, err = parseParams(r.GetParameters(), c.config, c.log); err != nil {
			return nil, err
		}
	}
	pools, err := c.images.pools(ctx, p.configPath)
	if err != nil {
		return nil, statusOf(err, "capacity of pools")
	}
	var most uint64
	for _, pool := range pools {
		if p.pool == "" || pool.is(p.pool) {
			most = max(most, pool.MaxAvailable)
		}
	}
	return &spec.GetCapacityResponse{AvailableCapacity: int64(most)}, nil
}
