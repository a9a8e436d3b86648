package peering

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"vitastor/internal/meta"
	"vitastor/internal/schema"
)

// TestMachineScripts: the trace of actions of one PG on OSD 1. Commands:
//
//	pool scheme=ec size=3 minsize=2 k=2 locks=true split=true fits=false readonly=true
//	osds up=(2,3) keys=(2,3) nolocks=3          before the PG cares for them
//	config set=(1,2) primary=1 pause=true exists=false    pg/config, and the watch
//	history sets=((1,2)) peers=(1,2) epoch=5 scrub=9 bad=true   pg/history, and the watch
//	holder osd=2                                another holder of the key, and the watch
//	up, down, key, nokey osd=2                  connections and osd/state (up: both)
//	report                                      what is put into the transaction
//	commit [watch=false], refuse, timeout [done=true]     what etcd makes of it
//	watch
//	locked, refused, listed, badlist osd=2      answers of a peer
//	calculated, drained, flushed, timer         answers of the OSD
//	flags, epoch, scrub, shutdown               from operations
//	settle flags=(...) epoch=5                  everything answered well, quietly
//
// quiet=true hides the actions. The last line is the state.
func TestMachineScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		d := newDriver(1)
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			if td.Cmd == "new" {
				d = newDriver(1)
				return ""
			}
			d.log.Reset()
			extra := d.run(t, td)
			text := d.log.String()
			if option(t, td, "quiet", td.Cmd == "settle") {
				text = ""
			}
			return extra + text + d.show()
		})
	})
}

func (d *driver) show() string {
	s := fmt.Sprintf("%v epoch %d", d.m.State(), d.m.Epoch())
	if len(d.m.CurPeers()) > 0 {
		s += fmt.Sprintf(" peers %v", d.m.CurPeers())
	}
	if len(d.m.DeadPeers()) > 0 {
		s += fmt.Sprintf(" dead %v", d.m.DeadPeers())
	}
	if d.m.Why() != "" {
		s += ": " + d.m.Why()
	}
	return s + "\n"
}

func (d *driver) run(t *testing.T, td *datadriven.TestData) string {
	var osd, epoch uint64
	td.MaybeScanArgs(t, "osd", &osd)
	td.MaybeScanArgs(t, "epoch", &epoch)
	o := meta.OSDNum(osd)
	switch td.Cmd {
	case "pool", "osds", "config", "history", "holder":
		d.world(t, td, o, epoch)
	case "up":
		if !d.keys[o] {
			d.keys[o] = true
			d.step(PeerKeySeen{o})
		}
		d.connect(o)
	case "down":
		d.disconnect(o)
	case "key":
		d.keys[o] = true
		d.step(PeerKeySeen{o})
	case "nokey":
		d.keys[o] = false
		d.step(PeerKeyGone{o})
	case "report":
		d.report = true
		return d.showReport(d.sendReport())
	case "commit":
		d.txnResult(true, true)
		if option(t, td, "watch", true) {
			d.watch()
		}
	case "refuse":
		d.txnResult(false, true)
	case "timeout":
		d.txnResult(option(t, td, "done", false), false)
	case "watch":
		d.watch()
	case "locked", "refused":
		d.lockResult(o, td.Cmd == "locked")
	case "listed", "badlist":
		d.listResult(o, td.Cmd == "listed")
	case "settle":
		d.settle(Summary{MaxEpoch: epoch, Flags: states(t, td)})
	case "calculated":
		s := Summary{MaxEpoch: epoch, Flags: states(t, td)}
		td.MaybeScanArgs(t, "invalid", &s.Invalid)
		d.calculated(s)
	case "drained":
		d.drained()
	case "flushed":
		d.flushed(option(t, td, "ok", true), option(t, td, "more", false))
	case "timer":
		d.timer()
	case "flags":
		d.step(FlagsChanged{states(t, td)})
	case "epoch":
		d.step(NeedEpoch{epoch})
	case "scrub":
		d.step(ScrubPlanned{epoch})
	case "shutdown":
		d.step(Shutdown{})
	default:
		t.Fatalf("unknown command %q", td.Cmd)
	}
	return ""
}

// world changes what is outside of the Machine, and tells it.
func (d *driver) world(t *testing.T, td *datadriven.TestData, o meta.OSDNum, epoch uint64) {
	p := &d.in.Pool
	switch td.Cmd {
	case "pool":
		scheme := p.Scheme.String()
		td.MaybeScanArgs(t, "scheme", &scheme)
		p.Scheme, _ = meta.ParseScheme(scheme)
		td.MaybeScanArgs(t, "size", &p.PGSize)
		td.MaybeScanArgs(t, "minsize", &p.PGMinSize)
		td.MaybeScanArgs(t, "k", &p.DataChunks)
		p.Locks = option(t, td, "locks", p.Locks)
		p.Fits = option(t, td, "fits", p.Fits)
		p.AllowNetSplit = option(t, td, "split", p.AllowNetSplit)
		p.ReadOnly = option(t, td, "readonly", p.ReadOnly)
	case "osds":
		for _, o := range numbers(t, td, "up") {
			d.up[o], d.keys[o] = true, true
		}
		for _, o := range numbers(t, td, "keys") {
			d.keys[o] = true
		}
		for _, o := range numbers(t, td, "nolocks") {
			d.noLocks[o] = true
		}
		return
	case "config":
		d.in.Exists = option(t, td, "exists", true)
		d.in.Target.Pause = option(t, td, "pause", false)
		if td.HasArg("set") {
			d.in.Target.OSDSet = numbers(t, td, "set")
		}
		if primary := numbers(t, td, "primary"); len(primary) > 0 {
			d.in.Target.Primary = primary[0]
		}
	case "history":
		h := schema.PGHistory{AllPeers: numbers(t, td, "peers"), Epoch: epoch}
		td.MaybeScanArgs(t, "scrub", &h.NextScrub)
		if arg, ok := td.Arg("sets"); ok {
			for _, text := range arg.Vals {
				h.OSDSets = append(h.OSDSets, parseSet(t, text))
			}
		}
		d.in.HistoryBad = option(t, td, "bad", false)
		d.setHistory(h)
	case "holder":
		d.in.Holder, d.ownLease = o, false
	}
	d.changed()
	if option(t, td, "watch", true) {
		d.watch()
	}
}

func (d *driver) showReport(rep *schema.PGReport) string {
	if rep == nil {
		return "nothing\n"
	}
	s := fmt.Sprintf("%v peers %v", strings.Join(rep.State.State.Names(), ","), rep.State.Peers)
	s += [...]string{" if nobody holds it", " if mine", " if another's"}[rep.Holder]
	if h := rep.History; h != nil {
		s += fmt.Sprintf("; history sets %v peers %v epoch %d", h.OSDSets, h.AllPeers, h.Epoch)
		if h.NextScrub != 0 {
			s += fmt.Sprintf(" scrub %d", h.NextScrub)
		}
	}
	return s + "\n"
}

func option(t *testing.T, td *datadriven.TestData, name string, value bool) bool {
	td.MaybeScanArgs(t, name, &value)
	return value
}

func numbers(t *testing.T, td *datadriven.TestData, name string) (list []meta.OSDNum) {
	arg, ok := td.Arg(name)
	if !ok {
		return nil
	}
	return parseSet(t, strings.Join(arg.Vals, ","))
}

func parseSet(t *testing.T, text string) (list []meta.OSDNum) {
	for s := range strings.SplitSeq(strings.Trim(text, "()"), ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, meta.OSDNum(n))
	}
	return list
}

func states(t *testing.T, td *datadriven.TestData) (s meta.PGState) {
	arg, _ := td.Arg("flags")
	for _, name := range arg.Vals {
		if name == "" {
			continue
		}
		known := false
		for bit := meta.PGStarting; bit <= meta.PGScrubbing; bit <<= 1 {
			if bit.Names()[0] == name {
				s, known = s|bit, true
			}
		}
		if !known {
			t.Fatalf("unknown flag %q", name)
		}
	}
	return s
}

// Every event that may be repeated, repeated: no further actions.
func TestRepeatedEvents(t *testing.T) {
	d := newDriver(1)
	d.up[2], d.keys[2] = true, true
	d.in.Pool.Locks = true
	d.in.Exists, d.in.Target = true, schema.PGTarget{OSDSet: []meta.OSDNum{1, 2}, Primary: 1}
	d.changed()
	again := func(what string, ev Event) {
		t.Helper()
		if a := d.m.Step(ev); len(a) > 0 {
			t.Errorf("%s again in %v: %v", what, d.m.State(), a)
		}
	}
	d.watch()
	again("inputs", d.seen)
	d.sendReport()
	d.txnResult(true, true)
	d.watch()
	again("inputs", d.seen)
	lock := d.locks[2].(SendLock)
	d.lockResult(2, true)
	again("lock", LockResult{2, lock.Seq, true})
	rounds := maps.Clone(d.lists)
	for _, o := range slices.Sorted(maps.Keys(rounds)) {
		d.listResult(o, true)
		again("list", ListDone{o, rounds[o], true})
	}
	round := d.calc
	d.calculated(Summary{Flags: meta.PGHasUnclean})
	again("calculated", Calculated{round, Summary{}})
	flush := d.flush
	d.flushed(true, true)
	again("flushed", FlushDone{flush, true, false})
	again("connected", PeerConnected{2})
	again("key", PeerKeySeen{2})
	d.settle(Summary{})
	if d.m.State() != meta.PGActive {
		t.Fatalf("state %v", d.m.State())
	}
	d.disconnect(2)
	again("disconnected", PeerDisconnected{2})
	drain := d.drain
	d.drained()
	again("drained", OpsDrained{drain})
	d.keys[2] = false
	d.step(PeerKeyGone{2})
	again("key gone", PeerKeyGone{2})
	d.settle(Summary{})
	d.step(Shutdown{})
	again("shutdown", Shutdown{})
	d.settle(Summary{})
	if d.m.State() != meta.PGOffline || d.in.Holder != 0 {
		t.Errorf("%v, holder %d", d.m.State(), d.in.Holder)
	}
}
