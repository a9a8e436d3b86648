package csi

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// node attaches volumes to this host and mounts them.
type node struct {
	spec.UnimplementedNodeServer
	log       *slog.Logger
	id        string
	config    string // path of the configuration file, unless a volume has another one
	run       Runner
	images    images
	guard     *guard
	attachers []Attacher
	method    string // of attachers; "" = the first that this host has
	states    states
	maxGiven  int64 // volumes; 0 = what the attacher can do

	mu     sync.Mutex
	chosen Attacher
}

// nodeRPCs are what the service announces.
var nodeRPCs = []spec.NodeServiceCapability_RPC_Type{
	spec.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	spec.NodeServiceCapability_RPC_EXPAND_VOLUME,
	spec.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	spec.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	spec.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
}

// NodeGetCapabilities implements the RPC.
func (n *node) NodeGetCapabilities(context.Context, *spec.NodeGetCapabilitiesRequest) (*spec.NodeGetCapabilitiesResponse, error) {
	r := &spec.NodeGetCapabilitiesResponse{}
	for _, t := range nodeRPCs {
		r.Capabilities = append(r.Capabilities, &spec.NodeServiceCapability{
			Type: &spec.NodeServiceCapability_Rpc{Rpc: &spec.NodeServiceCapability_RPC{Type: t}}})
	}
	return r, nil
}

// NodeGetInfo implements the RPC.
func (n *node) NodeGetInfo(ctx context.Context, _ *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	limit := n.maxGiven
	if limit == 0 {
		if a, err := n.attacher(ctx); err == nil {
			limit = a.Max()
		} else {
			n.log.Warn("volumes cannot be attached here", "err", err)
		}
	}
	return &spec.NodeGetInfoResponse{NodeId: n.id, MaxVolumesPerNode: limit}, nil
}

// attacher is the way to attach new volumes, chosen once.
func (n *node) attacher(ctx context.Context) (Attacher, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.chosen != nil {
		return n.chosen, nil
	}
	a, err := choose(ctx, n.attachers, n.method)
	if err == nil {
		n.chosen = a
		n.log.Info("volumes are attached", "method", a.Method())
	}
	return a, err
}

// attached is everything that is attached here, by any method.
func (n *node) attached(ctx context.Context) ([]Attachment, error) {
	known := n.states.load()
	var all []Attachment
	for _, a := range n.attachers {
		var mine []Attachment
		for _, k := range known {
			if k.Method == a.Method() {
				mine = append(mine, k)
			}
		}
		found, err := a.List(ctx, mine)
		if err != nil {
			return nil, err
		}
		for i := range found {
			found[i].Method = a.Method()
			if found[i].ConfigPath == "" {
				found[i].ConfigPath = n.config
			}
		}
		all = append(all, found...)
	}
	return all, nil
}

// attachments are those of a volume: one, unless we were killed in between.
func (n *node) attachments(ctx context.Context, h handle) ([]Attachment, error) {
	all, err := n.attached(ctx)
	var own []Attachment
	for i := range all {
		if all[i].is(h) {
			own = append(own, all[i])
		}
	}
	return own, err
}

// by is the attacher of a method, which is one of ours.
func (n *node) by(method string) Attacher {
	for _, a := range n.attachers {
		if a.Method() == method {
			return a
		}
	}
	return nil
}

// volume reads an id for calls that need the volume to be ours.
func (n *node) volume(id string) (handle, error) {
	if id == "" {
		return handle{}, invalid("volume_id is missing")
	}
	h, err := parseHandle(id, n.config)
	switch {
	case err != nil || h.Snapshot != "":
		return h, notFound("there is no volume %q", id)
	case h.VitastorFS != "":
		return h, errFileSystem(h)
	}
	return h, nil
}

// nothing is the answer of calls that have none.
type nothing = struct{}

// act runs f for a volume that nobody else acts on.
func (n *node) act(ctx context.Context, h handle, what string, f func(context.Context) error) error {
	_, err := guarded(ctx, n.guard, locks{alone: []string{h.key()}}, func(ctx context.Context) (nothing, error) {
		return nothing{}, statusOf(f(ctx), "%s volume %s", what, h.Name)
	})
	return err
}

// NodeGetVolumeStats implements the RPC.
func (n *node) NodeGetVolumeStats(_ context.Context, r *spec.NodeGetVolumeStatsRequest) (*spec.NodeGetVolumeStatsResponse, error) {
	if r.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing")
	}
	if _, err := n.volume(r.GetVolumeId()); err != nil {
		return nil, err
	}
	m, err := n.mounted(r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	number, err := deviceNumber(r.GetVolumePath())
	if err != nil {
		return nil, statusOf(err, "statistics")
	}
	if number != "" {
		size, err := deviceBytes(r.GetVolumePath())
		return &spec.NodeGetVolumeStatsResponse{Usage: []*spec.VolumeUsage{{Unit: spec.VolumeUsage_BYTES, Total: int64(size)}}}, statusOf(err, "statistics")
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(m.target, &st); err != nil {
		return nil, statusOf(err, "statistics of %s", m.target)
	}
	return &spec.NodeGetVolumeStatsResponse{Usage: []*spec.VolumeUsage{
		{Unit: spec.VolumeUsage_BYTES, Total: int64(st.Blocks) * st.Bsize, Available: int64(st.Bavail) * st.Bsize, Used: int64(st.Blocks-st.Bfree) * st.Bsize},
		{Unit: spec.VolumeUsage_INODES, Total: int64(st.Files), Available: int64(st.Ffree), Used: int64(st.Files - st.Ffree)},
	}}, nil
}

// mounted is what is mounted on a path of a volume; NOT_FOUND if nothing is.
func (n *node) mounted(path string) (*mountPoint, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, notFound("there is no %s", path)
	}
	m, err := mountAt(path)
	if err == nil && m == nil {
		err = notFound("no volume is mounted on %s", path)
	}
	return m, statusOf(err, "%s", path)
}

// resizeWait is how long a device may take to have the new size of its image.
const resizeWait = 20 * time.Second

// NodeExpandVolume implements the RPC: waits until the device has the new size,
// of which the serving process tells the kernel, and enlarges the file system.
func (n *node) NodeExpandVolume(ctx context.Context, r *spec.NodeExpandVolumeRequest) (*spec.NodeExpandVolumeResponse, error) {
	if r.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing")
	}
	want, err := sizesOf(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	h, err := n.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	m, err := n.mounted(r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	size := uint64(0)
	err = n.act(ctx, h, "enlarging", func(ctx context.Context) error {
		size, err = n.expand(ctx, h, m, want.least)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &spec.NodeExpandVolumeResponse{CapacityBytes: int64(size)}, nil
}

func (n *node) expand(ctx context.Context, h handle, m *mountPoint, least uint64) (uint64, error) {
	i, err := n.images.find(ctx, h)
	switch {
	case err != nil:
		return 0, err
	case i == nil:
		return 0, notFound("there is no image %s in the cluster of %s", h.Name, h.ConfigPath)
	case i.Size < least:
		return 0, outOfRange("image %s has %d bytes, not %d: enlarge it first (ControllerExpandVolume)", h.Name, i.Size, least)
	}
	own, err := n.attachments(ctx, h)
	if err != nil {
		return 0, err
	}
	if len(own) == 0 {
		return 0, precondition("volume %s is not attached to this node", h.Name)
	}
	for end := time.Now().Add(resizeWait); ; time.Sleep(50 * time.Millisecond) {
		size, err := deviceBytes(own[0].Device)
		if err != nil {
			return 0, err
		}
		if size >= i.Size/512*512 {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return 0, precondition("%s still has %d bytes, its image %d: the kernel cannot enlarge it while it is used; restart the pods of the volume",
				own[0].Device, size, i.Size)
		}
	}
	if number, err := deviceNumber(m.target); err != nil || number != "" || m.readOnly() {
		return i.Size, err
	}
	f := filesystem{run: n.run, device: own[0].Device, fsType: m.fsType}
	return i.Size, f.grow(ctx, m.target)
}

// NodeGetVolumeHealth implements the RPC.
func (n *node) NodeGetVolumeHealth(ctx context.Context, r *spec.NodeGetVolumeHealthRequest) (*spec.NodeGetVolumeHealthResponse, error) {
	h, err := n.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	own, err := n.attachments(ctx, h)
	if err != nil {
		return nil, statusOf(err, "volume %s", h.Name)
	}
	health := &spec.VolumeHealth{VolumeId: r.GetVolumeId()}
	for i := range own {
		if own[i].Dead {
			health.HealthStatuses = append(health.HealthStatuses, sickness{inaccessible, "DeviceDead",
				"the process that serves " + own[i].Device + " has died, and is about to be restarted"}.entry())
		}
	}
	return &spec.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}
