package csi

import (
	"context"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// sickness is something wrong with a volume: how bad it is, what it is called,
// and what it means.
type sickness struct {
	status          spec.VolumeHealthErrorType
	reason, message string
}

func (s sickness) entry() *spec.VolumeHealth_VolumeHealthEntry {
	return &spec.VolumeHealth_VolumeHealthEntry{Status: s.status, Reason: s.reason, Message: s.message}
}

const (
	dataLoss     = spec.VolumeHealthErrorType_DATA_LOSS
	inaccessible = spec.VolumeHealthErrorType_INACCESSIBLE
	degraded     = spec.VolumeHealthErrorType_DEGRADED
)

// poolHealth is what the state of a pool means for its volumes.
var poolHealth = map[string]sickness{
	"inactive":       {inaccessible, "PoolInactive", "some placement groups of the pool are not active: I/O waits until OSDs are back"},
	"has_incomplete": {inaccessible, "PoolIncomplete", "some objects of the pool cannot be read until OSDs are back"},
	"degraded":       {degraded, "PoolDegraded", "OSDs of the pool are down"},
	"has_degraded":   {degraded, "PoolDegraded", "some objects of the pool have too few copies, recovery is going on"},
}

// ControllerGetVolumeHealth implements the RPC.
func (c *controller) ControllerGetVolumeHealth(ctx context.Context, r *spec.ControllerGetVolumeHealthRequest) (*spec.ControllerGetVolumeHealthResponse, error) {
	h, found, err := c.existing(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	pools, err := c.images.pools(ctx, h.ConfigPath)
	if err != nil {
		return nil, statusOf(err, "pool of volume %s", h.Name)
	}
	health := &spec.VolumeHealth{VolumeId: r.GetVolumeId()}
	if found.Deleted {
		health.HealthStatuses = append(health.HealthStatuses, sickness{dataLoss, "BeingRemoved", "the removal of the image was begun"}.entry())
	}
	for _, p := range pools {
		if bad, is := poolHealth[p.Status]; is && p.ID == found.PoolID {
			health.HealthStatuses = append(health.HealthStatuses, bad.entry())
		}
	}
	return &spec.ControllerGetVolumeHealthResponse{VolumeHealth: health}, nil
}
