package option

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"vitastor/internal/invariant"
	"vitastor/internal/schema"
)

// resolver computes values in use; a derived one may need others.
type resolver struct {
	*Set
	names map[string]named // the index of the table
	busy  map[string]bool
}

func (r *resolver) value(name string) any {
	if v, ok := r.values[name]; ok {
		return v
	}
	if r.busy[name] {
		invariant.Fail("the default of option %s depends on itself", name)
	}
	r.busy[name] = true
	o, v := r.names[name].option, r.explicit[name]
	if o.derive != nil {
		v = o.derive(r, v)
	} else if v == nil {
		v = o.builtin()
	}
	r.values[name] = v
	return v
}

// builtin is the default that is not computed; nil if there is none.
func (o *Option) builtin() any {
	v, _, err := o.Parse(json.RawMessage(o.Default))
	if err != nil {
		invariant.Fail("default of option %s: %v", o.Name, err)
	}
	return v
}

func (r *resolver) int(name string) int64 { v, _ := r.value(name).(int64); return v }
func (r *resolver) bool(name string) bool { v, _ := r.value(name).(bool); return v }
func (r *resolver) text(name string) string {
	v, _ := r.value(name).(string)
	return v
}
func (r *resolver) duration(name string) time.Duration {
	v, _ := r.value(name).(time.Duration)
	return v
}

func logLevel(r *resolver, explicit any) any {
	switch {
	case explicit != nil:
		return explicit
	case r.component&OSD != 0:
		return int64(1)
	}
	return int64(0)
}

// publicNetworks: config.md §5, osd_cluster_network.
func publicNetworks(r *resolver, explicit any) any {
	public, _ := explicit.([]netip.Prefix)
	cluster, _ := r.value("osd_cluster_network").([]netip.Prefix)
	public = slices.DeleteFunc(slices.Clone(public), func(p netip.Prefix) bool {
		return slices.ContainsFunc(cluster, func(c netip.Prefix) bool { return c.Masked() == p.Masked() })
	})
	if len(public) == 0 {
		return cluster
	}
	return public
}

func useRDMA(r *resolver, explicit any) any {
	return explicit == true && !r.bool("use_rdmacm")
}

func disableTCP(r *resolver, explicit any) any {
	return explicit == true && r.bool("use_rdmacm")
}

func keepaliveTimeout(r *resolver, explicit any) any {
	if explicit != nil {
		return explicit
	}
	return max(30*time.Second, 2*r.duration("etcd_report_interval"))
}

func waitUpTimeout(r *resolver, explicit any) any {
	if explicit != nil {
		return explicit
	}
	attempts := time.Duration(r.int("max_etcd_attempts"))
	quick := r.duration("etcd_quick_timeout")
	lease := time.Duration(maxDuration)
	if attempts*2 < lease/quick { // quick is never 0
		lease = (attempts*2*quick + time.Second - 1).Truncate(time.Second)
	}
	return time.Second + r.duration("etcd_report_interval") + lease
}

func hostName(r *resolver, explicit any) any {
	if text, _ := explicit.(string); text != "" {
		return text
	}
	return r.facts.Hostname
}

func commitMode(r *resolver, explicit any) any {
	switch {
	case explicit != nil:
		return explicit
	case r.component&(OSD|Disk) != 0:
		return "none"
	}
	return "all"
}

func metaDevice(r *resolver, explicit any) any {
	if text, _ := explicit.(string); text != "" {
		return text
	}
	return r.text("data_device")
}

func journalDevice(r *resolver, explicit any) any {
	if text, _ := explicit.(string); text != "" {
		return text
	}
	return r.text("meta_device")
}

// metaFsync: on the same device the cache is the same one, whatever is said.
func metaFsync(r *resolver, explicit any) any {
	if r.text("meta_device") == r.text("data_device") {
		return r.bool("disable_data_fsync")
	}
	return explicit == true
}

func journalFsync(r *resolver, explicit any) any {
	if r.text("journal_device") == r.text("meta_device") {
		return r.bool("disable_meta_fsync")
	}
	return explicit == true
}

func metaIO(r *resolver, explicit any) any {
	switch {
	case explicit != nil:
		return explicit
	case r.text("meta_device") == r.text("data_device"):
		return r.text("data_io")
	}
	return "direct"
}

func journalIO(r *resolver, explicit any) any {
	switch {
	case explicit != nil:
		return explicit
	case r.text("journal_device") == r.text("meta_device"):
		return r.text("meta_io")
	}
	return "direct"
}

func csumBlockSize(r *resolver, explicit any) any {
	switch {
	case r.text("data_csum_type") == "none":
		return int64(0)
	case explicit != nil:
		return explicit
	}
	return r.value("bitmap_granularity")
}

func trimInterval(r *resolver, explicit any) any {
	switch {
	case explicit != nil:
		return explicit
	case r.int("meta_format") < 3:
		return int64(512)
	}
	return int64(4096)
}

// placementLevels always has host and osd.
func placementLevels(r *resolver, explicit any) any {
	given, _ := explicit.(schema.Object)
	levels := given.Clone()
	if levels.Get("host") == nil {
		levels.SetUint("host", 100)
	}
	if levels.Get("osd") == nil {
		levels.SetUint("osd", 101)
	}
	return levels
}
