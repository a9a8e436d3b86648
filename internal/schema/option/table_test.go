package option

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vitastor/internal/schema"
)

// Every name stands for one option, and every row is complete.
func TestTableIsConsistent(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range All() {
		names := []string{o.Name}
		for _, a := range o.Aliases {
			names = append(names, a.Name)
		}
		for _, name := range names {
			if seen[name] || name != strings.ToLower(name) || strings.Contains(name, "-") {
				t.Errorf("name %s is not unique, or not in lower case with _", name)
			}
			seen[name] = true
			if Find(name) != o {
				t.Errorf("Find(%s) = %v", name, Find(name))
			}
		}
		switch {
		case o.Used == 0, o.From&CommandLine == 0 && o.From != File, !strings.HasSuffix(o.Doc, "."):
			t.Errorf("%s: who uses it, where is it given, what does it mean? %+v", o.Name, o)
		case (o.Kind == Enum) != (o.Choices != nil):
			t.Errorf("%s: an enum has choices", o.Name)
		case o.Live&^o.Used != 0, o.Required&^o.Used != 0:
			t.Errorf("%s: applied or required by who does not use it", o.Name)
		case o.Default == "" && o.DefaultText == "" && !slices.Contains(withoutDefault, o.Name):
			t.Errorf("%s: no default", o.Name)
		case o.Max != 0 && o.Max < o.Min:
			t.Errorf("%s: limits %v..%v", o.Name, o.Min, o.Max)
		case o.WriteName() != o.Name && Find(o.WriteName()) != o:
			t.Errorf("%s is written as %s, which is not one of its names", o.Name, o.WriteName())
		}
	}
	if len(all) < 150 || Find("nothing") != nil {
		t.Errorf("%d options", len(all))
	}
}

var withoutDefault = []string{"etcd_address", "osd_network", "osd_cluster_network", "qemu_file_mirror_path", "osd_num", "data_device",
	"antietcd_port", "antietcd_data_file", "mon_https_cert", "mon_https_key", "mon_https_ca"}

// A default is a valid value of its kind within the limits, and reference
// programs read what we write of it.
func TestDefaultsAreValid(t *testing.T) {
	for _, o := range All() {
		v, note, err := o.Parse(json.RawMessage(o.Default))
		clamped := o.Zero == ZeroClamped && o.Default == "0"
		if err != nil || note != "" && !clamped || v == nil && o.Default != "" {
			t.Errorf("default of %s: %v %q %v", o.Name, v, note, err)
		}
		if v == nil {
			continue
		}
		raw := o.JSON(v)
		if again, _, err := o.Parse(raw); err != nil || !reflect.DeepEqual(again, v) {
			t.Errorf("%s: %v is written as %s, read as %v (%v)", o.Name, v, raw, again, err)
		}
		if other := o.otherReading(raw, v); other != "" {
			t.Errorf("%s: written as %s, but %s", o.Name, raw, other)
		}
	}
}

// The local-only keys of config.md §1, in the order there.
func TestLocalOnlyKeysAreIgnoredInEtcd(t *testing.T) {
	names := strings.Fields(`rdma_device rdma_gid_index rdma_max_msg rdma_max_recv rdma_max_send rdma_max_sge
		rdma_mtu rdma_port_num tcp_header_buffer_size use_rdma use_sync_send_recv`)
	for _, name := range names {
		o := Find(name)
		if !o.LocalOnly() || o.takenFrom(Global) || !o.takenFrom(File) || !o.takenFrom(CommandLine) {
			t.Errorf("%s must be taken from the file and the command line only", name)
		}
	}
	for _, name := range []string{"min_zerocopy_send_size", "block_size"} {
		if !Find(name).takenFrom(Global) {
			t.Errorf("%s must be taken from etcd", name)
		}
	}
	if o := Find("config_path"); o.takenFrom(Global) || o.takenFrom(File) {
		t.Error("config_path must be taken from the command line only")
	}
}

// Every option of a component is in exactly one field of its struct, and
// nothing else is.
func TestEveryOptionIsBoundOnce(t *testing.T) {
	for _, b := range []struct {
		c      Component
		config any
	}{{OSD, OSDConfig{}}, {Client, ClientConfig{}}, {Monitor, MonitorConfig{}}} {
		bound := map[string]int{}
		countFields(t, reflect.TypeOf(b.config), bound)
		for _, o := range All() {
			want := 0
			if o.Used&b.c != 0 {
				want = 1
			}
			if bound[o.Name] != want {
				t.Errorf("%s: option %s is in %d fields, want %d", b.c, o.Name, bound[o.Name], want)
			}
			delete(bound, o.Name)
		}
		for name := range bound {
			t.Errorf("%s: field for %q, which is not the name of an option", b.c, name)
		}
	}
}

func countFields(t *testing.T, typ reflect.Type, bound map[string]int) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := f.Tag.Get("option")
		if name != "" {
			bound[name]++
		} else if f.Type.Kind() == reflect.Struct {
			countFields(t, f.Type, bound)
		} else {
			t.Errorf("field %s of %s has no option", f.Name, typ)
		}
	}
}

// The largest and smallest values that are accepted fit the fields.
func TestExtremesFitTheFields(t *testing.T) {
	for _, c := range []Component{OSD, Client, Monitor} {
		for _, o := range All() {
			low, high := o.bounds()
			for _, n := range []int64{low, high, int64(o.Max), int64(o.Min), 128 << 20, math.MaxUint16 + 1, math.MaxUint32 + 1} {
				raw := json.RawMessage(schemaInt(n))
				if v, _, err := o.Parse(raw); err != nil || v == nil {
					continue
				}
				var values schema.Object
				values.Set(o.Name, raw)
				s, err := Merge(c, Facts{}, Layer{Superblock, "test", values})
				if err != nil {
					t.Fatalf("%s = %s: %v", o.Name, raw, err)
				}
				fillAny(s, c)
			}
		}
	}
}

func schemaInt(n int64) string { b, _ := json.Marshal(n); return string(b) }

func fillAny(s *Set, c Component) {
	switch c {
	case OSD:
		s.OSD()
	case Client:
		s.Client()
	default:
		s.Monitor()
	}
}
