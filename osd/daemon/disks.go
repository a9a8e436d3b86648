package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"vitastor/internal/env"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/config"
	"vitastor/osd/store"
	"vitastor/osd/store/layout"
)

// disks are the devices of the OSD, opened.
type disks struct {
	env    *env.Env
	opened []openDisk
	buf    []byte // superblock
	op     env.DiskOp
}

type openDisk struct {
	path string
	mode env.DiskMode
	disk env.Disk
}

// open opens a device, or finds it among those that are open.
func (d *disks) open(dev config.Device, given bool) (env.Disk, error) {
	for i := range d.opened {
		o := &d.opened[i]
		switch {
		case o.path != dev.Path:
		case o.mode == dev.Options.Mode:
			return o.disk, nil
		default: // the superblock wants another mode than was assumed
			o.disk.Close()
			d.opened = append(d.opened[:i], d.opened[i+1:]...)
			return d.open(dev, given)
		}
	}
	disk, err := d.env.Storage.OpenDisk(dev.Path, dev.Options)
	if errors.Is(err, syscall.EINVAL) && dev.Options.Mode == env.DiskDirect && !given {
		// A file on a file system without direct I/O, as vitastor-disk accepts.
		cached := dev
		cached.Options.Mode = env.DiskCached
		if disk, err = d.env.Storage.OpenDisk(cached.Path, cached.Options); err == nil {
			d.env.Log.Warn("the file system has no direct I/O, its cache is used (data_io, meta_io, journal_io): slower, and for trying out only", "path", dev.Path)
		}
	}
	if err != nil {
		return nil, err
	}
	d.opened = append(d.opened, openDisk{dev.Path, dev.Options.Mode, disk})
	return disk, nil
}

// readSuperblock reads the superblock of the data device; without one the layer
// is empty. done is called later.
func (d *disks) readSuperblock(disk env.Disk, done func(option.Layer, error)) {
	path := disk.Info().Path
	layer := option.Layer{Source: option.Superblock, Where: "the superblock on " + path}
	if disk.Info().SizeBytes < layout.SuperblockBytes {
		done(layer, fmt.Errorf("%s: has only %d bytes: is it the disk that vitastor-disk prepare was used on?", path, disk.Info().SizeBytes))
		return
	}
	d.read(disk, layout.SuperblockBytes, func(b []byte, err error) {
		if err != nil {
			done(layer, err)
			return
		}
		size, err := layout.SuperblockSize(b)
		switch {
		case err != nil: // there is none: the command line has to tell everything
			done(layer, nil)
		case size <= len(b):
			done(parseSuperblock(layer, path, b))
		default:
			d.read(disk, (size+layout.SuperblockBytes-1)/layout.SuperblockBytes*layout.SuperblockBytes, func(b []byte, err error) {
				if err != nil {
					done(layer, err)
					return
				}
				done(parseSuperblock(layer, path, b))
			})
		}
	})
}

func parseSuperblock(layer option.Layer, path string, b []byte) (option.Layer, error) {
	o, err := layout.DecodeSuperblock(b)
	if err != nil {
		return layer, fmt.Errorf("%s: %w", path, err)
	}
	text, err := json.Marshal(o)
	if err == nil {
		layer.Values, err = schema.DecodeObject(layer.Where, text)
	}
	return layer, err
}

// read reads the first n bytes of a device.
func (d *disks) read(disk env.Disk, n int, done func([]byte, error)) {
	path := disk.Info().Path
	pinned.Free(d.buf)
	var err error
	if d.buf, err = pinned.AlignedBuffer(n); err != nil {
		done(nil, err)
		return
	}
	d.op = env.DiskOp{Kind: env.DiskRead, Buf: d.buf, Done: func(op *env.DiskOp) {
		if op.Err != nil {
			done(nil, fmt.Errorf("%s: cannot read the superblock: %w", path, op.Err))
			return
		}
		done(d.buf, nil)
	}}
	disk.Submit(&d.op)
}

// openAll opens the devices of the three areas and derives where these are.
func (d *disks) openAll(c *config.Config) (all store.Disks, p *layout.Params, err error) {
	data, metadata, buffer := c.Devices()
	if all.Data, err = d.open(data, c.Set.Given("data_io")); err != nil {
		return all, nil, err
	}
	if all.Meta, err = d.openArea(metadata, data, c.Set.Given("meta_io")); err != nil {
		return all, nil, err
	}
	if all.Buffer, err = d.openArea(buffer, metadata, c.Set.Given("journal_io")); err != nil {
		return all, nil, err
	}
	bytes := func(disk env.Disk) uint64 { return uint64(disk.Info().SizeBytes) }
	p, err = layout.NewParams(c.LayoutOptions(), layout.DeviceBytes{Data: bytes(all.Data), Meta: bytes(all.Meta), Buffer: bytes(all.Buffer)})
	if err != nil {
		err = fmt.Errorf("%s: %w", data.Path, err)
	}
	return all, p, err
}

// openArea opens the device of an area; one that is open already for the
// previous area stays as it is.
func (d *disks) openArea(dev, previous config.Device, given bool) (env.Disk, error) {
	if dev.Path == previous.Path {
		dev = previous
	}
	for _, o := range d.opened {
		if o.path == dev.Path {
			return o.disk, nil
		}
	}
	return d.open(dev, given)
}

// close gives the devices back.
func (d *disks) close() {
	for _, o := range d.opened {
		o.disk.Close()
	}
	d.opened = nil
	pinned.Free(d.buf)
	d.buf = nil
}
