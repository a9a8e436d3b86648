package disk

import (
	"errors"
	"fmt"
	"io/fs"

	"vitastor/osd/store/layout"
)

// OSD is a store with its devices open. The same Device stands for several
// areas if they share it.
type OSD struct {
	Options layout.Options
	Params  *layout.Params

	Data, Meta, Buffer *Device
	devices            []*Device // each once
}

// Close releases the devices and their locks.
func (s *OSD) Close() {
	for _, d := range s.devices {
		d.Close()
	}
}

// openOSD opens the OSD to which a device belongs.
func (t *Tool) openOSD(path string, a access) (*OSD, error) {
	o, _, err := t.readSuperblock(path, t.force)
	if err != nil {
		return nil, err
	}
	return t.openStore(o, a)
}

// openStore opens the devices that options name and derives the areas. The
// devices are locked: the store must not be in use.
func (t *Tool) openStore(o layout.Options, a access) (*OSD, error) {
	a.cached = a.cached || t.cached
	s := &OSD{Options: o}
	if err := s.open(o, a); err != nil {
		s.Close()
		return nil, err
	}
	if off, _ := o.Flag("disable_device_lock"); off {
		t.note("warning: %s: the OSD takes no lock (disable_device_lock): make sure that it is stopped", s.Data.Path)
	}
	return s, nil
}

func (s *OSD) open(o layout.Options, a access) (err error) {
	if format := o.Text("meta_format"); format == "" {
		o["meta_format"] = "3"
	}
	data, metadata, buffer := o.Devices()
	byPath := map[string]*Device{}
	for _, f := range []struct {
		path string
		into **Device
	}{{data, &s.Data}, {metadata, &s.Meta}, {buffer, &s.Buffer}} {
		if f.path == "" {
			return fmt.Errorf("data_device is not given")
		}
		real, err := realPath(f.path)
		if err != nil {
			return err
		}
		if byPath[real] == nil {
			if byPath[real], err = openDevice(f.path, a); err != nil {
				return err
			}
			s.devices = append(s.devices, byPath[real])
		}
		*f.into = byPath[real]
	}
	s.Params, err = layout.NewParams(o, layout.DeviceBytes{Data: s.Data.Bytes(), Meta: s.Meta.Bytes(), Buffer: s.Buffer.Bytes()})
	if err != nil {
		return fmt.Errorf("%s: %w", s.Data.Path, err)
	}
	return nil
}

// parametersFit tells whether an OSD could start with these parameters, as far
// as its devices are there.
func (t *Tool) parametersFit(o layout.Options) error {
	s := &OSD{}
	defer s.Close()
	err := s.open(o, access{cached: t.cached})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// metaReader goes over the metadata blocks in big steps.
func (s *OSD) metaReader(progress *progress, block func(number uint32, b []byte) error) error {
	m := uint64(s.Params.Geometry.MetaBlockBytes)
	return readBlocks(s.Meta, s.Params.Meta, m, progress, block)
}

// readBlocks calls block for every metadata block of an area, without the
// superblock. The bytes are reused after the call.
func readBlocks(d *Device, area layout.Area, m uint64, progress *progress, block func(number uint32, b []byte) error) error {
	buf := make([]byte, bounceBytes/m*m)
	defer progress.done()
	for at := m; at+m <= area.Bytes; {
		part := buf[:min(uint64(len(buf)), (area.Bytes-at)/m*m)]
		if _, err := d.ReadAt(part, int64(area.Offset+at)); err != nil {
			return err
		}
		for i := uint64(0); i < uint64(len(part)); i += m {
			if err := block(uint32((at+i)/m-1), part[i:i+m]); err != nil {
				return err
			}
		}
		at += uint64(len(part))
		progress.at(at)
	}
	return nil
}
