package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"vitastor/internal/meta"
	"vitastor/internal/placement"
	"vitastor/internal/schema"
)

// poolSpec are the parameters of a pool as they are stored, by name.
type poolSpec map[string]any

// Options of create-pool and modify-pool by the form in which they are stored.
var (
	poolNumbers = []string{"pg_size", "pg_minsize", "parity_chunks", "pg_count", "max_osd_combinations"}
	poolSizes   = []string{"block_size", "bitmap_granularity", "pg_stripe_size"}
	poolTexts   = []string{"name", "scheme", "immediate_commit", "failure_domain", "root_node", "scrub_interval", "used_for_app", "used_for_fs", "raw_placement", "local_reads"}
	poolLists   = []string{"osd_tags", "primary_affinity_tags"}
)

// poolOptions reads the options of the command line (spec cli.md §2.14).
func (r *run) poolOptions() (poolSpec, error) {
	o := maps.Clone(r.options)
	for short, name := range map[string]string{"size": "pg_size", "count": "pg_count"} {
		if v, ok := o[short]; ok && o[name] == "" {
			o[name] = v
		}
	}
	p := poolSpec{}
	if ec, ok := o["ec"]; ok {
		if o["pg_size"] != "" || o["parity_chunks"] != "" || o["scheme"] != "" {
			return nil, fail(syscall.EINVAL, "--ec can't be used with --pg_size, --parity_chunks or --scheme")
		}
		data, parity, ok := parseEC(ec)
		if !ok {
			return nil, fail(syscall.EINVAL, "--ec should be <N>+<K> format (<N>, <K> - numbers)")
		}
		p["scheme"], p["pg_size"], p["parity_chunks"] = "ec", data+parity, parity
	}
	for _, name := range poolNumbers {
		if v, ok := o[name]; ok {
			n, ok := parseNumber(v)
			if !ok {
				return nil, fail(syscall.EINVAL, "%s must be a number, but it is %s", name, v)
			}
			p[name] = n
		}
	}
	for _, name := range poolSizes {
		if v, ok := o[name]; ok {
			n, ok := parseSize(v)
			if !ok {
				return nil, fail(syscall.EINVAL, "%s must be a number with an optional unit k/m/g/t, but it is %s", name, v)
			}
			p[name] = n
		}
	}
	for _, name := range poolTexts {
		if v, ok := o[name]; ok {
			p[name] = v
		}
	}
	for _, name := range poolLists {
		if v, ok := o[name]; ok {
			p[name] = list(v)
		}
	}
	if v, ok := o["level_placement"]; ok {
		rules, err := parseLevelPlacement(v)
		if err != nil {
			return nil, err
		}
		p["level_placement"] = rules
	}
	return p, nil
}

func parseEC(s string) (data, parity uint64, ok bool) {
	a, b, found := strings.Cut(s, "+")
	data, ok1 := parseNumber(a)
	parity, ok2 := parseNumber(b)
	return data, parity, found && ok1 && ok2
}

// parseLevelPlacement reads dc=112,host=123, or a JSON object.
func parseLevelPlacement(s string) (object, error) {
	if strings.HasPrefix(s, "{") {
		if o, ok := decodeAny([]byte(s)).(map[string]any); ok {
			return o, nil
		}
	}
	rules := object{}
	for _, part := range list(s) {
		level, rule, found := strings.Cut(part, "=")
		if !found {
			return nil, fail(syscall.EINVAL, "--level_placement must be a list of <level>=<rule>, but it is %s", s)
		}
		rules[level] = rule
	}
	return rules, nil
}

// fill sets what follows from the rest.
func (p poolSpec) fill() {
	if p.text("scheme") == "" {
		p["scheme"] = "replicated"
	}
	if _, ok := p["failure_domain"]; !ok {
		delete(p, "failure_domain")
	}
	if _, ok := p["pg_minsize"]; !ok {
		p["pg_minsize"] = p.defaultMinSize()
	}
}

func (p poolSpec) defaultMinSize() uint64 {
	switch size := p.number("pg_size"); {
	case p.text("scheme") != "replicated":
		n := p.dataChunks()
		if p.parity() > 1 {
			n++
		}
		return n
	case size > 2:
		return 2
	}
	return 1
}

// parity of xor is always 1.
func (p poolSpec) parity() uint64 {
	if p.text("scheme") == "xor" {
		return 1
	}
	return p.number("parity_chunks")
}

func (p poolSpec) dataChunks() uint64 {
	if p.text("scheme") == "replicated" {
		return 1
	}
	return p.number("pg_size") - min(p.parity(), p.number("pg_size"))
}

func (p poolSpec) text(name string) string { s, _ := p[name].(string); return s }

func (p poolSpec) number(name string) uint64 {
	n, _ := asFloat(p[name])
	return uint64(n)
}

// tidy leaves out what is stored as absent.
func (p poolSpec) tidy() {
	if fs := p.text("used_for_fs"); fs != "" {
		p["used_for_app"] = "fs:" + fs
	}
	delete(p, "used_for_fs")
	for _, name := range []string{"used_for_app", "immediate_commit", "scrub_interval", "root_node", "raw_placement"} {
		if v, ok := p[name]; ok && v == "" {
			delete(p, name)
		}
	}
	for _, name := range poolLists {
		if tags, ok := p[name].([]string); ok && len(tags) == 0 {
			delete(p, name)
		}
	}
	if v := p.text("local_reads"); v == "primary" || v == "" {
		delete(p, "local_reads")
	}
	if p.text("scheme") != "ec" {
		delete(p, "parity_chunks")
	}
}

// check is the validation in the words that people know.
func (p poolSpec) check() error {
	bad := func(format string, args ...any) error { return fail(syscall.EINVAL, format, args...) }
	size, scheme := p.number("pg_size"), p.text("scheme")
	switch {
	case p.text("name") == "":
		return bad("Non-empty pool name is required")
	case !slices.Contains([]string{"replicated", "ec", "xor"}, scheme):
		return bad(`Scheme must be one of "replicated", "ec" or "xor"`)
	case size == 0:
		return bad("Non-zero PG size is required")
	case size > schema.MaxPGSize:
		return bad("PG size can't be greater than %d", schema.MaxPGSize)
	case scheme != "replicated" && size < 3:
		return bad("PG size can't be smaller than 3 for XOR/EC pool")
	case scheme == "ec" && p.parity() == 0:
		return bad("Non-zero parity_chunks is required")
	case scheme == "ec" && p.parity() > size-2:
		return bad("parity_chunks can't be greater than %d (pg_size - 2)", size-2)
	case p.number("pg_minsize") == 0:
		return bad("Non-zero pg_minsize is required")
	case p.number("pg_minsize") > size:
		return bad("pg_minsize can't be greater than %d (PG size)", size)
	case p.number("pg_minsize") < p.dataChunks():
		return bad("pg_minsize can't be smaller than %d (pg_size - parity_chunks) for XOR/EC pool", p.dataChunks())
	case p.number("pg_count") == 0:
		return bad("Non-zero pg_count is required")
	case p["max_osd_combinations"] != nil && p.number("max_osd_combinations") < schema.MinMaxOSDCombinations:
		return bad("max_osd_combinations must be at least %d, but it is %d", schema.MinMaxOSDCombinations, p.number("max_osd_combinations"))
	}
	if err := p.checkSizes(); err != nil {
		return err
	}
	return p.checkTexts()
}

func (p poolSpec) checkSizes() error {
	block, granule := uint64(schema.DefaultBlockBytes), uint64(schema.DefaultGranularityBytes)
	if p["block_size"] != nil {
		block = p.number("block_size")
	}
	if p["bitmap_granularity"] != nil {
		granule = p.number("bitmap_granularity")
	}
	switch {
	case block < schema.MinBlockBytes || block > schema.MaxBlockBytes || block&(block-1) != 0:
		return fail(syscall.EINVAL, "block_size must be a power of two between %d and %d, but it is %d", schema.MinBlockBytes, schema.MaxBlockBytes, block)
	case granule == 0 || granule%512 != 0:
		return fail(syscall.EINVAL, "bitmap_granularity must be a multiple of 512, but it is %d", granule)
	case block%granule != 0:
		return fail(syscall.EINVAL, "bitmap_granularity must divide block_size (%d), but it is %d", block, granule)
	}
	return nil
}

func (p poolSpec) checkTexts() error {
	if v, ok := p["immediate_commit"]; ok && v != "" {
		if _, err := meta.ParseCommitMode(fmt.Sprint(v)); err != nil {
			return fail(syscall.EINVAL, `immediate_commit must be one of "all", "small", or "none", but it is %v`, v)
		}
	}
	switch local := p.text("local_reads"); {
	case !slices.Contains([]string{"", "primary", "nearest", "random"}, local):
		return fail(syscall.EINVAL, "local_reads must be '', 'primary', 'nearest' or 'random', but it is %s", local)
	case local != "" && local != "primary" && p.text("scheme") != "replicated":
		return fail(syscall.EINVAL, "EC pools don't support localized reads, please clear local_reads or set it to 'primary'")
	}
	if v := p.text("scrub_interval"); v != "" {
		if _, err := schema.ParseInterval(v); err != nil {
			return fail(syscall.EINVAL, "scrub_interval must be a time interval (number + unit s/m/h/d/M/y), but it is %s", v)
		}
	}
	if rules, ok := p["level_placement"].(object); ok {
		for _, rule := range rules {
			n := len(fmt.Sprint(rule))
			if items, is := rule.([]any); is {
				n = len(items)
			}
			if uint64(n) != p.number("pg_size") {
				return fail(syscall.EINVAL, "values in --level_placement should be exactly pg_size (%d) long", p.number("pg_size"))
			}
		}
	}
	return nil
}

// stored is the pool as an object of config/pools, in the order of names unless
// it was there before.
func (p poolSpec) stored(before *schema.Object) *schema.Object {
	o := before.Clone()
	for name := range before.All() {
		if _, keep := p[name]; !keep {
			o.Delete(name)
		}
	}
	for _, name := range sortedKeys(p) {
		o.Set(name, json.RawMessage(encodeJSON(p[name])))
	}
	return &o
}

// specOf reads a stored pool.
func specOf(o *schema.Object) poolSpec {
	p := poolSpec{}
	for name, raw := range o.All() {
		p[name] = decodeAny(raw)
	}
	return p
}

// decode makes sure that everybody else understands the pool too.
func (p poolSpec) decode(key string, id meta.PoolID, stored *schema.Object, defaults schema.PoolDefaults) (*schema.Pool, error) {
	pool, _, err := schema.DecodePool(key, id, stored.Encode(), defaults)
	if err != nil {
		return nil, fail(syscall.EINVAL, "%v", err)
	}
	if _, err := placement.RulesOf(pool); err != nil {
		return nil, fail(syscall.EINVAL, "%v", err)
	}
	return pool, nil
}
