package daemon

import (
	"fmt"
	"log/slog"

	"vitastor/internal/placement"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/mon/election"
	"vitastor/mon/recheck"
)

// settings are the parameters: file < config/global < command line.
type settings struct {
	options Options
	config  option.MonitorConfig
	classic bool  // the lease is configured like that of a reference monitor
	known   bool  // config/global could be read once
	hold    error // why it cannot be
	shown   map[string]bool
}

// refreshes of the lease in its life time.
const refreshes = 4

// merge takes a new config/global; nil = none. The error is about the file or
// the command line: they are not changed any more, so it comes at the start.
func (s *settings) merge(global *option.Layer, log *slog.Logger) error {
	layers := []option.Layer{s.options.File, s.options.CommandLine}
	if global != nil {
		layers = append(layers, *global)
	}
	set, err := option.Merge(option.Monitor, option.Facts{Hostname: s.options.Self.Hostname}, layers...)
	if err != nil {
		return err
	}
	for _, p := range set.Warnings {
		s.warn(p, log)
	}
	if set.Bool("use_old_pg_combinator") {
		s.warn(option.Problem{Where: "use_old_pg_combinator", Text: "it has no effect: combinations of OSDs are not generated any more"}, log)
	}
	// The only missing thing can be etcd_address, which is not needed here.
	s.config, _ = set.Monitor()
	s.classic = set.Given("etcd_mon_ttl") || set.Given("etcd_mon_timeout") || set.Given("etcd_mon_retries")
	return nil
}

// warn logs every problem once.
func (s *settings) warn(p option.Problem, log *slog.Logger) {
	if text := p.Error(); !s.shown[text] {
		if s.shown == nil {
			s.shown = map[string]bool{}
		}
		s.shown[text] = true
		log.Warn("configuration", "problem", text)
	}
}

// global takes the value of config/global; nil = there is none. A value that
// cannot be read leaves everything as it was; if nothing is known, PGs are not
// placed, because the levels of the tree may be in it.
func (s *settings) global(key string, value []byte, log *slog.Logger) {
	layer, problem := option.ReadLayer(option.Monitor, option.Global, key, value)
	if problem != nil {
		s.warn(*problem, log)
		if !s.known {
			s.hold = fmt.Errorf("%s cannot be read", key)
		}
		return
	}
	if err := s.merge(&layer, log); err != nil {
		log.Warn("configuration", "err", err)
	}
	s.known, s.hold = true, nil
}

func (s *settings) election() election.Timing {
	c := &s.config
	t := election.Timing{Refresh: c.LeaseInterval, Request: c.EtcdTimeout, Retries: c.EtcdRetries, Poll: c.EtcdStartTimeout}
	if !s.classic {
		// The host of the master may die with OSDs on it. They have short leases,
		// too, and nothing is lost by losing this one.
		t.Lease, t.Refresh = c.LeaseTTL, c.LeaseTTL/refreshes
	}
	return t
}

func (s *settings) recheck() recheck.Options {
	c := &s.config
	return recheck.Options{
		Change: c.ChangeTimeout, Retry: c.RetryChangeTimeout,
		Request: c.EtcdTimeout, Apply: c.EtcdStartTimeout, OutTime: c.OSDOutTime,
		Levels: placement.NewLevels(&c.PlacementLevels), FullRatio: c.OSDBackfillfullRatio,
		Defaults: schema.PoolDefaults(c.Pools), Hold: s.hold,
	}
}
