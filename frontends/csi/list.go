package csi

import (
	"cmp"
	"context"
	"encoding/base64"
	"path/filepath"
	"slices"
	"strings"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
)

// item is an image in the cluster of a configuration file.
type item struct {
	at    handle
	image image
}

// compare is the order of lists, by cluster and name.
func (i *item) compare(other handle) int {
	return cmp.Or(strings.Compare(i.at.ConfigPath, other.ConfigPath), strings.Compare(i.at.Name, other.Name),
		strings.Compare(i.at.Snapshot, other.Snapshot))
}

// configs are the configuration files: clusters have one each, all in one
// folder.
func (c *controller) configs() []string {
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(c.config), "*.conf"))
	found = slices.DeleteFunc(found, func(path string) bool { return checkConfig(path) != nil })
	if !slices.Contains(found, c.config) {
		found = append(found, c.config)
	}
	return found
}

// collect lists what is wanted of all clusters, in order.
func (c *controller) collect(ctx context.Context, want func(*image) bool) ([]item, error) {
	var items []item
	for _, path := range c.configs() {
		list, err := c.images.list(ctx, path)
		if err != nil {
			return nil, statusOf(err, "images of the cluster of %s", path)
		}
		for _, i := range list {
			if !i.Deleted && want(&i) {
				items = append(items, item{handleOf(path, i.Name), i})
			}
		}
	}
	slices.SortFunc(items, func(a, b item) int { return a.compare(b.at) })
	return items, nil
}

// A token is the last item of a page, so that pages have no gaps when other
// items come and go meanwhile.
const tokenMark = "after:"

func tokenOf(h handle) string {
	return tokenMark + base64.RawURLEncoding.EncodeToString([]byte(h.String()))
}

// page is the items after a token, and the token of the next page.
func page(items []item, token string, limit int32) ([]item, string, error) {
	if limit < 0 {
		return nil, "", invalid("max_entries is negative")
	}
	if token != "" {
		text, is := strings.CutPrefix(token, tokenMark)
		id, err := base64.RawURLEncoding.DecodeString(text)
		last, bad := parseHandle(string(id), "")
		if !is || err != nil || bad != nil {
			return nil, "", aborted("starting_token %q is not one of ours: begin anew", token)
		}
		from, found := slices.BinarySearchFunc(items, last, func(i item, h handle) int { return i.compare(h) })
		if found {
			from++
		}
		items = items[from:]
	}
	if limit == 0 || int(limit) >= len(items) {
		return items, "", nil
	}
	items = items[:limit]
	return items, tokenOf(items[limit-1].at), nil
}

// ListVolumes implements the RPC: all images of all clusters that we know.
func (c *controller) ListVolumes(ctx context.Context, r *spec.ListVolumesRequest) (*spec.ListVolumesResponse, error) {
	if _, _, err := page(nil, r.GetStartingToken(), r.GetMaxEntries()); err != nil {
		return nil, err
	}
	items, err := c.collect(ctx, func(i *image) bool { return !strings.Contains(i.Name, "@") })
	if err != nil {
		return nil, err
	}
	items, next, err := page(items, r.GetStartingToken(), r.GetMaxEntries())
	answer := &spec.ListVolumesResponse{NextToken: next}
	for i := range items {
		answer.Entries = append(answer.Entries, &spec.ListVolumesResponse_Entry{
			Volume: &spec.Volume{VolumeId: items[i].at.String(), CapacityBytes: int64(items[i].image.Size)}})
	}
	return answer, err
}

// ListSnapshots implements the RPC: all snapshots, those of a volume, or one.
func (c *controller) ListSnapshots(ctx context.Context, r *spec.ListSnapshotsRequest) (*spec.ListSnapshotsResponse, error) {
	if _, _, err := page(nil, r.GetStartingToken(), r.GetMaxEntries()); err != nil {
		return nil, err
	}
	answer := &spec.ListSnapshotsResponse{}
	add := func(h handle, i *image) {
		answer.Entries = append(answer.Entries, &spec.ListSnapshotsResponse_Entry{Snapshot: snapshotOf(h, i)})
	}
	if id := r.GetSnapshotId(); id != "" {
		h, found, err := c.snapshot(ctx, id)
		if err == nil && found != nil && (r.GetSourceVolumeId() == "" || r.GetSourceVolumeId() == h.volume().String()) {
			add(h, found)
		}
		return answer, err
	}
	source := handle{}
	if id := r.GetSourceVolumeId(); id != "" {
		var err error
		if source, err = parseHandle(id, c.config); err != nil {
			return answer, nil
		}
	}
	items, err := c.collect(ctx, func(i *image) bool {
		return i.snapshot() != "" && !strings.HasPrefix(i.snapshot(), cloneMark) && (source.Name == "" || i.volume() == source.Name)
	})
	if err != nil {
		return nil, err
	}
	items = slices.DeleteFunc(items, func(i item) bool { return source.Name != "" && i.at.ConfigPath != source.ConfigPath })
	items, answer.NextToken, err = page(items, r.GetStartingToken(), r.GetMaxEntries())
	for i := range items {
		add(items[i].at, &items[i].image)
	}
	return answer, err
}
