package layout_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"vitastor/internal/meta"
	"vitastor/osd/store/layout"
	"vitastor/osd/store/layout/vectortest"
)

// open derives the parameters from the superblock on the disk of a vector.
func open(t testing.TB, v *vectortest.Vector) (*layout.Params, layout.Image) {
	t.Helper()
	dev := v.Device("data_device")
	o, err := layout.DecodeSuperblock(dev[:layout.SuperblockBytes])
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	metaDev, bufferDev := v.Device("meta_device"), v.Device("journal_device")
	p, err := layout.NewParams(o, layout.DeviceBytes{Data: uint64(len(dev)), Meta: uint64(len(metaDev)), Buffer: uint64(len(bufferDev))})
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	im, err := p.Slice(dev, metaDev, bufferDev)
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return p, im
}

// listing is what a loaded store contains, in the words of the manifest.
func listing(t testing.TB, l *layout.Loaded) (list []vectortest.Object) {
	t.Helper()
	for i := range l.Objects {
		o := &l.Objects[i]
		out := vectortest.Object{Pool: uint64(o.ID.Inode.Pool()), Inode: o.ID.Inode.Number(), Stripe: o.ID.Stripe}
		for _, v := range o.Chain.Versions(nil) {
			c := l.Read(o, v.Version)
			if c == nil || c.Version != v.Version || len(c.BadCsums) != 0 {
				t.Errorf("object %v version %d: read gave %+v", o.ID, v.Version, c)
				continue
			}
			if v.Stable {
				out.Stable = uint64(v.Version)
			}
			out.Versions = append(out.Versions, vectortest.Version{Version: uint64(v.Version),
				CRC: fmt.Sprintf("%08x", layout.CRC(c.Data)), Ext: hex.EncodeToString(c.Ext)})
		}
		if len(out.Versions) != 0 {
			list = append(list, out)
		}
	}
	return list
}

func sameListing(t testing.TB, name string, got, want []vectortest.Object) {
	t.Helper()
	g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want)
	if g != w {
		t.Errorf("%s:\n got %s\nwant %s", name, g, w)
	}
}

// Every vector loads with the objects, contents and totals of the manifest.
func TestVectors(t *testing.T) {
	for _, v := range vectortest.All(t) {
		p, im := open(t, v)
		l, err := layout.LoadImage(im, p, layout.LoadOptions{})
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		sameListing(t, v.Name, listing(t, l), v.Objects)
		got := vectortest.Totals{DataUsed: l.Claims.BlockCount * uint64(p.Geometry.BlockBytes),
			BufferUsed: l.Claims.GranuleCount * uint64(p.Geometry.GranuleBytes),
			MetaUsed:   l.LiveBytes, MaxLSN: uint64(l.HighestLSN)}
		if got != v.Totals {
			t.Errorf("%s: totals %+v, want %+v", v.Name, got, v.Totals)
		}
		if len(l.Space) != len(v.Space) {
			t.Errorf("%s: space of %d inodes, want %d", v.Name, len(l.Space), len(v.Space))
		}
		for _, s := range v.Space {
			if n := l.Space[meta.MakeInode(meta.PoolID(s.Pool), s.Inode)]; n != s.Bytes {
				t.Errorf("%s: inode %d/%d has %d bytes, want %d", v.Name, s.Pool, s.Inode, n, s.Bytes)
			}
		}
		if len(l.Warnings) != 0 {
			t.Errorf("%s: warnings %v", v.Name, l.Warnings)
		}
		if drops := strings.HasPrefix(v.Name, "torn") || v.Name == "redirect"; drops != (len(l.Dropped) > 0) {
			t.Errorf("%s: dropped %v", v.Name, l.Dropped)
		}
	}
}

// Damaged stores are refused or loaded as negative.json says; block numbers
// out of range and a lost superblock are refused, other than by release 3.0.8.
func TestNegativeVectors(t *testing.T) {
	base, cases := vectortest.Negative(t)
	words := map[string]string{"entry-crc": "crc32c mismatch", "zero-block": "shorter than its header", "type-bit": "invalid entry type",
		"stable-commit": "invalid entry type", "tail-size": "end marker", "double-claim": "data block 0", "small-without-base": "no data block under it",
		"sb-geometry": "block_size is 262144 on disk, but 131072", "sb-area": "size of the metadata area is 520192 on disk", "sb-magic": "no metadata superblock",
		"sb-version": "format version is 2", "block-out-of-range": "data block number", "sb-zero": "it was lost"}
	for _, c := range cases {
		v := vectortest.Load(t, base)
		c.Apply(t, v)
		p, im := open(t, v)
		l, err := layout.LoadImage(im, p, layout.LoadOptions{})
		if c.Expected == "start" {
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			sameListing(t, c.Name, listing(t, l), c.Objects)
			if (c.Name == "sb-crc") != (len(l.Warnings) == 1) || (c.Name == "torn-small") != (len(l.Dropped) == 1) {
				t.Errorf("%s: warnings %v, dropped %v", c.Name, l.Warnings, l.Dropped)
			}
			continue
		}
		if err == nil || words[c.Name] == "" || !strings.Contains(err.Error(), words[c.Name]) {
			t.Errorf("%s: error %v, want one with %q", c.Name, err, words[c.Name])
		}
	}
}

// Skipping corrupt entries keeps the rest of the store.
func TestSkipCorrupt(t *testing.T) {
	v := vectortest.Load(t, "plain")
	p, im := open(t, v)
	im.Meta[4096+568+33] ^= 1 // the DELETE of object 4:0
	l, err := layout.LoadImage(im, p, layout.LoadOptions{SkipCorrupt: true})
	if err != nil || len(l.Corrupt) != 1 || len(listing(t, l)) != len(v.Objects)+1 {
		t.Fatalf("%v, %+v", err, l)
	}
}

// The disk superblocks of the vectors written by the tool encode to
// themselves, byte for byte.
func TestVectorSuperblocks(t *testing.T) {
	for _, v := range vectortest.All(t) {
		for name, dev := range v.Devices {
			o, err := layout.DecodeSuperblock(dev[:4096])
			if err != nil {
				t.Fatal(err)
			}
			for key := range v.Superblock {
				if o.Text(key) != v.Text(key) {
					t.Errorf("%s: %s is %q, want %q", v.Name, key, o.Text(key), v.Text(key))
				}
			}
			again, err := layout.EncodeSuperblock(o)
			if err != nil || !bytes.Equal(again, dev[:4096]) && bytes.Contains(dev[:64], []byte(`": `)) && !strings.HasPrefix(v.Name, "enc-") {
				t.Errorf("%s %s: %v\n%q\n%q", v.Name, name, err, again[:600], dev[:600])
			}
		}
	}
}

// The metadata superblocks of the vectors are what their parameters give.
func TestVectorMetaSuperblocks(t *testing.T) {
	for _, v := range vectortest.All(t) {
		p, im := open(t, v)
		sb, warning, err := layout.DecodeMetaSuperblock(im.Meta)
		if err != nil || warning != nil {
			t.Fatal(err, warning)
		}
		want := p.MetaSuperblock(sb.CompletedLSN)
		if sb != want {
			t.Errorf("%s: %+v, want %+v", v.Name, sb, want)
		}
		block := make([]byte, 4096)
		want.Put(block)
		if !bytes.Equal(block, im.Meta[:4096]) {
			t.Errorf("%s: %x, want %x", v.Name, block[:64], im.Meta[:64])
		}
	}
}
