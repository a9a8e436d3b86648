package primary

import "vitastor/internal/meta"

// extent is a range of granules of an object that comes from one layer of an
// image.
type extent struct {
	layer    int // 0 = the image itself, then its parents; -1 = nobody has it
	from, to int // granules
}

// layerMap finds out which layer of an image has which granule of an object: the
// newest one that was written there (osd.md §4.1). Pure.
//
// A bitmap is that of READ: the bitmaps of the data chunks, one after another,
// each of whole bytes.
type layerMap struct {
	perChunk int // granules
	bytes    int // of a chunk's bitmap
}

// bit is the place of a granule in the bitmap of an object.
func (m layerMap) bit(granule int) int {
	return granule/m.perChunk*m.bytes*8 + granule%m.perChunk
}

// top returns the newest layer that has a granule, -1 = none.
func (m layerMap) top(layers []meta.Bitmap, granule int) int {
	bit := m.bit(granule)
	for i, b := range layers {
		if b.Get(bit) {
			return i
		}
	}
	return -1
}

// appendExtents appends the granules [from, to) as the longest ranges with one
// layer each, ascending.
func (m layerMap) appendExtents(dst []extent, layers []meta.Bitmap, from, to int) []extent {
	for g := from; g < to; g++ {
		layer := m.top(layers, g)
		if n := len(dst); g > from && dst[n-1].layer == layer {
			dst[n-1].to++
		} else {
			dst = append(dst, extent{layer, g, g + 1})
		}
	}
	return dst
}

// set marks the granules of an extent in the bitmap of the result.
func (m layerMap) set(result meta.Bitmap, x extent) {
	for g := x.from; g < x.to; g++ {
		bit := m.bit(g)
		result.SetRange(bit, bit+1)
	}
}

// appendLayers appends an inode and its parents inside of the same pool. ok is
// false when the chain has a loop.
func (s *Server) appendLayers(dst []meta.Inode, top meta.Inode) (layers []meta.Inode, ok bool) {
	for i := top; ; {
		for _, seen := range dst {
			if seen == i {
				return dst, false
			}
		}
		dst = append(dst, i)
		in := s.view.Inode(i)
		if in == nil || in.Parent == 0 || in.Parent.Pool() != top.Pool() {
			return dst, true
		}
		i = in.Parent
	}
}
