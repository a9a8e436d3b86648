// Package vectortest loads the disk images in osd/store/testdata/vectors for
// tests: devices written by release 3.0.8 or by an independent encoder, what a
// store must find on them, and damaged variants with the expected reaction.
//
// Guarantee: every load returns fresh bytes, which the test may change.
// Not for use outside of tests; safe for concurrent use.
package vectortest

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Vector is one image with its expected content.
type Vector struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Files       []string       `json:"files"`
	Superblock  map[string]any `json:"superblock"` // numbers are json.Number
	Objects     []Object       `json:"objects"`
	Space       []Space        `json:"space"`
	Totals      Totals         `json:"totals"`

	// Devices are the raw devices by the names used in the superblock.
	Devices map[string][]byte `json:"-"`
}

// Object is an object which has to be listed.
type Object struct {
	Pool     uint64    `json:"pool"`
	Inode    uint64    `json:"inode"` // without the pool
	Stripe   uint64    `json:"stripe"`
	Stable   uint64    `json:"stable"` // newest stable version, 0 = none
	Versions []Version `json:"versions"`
}

// Version is one readable version, newest first down to the newest stable one.
type Version struct {
	Version uint64 `json:"version"`
	CRC     string `json:"crc32c"` // of the whole content, 8 hex digits
	Ext     string `json:"ext"`    // ext bitmap, hex
}

// Space is what an inode occupies in the data area.
type Space struct {
	Pool  uint64 `json:"pool"`
	Inode uint64 `json:"inode"`
	Bytes uint64 `json:"bytes"`
}

// Totals are sums right after start-up, before any compaction.
type Totals struct {
	DataUsed   uint64 `json:"data_used"`
	BufferUsed uint64 `json:"buffer_used"`
	MetaUsed   uint64 `json:"meta_used"` // bytes of live entries
	MaxLSN     uint64 `json:"max_lsn"`
}

// Case is a damaged variant of a vector.
type Case struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Expected    string   `json:"expected"` // refuse, start, start-but-should-refuse (= we refuse)
	Patches     []Patch  `json:"patches"`
	Objects     []Object `json:"objects"` // for start
}

// Patch writes Hex, or Zero zero bytes, at Offset of the device.
type Patch struct {
	Offset uint64 `json:"offset"`
	Hex    string `json:"hex"`
	Zero   int    `json:"zero"`
}

// Dir is the folder of the vectors, found from the folder the test runs in.
func Dir(t testing.TB) string {
	t.Helper()
	at, err := os.Getwd()
	for err == nil && at != filepath.Dir(at) {
		dir := filepath.Join(at, "osd", "store", "testdata", "vectors")
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
			return dir
		}
		at = filepath.Dir(at)
	}
	t.Fatal("vectortest: osd/store/testdata/vectors not found above the working directory")
	return ""
}

// All loads every vector, devices included.
func All(t testing.TB) []*Vector {
	t.Helper()
	list := manifest(t)
	for _, v := range list {
		v.load(t)
	}
	return list
}

// Load loads one vector.
func Load(t testing.TB, name string) *Vector {
	t.Helper()
	for _, v := range manifest(t) {
		if v.Name == name {
			v.load(t)
			return v
		}
	}
	t.Fatalf("vectortest: no vector %q", name)
	return nil
}

// Negative returns the damaged variants and the name of the vector they are
// made from.
func Negative(t testing.TB) (base string, cases []Case) {
	t.Helper()
	var file struct {
		Base  string `json:"base"`
		Cases []Case `json:"cases"`
	}
	decode(t, "negative.json", &file)
	return file.Base, file.Cases
}

// Apply patches the data device of v.
func (c *Case) Apply(t testing.TB, v *Vector) {
	t.Helper()
	dev := v.Devices[v.Text("data_device")]
	for _, p := range c.Patches {
		b, err := hex.DecodeString(p.Hex)
		if err != nil {
			t.Fatalf("vectortest: case %s: %v", c.Name, err)
		}
		clear(dev[p.Offset:][:p.Zero])
		copy(dev[p.Offset:], b)
	}
}

// Text is a superblock value as text, "" if absent.
func (v *Vector) Text(key string) string {
	if x, ok := v.Superblock[key]; ok {
		return fmt.Sprint(x)
	}
	return ""
}

// Number is a superblock value as a number, 0 if absent.
func (v *Vector) Number(key string) uint64 {
	n, _ := strconv.ParseUint(v.Text(key), 10, 64)
	return n
}

// Device returns the device named by the given superblock key; an empty name
// means the same as meta_device or data_device.
func (v *Vector) Device(key string) []byte {
	for _, k := range []string{key, "meta_device", "data_device"} {
		if name := v.Text(k); name != "" && (k == key || key == "journal_device" || k == "data_device") {
			return v.Devices[name]
		}
	}
	return nil
}

func manifest(t testing.TB) []*Vector {
	var file struct {
		Vectors []*Vector `json:"vectors"`
	}
	decode(t, "manifest.json", &file)
	return file.Vectors
}

func (v *Vector) load(t testing.TB) {
	v.Devices = map[string][]byte{}
	for _, name := range v.Files {
		dev := strings.TrimSuffix(strings.TrimPrefix(name, v.Name+"."), ".gz")
		v.Devices[dev] = gunzip(t, filepath.Join(Dir(t), name))
	}
}

// unpacked keeps what was read: unpacking is slow, and many tests load the
// same devices.
var unpacked sync.Map // file name -> []byte

func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	b, ok := unpacked.Load(name)
	if !ok {
		b, _ = unpacked.LoadOrStore(name, unpack(t, name))
	}
	return bytes.Clone(b.([]byte))
}

func unpack(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

func decode(t testing.TB, name string, into any) {
	t.Helper()
	f, err := os.Open(filepath.Join(Dir(t), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
