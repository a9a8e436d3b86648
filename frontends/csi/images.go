package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// images are the image operations of vitastor-cli.
type images struct {
	run     Runner
	program string
}

// image is a row of `vitastor-cli ls --json`.
type image struct {
	Name     string `json:"name"`
	Size     uint64 `json:"size"` // bytes
	Deleted  bool   `json:"deleted"`
	PoolID   uint64 `json:"pool_id"`
	PoolName string `json:"pool_name"`
	Parent   string `json:"parent_name"`
	// CreateTS is when a snapshot was made, in seconds of Unix time; 0 = nobody
	// knows.
	CreateTS int64 `json:"create_ts"`
	Meta     struct {
		CreateTS int64 `json:"create_ts"`
	} `json:"meta"`
}

// volume and snapshot are the parts of the name.
func (i *image) volume() string   { v, _, _ := strings.Cut(i.Name, "@"); return v }
func (i *image) snapshot() string { _, s, _ := strings.Cut(i.Name, "@"); return s }

// made is the time of creation.
func (i *image) made() time.Time { return time.Unix(max(i.CreateTS, i.Meta.CreateTS), 0) }

// inPool tells whether the image is in a pool, given by name or number.
func (i *image) inPool(pool string) bool {
	return i.PoolName == pool || strconv.FormatUint(i.PoolID, 10) == pool
}

// pool is a row of `vitastor-cli df --json`.
type pool struct {
	ID           uint64 `json:"id"`
	Name         string `json:"name"`
	Status       string `json:"status"`
	MaxAvailable uint64 `json:"max_available"` // bytes of image data
}

// is tells whether a pool is meant by a name or number.
func (p *pool) is(name string) bool { return p.Name == name || strconv.FormatUint(p.ID, 10) == name }

// cli runs vitastor-cli and returns its JSON.
func (s images) cli(ctx context.Context, configPath string, args ...string) (string, error) {
	c := Command{s.program, append([]string{"--json", "--progress", "0", "--config_path", configPath}, args...)}
	r, err := s.run.Run(ctx, c)
	if err != nil {
		return "", err
	}
	if r.Code == 0 {
		return r.Out, nil
	}
	var answer struct {
		Text string `json:"error_text"`
	}
	if json.Unmarshal([]byte(r.Out), &answer) != nil || answer.Text == "" {
		answer.Text = strings.TrimSpace(r.Err)
	}
	if answer.Text == "" {
		answer.Text = fmt.Sprintf("%s has failed without a word", c)
	}
	errno := syscall.Errno(r.Code)
	if r.Code >= 128 { // a signal
		errno = syscall.EIO
	}
	return "", &cliError{errno, answer.Text}
}

// list is all images and snapshots, or those of the given names, without an
// order.
func (s images) list(ctx context.Context, configPath string, names ...string) ([]image, error) {
	args := []string{"ls"}
	if len(names) > 0 {
		args = append(append(args, "--exact", "--"), names...)
	}
	out, err := s.cli(ctx, configPath, args...)
	if err != nil {
		return nil, err
	}
	var list []image
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("%s ls: %w", s.program, err)
	}
	return list, nil
}

// find is an image or snapshot, nil if there is none.
func (s images) find(ctx context.Context, h handle) (*image, error) {
	list, err := s.list(ctx, h.ConfigPath, h.image())
	if err != nil {
		return nil, err
	}
	return named(list, h.image()), nil
}

func named(list []image, name string) *image {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func (s images) create(ctx context.Context, h handle, pool string, bytes uint64, parent string) error {
	args := []string{"create", "--size", strconv.FormatUint(bytes, 10), "--pool", pool}
	if parent != "" {
		args = append(args, "--parent", parent)
	}
	_, err := s.cli(ctx, h.ConfigPath, append(args, "--", h.Name)...)
	return err
}

// freeze makes a snapshot.
func (s images) freeze(ctx context.Context, h handle) error {
	meta := fmt.Sprintf(`{"create_ts":%d}`, time.Now().Unix())
	_, err := s.cli(ctx, h.ConfigPath, "create", "--snapshot", h.Snapshot, "--image_meta", meta, "--", h.Name)
	return err
}

// remove removes an image or snapshot, also if it is not there.
func (s images) remove(ctx context.Context, h handle) error {
	_, err := s.cli(ctx, h.ConfigPath, "rm", "--", h.image())
	if failed(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// grow makes an image at least so large.
func (s images) grow(ctx context.Context, h handle, bytes uint64) error {
	_, err := s.cli(ctx, h.ConfigPath, "modify", "--inc_size", "1", "--resize", strconv.FormatUint(bytes, 10), "--", h.Name)
	return err
}

func (s images) pools(ctx context.Context, configPath string) ([]pool, error) {
	out, err := s.cli(ctx, configPath, "df")
	if err != nil {
		return nil, err
	}
	var list []pool
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("%s df: %w", s.program, err)
	}
	return list, nil
}

// checkConfig tells what is wrong with a configuration file.
func checkConfig(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: the ConfigMap vitastor-config is mounted there, and has to have this file", err)
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, has := config["etcd_address"]; !has {
		return fmt.Errorf("%s has no etcd_address", path)
	}
	return nil
}
