package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/config"
	"vitastor/osd/registration"
	"vitastor/osd/store"
)

// begin reads the superblock: it may have all parameters but the addresses of
// etcd.
func (d *OSD) begin() {
	local, err := d.loader.Local()
	if err != nil {
		d.fatal(err)
		return
	}
	d.keys = schema.NewKeys(local.Common.EtcdPrefix)
	d.loader.Keys = d.keys
	data, _, _ := local.Devices()
	if data.Path == "" {
		d.readConfig(local)
		return
	}
	disk, err := d.disks.open(data, local.Set.Given("data_io"))
	if err != nil {
		d.fatal(err)
		return
	}
	d.disks.readSuperblock(disk, func(layer option.Layer, err error) {
		if d.ending {
			return
		}
		if err == nil {
			err = d.checkSuperblock(layer, local)
		}
		if err != nil {
			d.fatal(err)
			return
		}
		d.loader.Superblock = layer
		if local, err = d.loader.Local(); err != nil {
			d.fatal(err)
			return
		}
		d.readConfig(local)
	})
}

// checkSuperblock compares the superblock with what was given.
func (d *OSD) checkSuperblock(layer option.Layer, local *config.Config) error {
	alone, err := option.Merge(option.OSD, d.o.Facts, layer)
	if err != nil {
		return err
	}
	on, _ := alone.OSD()
	path := local.Layout.DataDevice
	switch {
	case on.Layout.OSDNum == 0:
	case local.Layout.OSDNum != 0 && local.Layout.OSDNum != on.Layout.OSDNum:
		return fmt.Errorf("%s is the disk of OSD %d, but osd_num is %d: give the right device or number, or none: the superblock knows it",
			path, on.Layout.OSDNum, local.Layout.OSDNum)
	case path != on.Layout.DataDevice && (path == on.Layout.MetaDevice || path == on.Layout.JournalDevice):
		return fmt.Errorf("%s is not the data device of OSD %d, but %s is", path, on.Layout.OSDNum, on.Layout.DataDevice)
	}
	return nil
}

// Pauses between attempts to reach etcd at the start.
const (
	firstRetry = 500 * time.Millisecond
	retryTimes = 4 // then etcd_slow_timeout
)

// readConfig reads config/global, for ever if need be.
func (d *OSD) readConfig(local *config.Config) {
	if len(local.Common.EtcdAddress) == 0 {
		d.fatal(errors.New("etcd_address is not given: put it into /etc/vitastor/vitastor.conf, " +
			`as {"etcd_address":["host:2379"]}, or onto the command line: --etcd_address host:2379`))
		return
	}
	d.stage = "waiting for etcd"
	attempt := 0
	try := func() {
		clusterview.ReadConfig(d.env.KV, d.keys, local.Network.EtcdSlowTimeout, func(global *schema.Object, _ *schema.Pools, err error) {
			switch {
			case d.ending:
			case err != nil:
				attempt++
				d.sayUnreadable(local, err)
				pause := local.Network.EtcdSlowTimeout
				if attempt <= retryTimes {
					pause = min(pause, firstRetry)
				}
				d.env.Clock.Arm(&d.retry, pause)
			default:
				d.configured(local, global)
			}
		})
	}
	d.retry.Fire = try
	try()
}

// sayUnreadable tells why the configuration cannot be read.
func (d *OSD) sayUnreadable(local *config.Config, err error) {
	var value *schema.FieldError
	if errors.As(err, &value) {
		d.env.Log.Warn("a value in etcd is wrong, waiting for its correction", "err", err)
		return
	}
	d.env.Log.Warn("cannot read the configuration from etcd, trying again: does it run there?",
		"etcd_address", local.Common.EtcdAddress, "key", d.keys.Global(), "err", err)
}

// configured goes on with the whole configuration.
func (d *OSD) configured(local *config.Config, global *schema.Object) {
	c, err := d.loader.Load(global)
	if err != nil {
		d.fatal(err)
		return
	}
	d.config, d.num = c, c.Layout.OSDNum
	d.setLogLevel()
	if !slices.Equal(c.Common.EtcdAddress, local.Common.EtcdAddress) {
		d.setEtcd()
	}
	d.testEtcd(func(known bool) { d.openStore(known) })
}

func (d *OSD) setLogLevel() {
	if d.o.SetLogLevel != nil {
		d.o.SetLogLevel(d.config.LogLevel())
	}
}

// setEtcd goes over to other addresses of etcd. Wrong ones are not used.
func (d *OSD) setEtcd() {
	addresses := d.config.Common.EtcdAddress
	if d.o.SetEtcd == nil {
		return
	}
	if err := d.o.SetEtcd(addresses); err != nil {
		d.env.Log.Warn("the addresses of etcd stay as they were", "etcd_address", addresses, "err", err)
		return
	}
	d.env.Log.Info("using other addresses of etcd", "etcd_address", addresses)
}

// etcdDefaultOps is what etcd takes in one transaction if nobody told it more.
const etcdDefaultOps = 128

// testEtcd finds out whether etcd takes large transactions, and whether it
// knows this OSD. Neither is needed now: a failure only means no warning.
func (d *OSD) testEtcd(done func(known bool)) {
	t := &env.Txn{Then: []env.KVOp{{Kind: env.KVGet, Key: d.keys.OSDStats(d.num)}}}
	large := &env.Txn{}
	for range etcdDefaultOps + 1 {
		large.Then = append(large.Then, env.KVOp{Kind: env.KVGet, Key: d.keys.OSDState(d.num)})
	}
	timeout := d.config.Network.EtcdSlowTimeout
	d.env.KV.Txn(large, timeout, func(_ *env.TxnResponse, err error) {
		if errors.Is(err, env.ErrKVTooLarge) {
			d.env.Log.Warn("etcd has its default limits, which are enough for about 120 PGs only", "err", err)
		}
		d.env.KV.Txn(t, timeout, func(r *env.TxnResponse, err error) {
			if !d.ending {
				done(err != nil || len(r.Responses[0].KVs) > 0)
			}
		})
	})
}

func (d *OSD) openStore(known bool) {
	d.stage = "opening the store"
	all, p, err := d.disks.openAll(d.config)
	if err != nil {
		d.fatal(err)
		return
	}
	d.bufferBytes = p.Buffer.Bytes
	c := d.config.StoreConfig(p)
	c.OnFatal = func(err error) { d.fatal(fmt.Errorf("the disk of the OSD failed: %w", err)) }
	d.opening = store.Open(d.env, all, c, func(s *store.Store, err error) {
		d.opening = nil
		d.store = s
		switch {
		case d.ending && s != nil && d.over: // too late for Shutdown to close it
		case d.ending:
		case err != nil:
			d.fatal(err)
		default:
			d.warnForeign(known)
			d.opened()
		}
	})
}

// warnForeign tells when the disk seems to belong to another cluster. It may
// also be that etcd was lost and is being restored, so it is no error.
func (d *OSD) warnForeign(known bool) {
	if objects := d.store.Totals().Objects; objects > 0 && !known {
		pools := map[meta.PoolID]bool{}
		for i := range d.store.Inodes {
			pools[i.Pool()] = true
		}
		d.env.Log.Warn("the disk has objects, but this cluster has never seen this OSD: is it the disk of another cluster? "+
			"If so, stop this OSD before data is mixed up, and run vitastor-disk purge or use the right etcd_address and etcd_prefix",
			"osd", d.num, "objects", objects, "pools", sortedPools(pools), "etcd_prefix", d.keys.Prefix(), "etcd_address", d.config.Common.EtcdAddress)
	}
}

func sortedPools(m map[meta.PoolID]bool) (list []meta.PoolID) {
	for p := range m {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

// opened goes on with an open store: parts, then sockets and registration.
func (d *OSD) opened() {
	if err := d.makeParts(); err != nil {
		d.fatal(err)
		return
	}
	d.stage = "sorting objects into PGs"
	d.pgs.Prepare(d.config.Network.EtcdQuickTimeout, d.prepared)
}

// prepared goes on when the store can be listed: from now on others may see us.
func (d *OSD) prepared() {
	if d.ending {
		return
	}
	listen, announce, err := d.config.Bind(d.o.Interfaces)
	if err != nil {
		d.fatal(err)
		return
	}
	port, err := d.listen(listen)
	if err != nil {
		d.fatal(err)
		return
	}
	d.stage = "registering"
	state := schema.OSDState{State: schema.StateUp, Host: d.o.Facts.Hostname, Port: port,
		PrimaryEnabled: d.config.RunPrimary, BlockstoreEnabled: true, Version: Version}
	for _, a := range announce {
		state.Addresses = append(state.Addresses, a.String())
	}
	d.env.Log.Info("listening", "osd", d.num, "addresses", state.Addresses, "port", port)
	d.register = registration.New(d.env, registration.Config{
		OSD: d.num, Keys: d.keys, State: state, TTL: d.config.EtcdLeaseTTL, Patience: d.config.Patience(),
		QuickTimeout: d.config.Network.EtcdQuickTimeout,
		Leased: func(id env.LeaseID) {
			if d.o.Leased != nil {
				d.o.Leased(id, d.config.Common.EtcdAddress)
			}
		},
		Registered: d.registered, Exists: d.exists,
		Fatal: func(err error) { d.fatal(err) },
	})
	d.register.Start()
}

// bindTries: with several addresses a port that is free on one may be in use on
// another.
const bindTries = 16

// listen binds all addresses to the same port.
func (d *OSD) listen(addrs []netip.Addr) (port uint16, err error) {
	port = d.config.BindPort
	if port != 0 {
		for _, a := range addrs {
			if _, err := d.msgr.Listen(netip.AddrPortFrom(a, port)); err != nil {
				return 0, fmt.Errorf("%w: change bind_port or bind_address, or stop what uses the port", err)
			}
		}
		return port, nil
	}
	for range bindTries {
		first, err := d.msgr.Listen(netip.AddrPortFrom(addrs[0], 0))
		if err != nil {
			return 0, err
		}
		taken := false
		for _, a := range addrs[1:] {
			if _, err = d.msgr.Listen(netip.AddrPortFrom(a, first.Port())); err != nil {
				taken = errors.Is(err, syscall.EADDRINUSE)
				if !taken {
					return 0, err
				}
				break
			}
		}
		if !taken {
			return first.Port(), nil
		}
	}
	return 0, fmt.Errorf("no port is free on all of %v: set bind_port", addrs)
}

// exists: another process has our number.
func (d *OSD) exists(other schema.OSDState) {
	d.ending, d.failed, d.stage = true, true, "failed"
	err := fmt.Errorf("OSD %d is running already: on host %s, addresses %v, port %d. If that is another disk, one of them needs another number "+
		"(vitastor-disk prepare takes a free one)", d.num, other.Host, other.Addresses, other.Port)
	d.env.Log.Error(err.Error())
	d.silence()
	d.register.Stop(func() { d.exit(0, err) }) // 0: as the reference does, so that systemd does not try for ever
}

// registered: the key is there, the cluster's state may be read.
func (d *OSD) registered() {
	d.stage = "reading the state of the cluster"
	d.guard[0].Number = int64(d.register.Lease())
	d.view.Start()
}
