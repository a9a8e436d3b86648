// Package config is the configuration of an OSD: what its sources say together,
// what follows from it for every part of the OSD, and what changes while it
// runs (spec config.md, osd.md §14).
//
//	file < config/global in etcd < superblock of the disk < command line
//
// It guarantees that every message about the configuration is told once,
// however often etcd sends the same text, and that a running OSD never gets a
// value that it would have refused at its start: what is wrong has the default,
// what cannot be changed while running keeps its old value, and both are told.
//
// Concurrency: a Loader belongs to the loop; a Config never changes.
package config

import (
	"errors"
	"fmt"
	"log/slog"

	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
)

// Sources is what does not come from etcd. Layers may be empty.
type Sources struct {
	Facts       option.Facts
	File        option.Layer
	Superblock  option.Layer
	CommandLine option.Layer
}

// Config is the configuration in force.
type Config struct {
	option.OSDConfig
	Set *option.Set
}

// Loader makes Configs.
type Loader struct {
	Sources
	Keys schema.Keys // for messages
	Log  *slog.Logger

	told map[string]bool
}

// Local is the configuration without etcd, for what is needed before etcd can
// be read. It is no error if something is missing.
func (l *Loader) Local() (*Config, error) {
	set, err := option.Merge(option.OSD, l.Facts, l.File, l.Superblock, l.CommandLine)
	c, _ := set.OSD()
	return &Config{c, set}, err
}

// Load is the whole configuration at the start.
func (l *Loader) Load(global *schema.Object) (*Config, error) {
	set, err := l.merge(global)
	c, missing := set.OSD()
	if c.Layout.DataDevice == "" && !set.Given("osd_num") {
		missing = nil // the superblock of the device knows the number
	}
	for i := range set.Warnings {
		l.warn(set.Warnings[i].Error())
	}
	for _, text := range unsupported(set) {
		l.warn(text)
	}
	return &Config{c, set}, errors.Join(err, missing, check(&c))
}

func (l *Loader) merge(global *schema.Object) (*option.Set, error) {
	etcd := option.Layer{Source: option.Global, Where: l.Keys.Global()}
	if global != nil {
		etcd.Values = *global
	}
	return option.Merge(option.OSD, l.Facts, l.File, etcd, l.Superblock, l.CommandLine)
}

// Reload is the configuration after a change in etcd. Whatever needs a restart
// is as in now; changed are the options that are to be applied, which may be
// none. An etcd value that is wrong for a running OSD does not end it.
func (l *Loader) Reload(now *Config, global *schema.Object) (next *Config, changed []option.Change) {
	set, err := l.merge(global)
	for i := range set.Warnings {
		l.warn(set.Warnings[i].Error())
	}
	if err != nil { // the local sources were good, and are the same
		l.warn(err.Error())
		return now, nil
	}
	live, restart := option.Diff(now.Set, set)
	for _, c := range restart {
		l.warn(fmt.Sprintf("%v in etcd: takes effect at the next start of the OSD", c))
	}
	if len(live) == 0 {
		return now, nil
	}
	c, _ := set.OSD()
	keepFixed(&c, &now.OSDConfig)
	for _, x := range live {
		l.Log.Info("parameter changed", "change", x.String())
	}
	return &Config{c, set}, live
}

// keepFixed takes back what only a restart can change. Groups of options that
// are read at the start only are not looked at afterwards.
func keepFixed(c, now *option.OSDConfig) {
	c.Layout, c.BindAddress, c.BindPort = now.Layout, now.BindAddress, now.BindPort
	c.Common.EtcdPrefix, c.EtcdLeaseTTL, c.RunPrimary = now.Common.EtcdPrefix, now.EtcdLeaseTTL, now.RunPrimary
	c.Network.Public, c.Network.Cluster = now.Network.Public, now.Network.Cluster
	c.Store.ReadOnly, c.EtcdStatsInterval = now.Store.ReadOnly, now.EtcdStatsInterval
}

// warn tells something once.
func (l *Loader) warn(text string) {
	if l.told == nil {
		l.told = map[string]bool{}
	}
	if !l.told[text] {
		l.told[text] = true
		l.Log.Warn(text)
	}
}

// check is about what is understood, but cannot work.
func check(c *option.OSDConfig) error {
	var all []error
	if c.DisableBlockstore {
		all = append(all, errors.New("disable_blockstore is set: an OSD without a disk is not supported"))
	}
	if c.Layout.DataDevice == "" {
		all = append(all, errors.New("data_device is not given: the device or file prepared by vitastor-disk, such as --data_device /dev/vitastor/osd1-data"))
	}
	if c.Layout.DataDevice != "" && c.Layout.OSDNum == 0 {
		all = append(all, fmt.Errorf("%s has no superblock: prepare it (vitastor-disk prepare --data_device %s), "+
			"or give all its parameters, as vitastor-disk exec-osd does", c.Layout.DataDevice, c.Layout.DataDevice))
	}
	return errors.Join(all...)
}

// unsupported tells which of the given options have no effect.
func unsupported(s *option.Set) (list []string) {
	for _, o := range []struct{ name, text string }{
		{"use_rdma", "RDMA is not supported, TCP is used"},
		{"use_rdmacm", "RDMA is not supported, TCP is used"},
		{"osd_iothread_count", "it has no effect, one thread does all the work: make several OSDs of a large disk instead"},
	} {
		v := s.Get(o.name)
		if s.Given(o.name) && v != false && v != int64(0) {
			list = append(list, fmt.Sprintf("parameter %s is set: %s", o.name, o.text))
		}
	}
	if s.Bool("use_rdmacm") && s.Bool("disable_tcp") {
		list = append(list, "parameter disable_tcp is ignored")
	}
	return list
}
