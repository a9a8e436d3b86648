// Package daemon is one OSD: it puts the parts of osd/* together, starts them
// in the order of spec osd.md §14, and ends them.
//
//	superblock ▶ config/global ▶ disks, store ▶ sockets ▶ lease, osd/state ▶ cluster ▶ PGs
//
//	etcd ──▶ clusterview ──▶ pgs ──▶ primary ──▶ secondary ──▶ store ──▶ disks
//	                          │  heal ──┘  ▲         ▲
//	                     registration    messenger ◀─┴── other OSDs, clients
//
// It guarantees that the OSD takes no PG before its store is open and its lease
// certain, and that it ends with a reason: Options.Exit is called exactly once,
// whatever happens.
//
// It reaches the world through env.Env only, so the same code runs as the
// program vitastor-osd and in the simulator.
//
// Concurrency: everything runs on the loop.
package daemon

import (
	"log/slog"
	"time"

	"vitastor/internal/clusterview"
	"vitastor/internal/env"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/pinned"
	"vitastor/internal/schema"
	"vitastor/internal/schema/option"
	"vitastor/osd/config"
	"vitastor/osd/heal"
	"vitastor/osd/pgs"
	"vitastor/osd/primary"
	"vitastor/osd/registration"
	"vitastor/osd/secondary"
	"vitastor/osd/stats"
	"vitastor/osd/store"
)

// Version is what the OSD announces of itself (osd/state, osd/stats): the
// release that it is compatible with.
const Version = "3.0.8"

// Options are what the OSD gets from its surroundings.
type Options struct {
	CommandLine option.Layer
	File        option.Layer
	Facts       option.Facts
	// Interfaces are the addresses of this host that are up and running.
	Interfaces []config.Interface
	Limits     msgr.Limits // zero values: defaults

	// Exit is the last call: the process has to end with the code. err is the
	// reason, nil after Shutdown; it was logged.
	Exit func(code int, err error)
	// The others may be nil.
	Leased      func(env.LeaseID, []string) // each lease, and the addresses of etcd
	Started     func()                      // registered, and the cluster's state is known
	SetLogLevel func(slog.Level)
	SetEtcd     func(addresses []string) error // etcd_address of config/global
}

// OSD is one running OSD. Parts are nil until the start has come to them.
type OSD struct {
	env    *env.Env
	o      Options
	loader config.Loader
	config *config.Config
	num    meta.OSDNum
	keys   schema.Keys
	stage  string

	disks    disks
	opening  *store.Opening
	store    *store.Store
	msgr     *msgr.Messenger
	local    *secondary.Server
	primary  *primary.Server
	pgs      *pgs.Manager
	heal     *heal.Healer
	stats    *stats.Reporter
	view     *clusterview.View
	guard    []env.Compare // of view: the lease, once it is known
	register *registration.Registration

	bufferBytes uint64 // size of the buffer area
	retry       env.Timer
	patience    env.Timer // of Shutdown
	ending      bool      // Shutdown or fatal was called
	failed      bool      // fatal was called: nothing is served any more
	over        bool      // Exit was called
}

// Start starts an OSD. The rest follows in callbacks.
func Start(e *env.Env, o Options) *OSD {
	if e.Log == nil {
		copied := *e
		copied.Log, e = slog.New(slog.DiscardHandler), &copied
	}
	d := &OSD{env: e, o: o, stage: "starting", disks: disks{env: e}}
	d.loader = config.Loader{Log: e.Log, Keys: schema.NewKeys("")}
	d.loader.Facts, d.loader.File, d.loader.CommandLine = o.Facts, o.File, o.CommandLine
	d.begin()
	return d
}

// fatal ends the OSD at once: nothing is served any more, the lease is given
// back so that others take over, and that is the end.
func (d *OSD) fatal(err error) {
	if d.over || d.failed {
		return
	}
	d.ending, d.failed, d.stage = true, true, "failed"
	d.env.Log.Error("the OSD has to stop", "err", err)
	d.silence()
	if d.register == nil {
		d.exit(1, err)
		return
	}
	d.register.Stop(func() { d.exit(1, err) })
}

// silence ends everything that others see, except for the lease.
func (d *OSD) silence() {
	d.env.Clock.Disarm(&d.retry)
	d.env.Clock.Disarm(&d.patience)
	if d.heal != nil {
		d.heal.Stop()
	}
	if d.stats != nil {
		d.stats.Stop()
	}
	if d.view != nil {
		d.view.Stop()
	}
	if d.msgr != nil {
		d.msgr.Close()
	}
}

func (d *OSD) exit(code int, err error) {
	if d.over {
		return
	}
	d.over = true
	d.o.Exit(code, err)
}

// shutdownPatience is how long PGs may need to stop: without etcd they cannot
// tell that they are offline, which the end of the lease does as well.
const shutdownPatience = 5 * time.Second

// Shutdown hands the PGs over and ends the OSD: they are reported offline, the
// lease is revoked, the store is closed. Exit follows.
func (d *OSD) Shutdown() {
	if d.ending {
		return
	}
	d.ending, d.stage = true, "stopping"
	d.env.Log.Info("stopping")
	if d.pgs == nil || d.register == nil {
		d.leave()
		return
	}
	d.heal.Stop()
	once := false
	offline := func() {
		if !once && !d.failed {
			once = true
			d.leave()
		}
	}
	d.patience.Fire = func() {
		d.env.Log.Warn("PGs do not stop, the end of the lease has to do", "waited", shutdownPatience)
		offline()
	}
	d.env.Clock.Arm(&d.patience, shutdownPatience)
	d.pgs.Shutdown(offline)
}

// leave gives the lease back, then closes the store.
func (d *OSD) leave() {
	gone := func() {
		d.silence()
		d.closeStore(func() { d.exit(0, nil) })
	}
	if d.register == nil {
		gone()
		return
	}
	d.register.Stop(gone)
}

// closeStore makes everything durable. What is on its way ends before; what
// does not is left to the end of the process: the disk is sound at any time.
func (d *OSD) closeStore(done func()) {
	if d.store == nil {
		done()
		return
	}
	d.patience.Fire = func() {
		d.env.Log.Warn("the store does not close", "waited", shutdownPatience)
		done()
	}
	d.env.Clock.Arm(&d.patience, shutdownPatience)
	closed := func(err error) {
		if err != nil {
			d.env.Log.Error("the object store ended with an error", "err", err)
		}
		d.store = nil
		d.disks.close()
		d.env.Clock.Disarm(&d.patience)
		done()
	}
	if d.primary == nil || d.local == nil {
		d.store.Close(closed)
		return
	}
	d.primary.Close(func() { d.local.Close(func() { d.store.Close(closed) }) })
}

// Free returns all memory outside of the Go heap and closes the disks. The loop
// must not run any more: the process has ended, or was killed in the simulator.
func (d *OSD) Free() {
	d.over = true
	if d.heal != nil {
		d.heal.Free()
	}
	if d.primary != nil {
		d.primary.Free()
	}
	if d.pgs != nil {
		d.pgs.Free()
	}
	if d.local != nil {
		d.local.Free()
	}
	if d.msgr != nil {
		d.msgr.Free()
	}
	switch {
	case d.store != nil:
		d.store.Free()
	case d.opening != nil:
		d.opening.Free()
	}
	pinned.Free(d.disks.buf)
	d.disks.buf = nil
}
