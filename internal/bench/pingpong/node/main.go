// Command node is our half of package pingpong: client or server on the real
// loop and messenger. PINGPONG_PROFILE=FILE writes a CPU profile.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"syscall"
	"time"

	"vitastor/internal/loop"
	"vitastor/internal/meta"
	"vitastor/internal/msgr"
	"vitastor/internal/wire"
)

const (
	payloadBytes = 4096
	warmup       = 1000
	serverOSD    = 1
)

func main() {
	if file := os.Getenv("PINGPONG_PROFILE"); file != "" {
		f, err := os.Create(file + "." + os.Args[1])
		check(err)
		check(pprof.StartCPUProfile(f))
		defer pprof.StopCPUProfile()
	}
	l, err := loop.New(loop.Options{Log: slog.New(slog.DiscardHandler)})
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	switch {
	case len(os.Args) == 2 && os.Args[1] == "server":
		s := &server{stop: stop}
		l.Post(func() { s.start(l) })
	case len(os.Args) == 5 && os.Args[1] == "client":
		c := &client{l: l, stop: stop, depth: number(os.Args[3]), count: number(os.Args[4])}
		l.Post(func() { c.start(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(number(os.Args[2])))) })
	default:
		check(fmt.Errorf("usage: %s server | client PORT IN_FLIGHT REQUESTS", os.Args[0]))
	}
	l.Run(ctx)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var origin = time.Now()

// now reads one clock, as C does; time.Now reads two.
func now() time.Duration { return time.Since(origin) }

func number(s string) int {
	n, err := strconv.Atoi(s)
	check(err)
	return n
}

// cpu is the time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// server has the data in memory of the request, which is what C copies it for.
type server struct {
	stop   func()
	served int
	from   time.Duration
}

func (s *server) start(l *loop.Loop) {
	m, err := msgr.New(l.Env(), msgr.Options{OSD: serverOSD, Handler: s,
		ShowConfig: func(*msgr.Conn, wire.ConfigRequest) wire.ConfigReply {
			return wire.ConfigReply{OSDNum: serverOSD, ProtocolVersion: wire.ProtocolVersion}
		}})
	check(err)
	addr, err := m.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	check(err)
	fmt.Println(addr.Port())
}

func (s *server) Serve(r *msgr.Request) {
	var rw wire.Rw
	rw.Decode(&r.Packet)
	(&wire.RwReply{Op: r.Op(), Retval: wire.Retval(rw.Len)}).Encode(&r.Reply)
	r.Finish()
	if s.served++; s.served == warmup {
		s.from = cpu()
	}
}

func (s *server) Connected(*msgr.Conn)             {}
func (s *server) ConnectFailed(meta.OSDNum, error) {}

func (s *server) Disconnected(*msgr.Conn, error) {
	fmt.Printf("{\"cpu_ns\": %f}\n", float64(cpu()-s.from)/float64(s.served-warmup))
	s.stop()
}

// client keeps depth requests in flight.
type client struct {
	l            *loop.Loop
	stop         func()
	depth, count int
	conn         *msgr.Conn
	sent, done   int
	took         []uint32 // nanoseconds
	from, to     time.Duration
	payload      [payloadBytes]byte
}

type request struct {
	msgr.Op
	c       *client
	started time.Duration
}

func (c *client) start(addr netip.AddrPort) {
	m, err := msgr.New(c.l.Env(), msgr.Options{Handler: c})
	check(err)
	m.SetAddresses(serverOSD, []netip.AddrPort{addr})
	m.Want(serverOSD)
}

func (c *client) Serve(*msgr.Request)                  {}
func (c *client) ConnectFailed(_ meta.OSDNum, e error) { check(e) }
func (c *client) Disconnected(_ *msgr.Conn, e error)   { check(e) }

func (c *client) Connected(conn *msgr.Conn) {
	c.conn, c.took = conn, make([]uint32, 0, c.count)
	for range c.depth {
		r := &request{c: c}
		(&wire.Rw{Op: wire.OpWrite, Len: payloadBytes}).Encode(&r.Packet)
		r.Payload, r.Op.Done = [][]byte{c.payload[:]}, r.replied
		r.submit(now())
	}
}

func (r *request) submit(t time.Duration) {
	r.c.sent++
	r.started = t
	r.c.conn.Submit(&r.Op)
}

func (r *request) replied(*msgr.Op) {
	c, t := r.c, now()
	if r.Retval != payloadBytes {
		check(fmt.Errorf("WRITE: %v", r.Retval))
	}
	if c.done >= warmup && len(c.took) < c.count {
		c.took = append(c.took, uint32(t-r.started))
	}
	switch c.done++; c.done {
	case warmup:
		c.from = cpu()
	case warmup + c.count:
		c.to = cpu()
		c.report()
		return
	}
	if c.sent < warmup+c.count {
		r.submit(t)
	}
}

func (c *client) report() {
	slices.Sort(c.took)
	fmt.Printf("{\"p50_ns\": %d, \"p99_ns\": %d, \"cpu_ns\": %f}\n", c.took[c.count/2], c.took[c.count/100*99],
		float64(c.to-c.from)/float64(c.count))
	c.stop()
}
