package loop

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"vitastor/internal/env"
	"vitastor/internal/sys"
)

// The messages of a small replicated write: header and 4 KiB there, header back.
const (
	headerBytes  = 128
	requestBytes = headerBytes + 4096
)

// pingPong sends requests from one loop to another, which may be the same, and
// counts replies.
type pingPong struct {
	dialer, server       env.Stream
	received, served     int
	requests, replies    []*env.SendOp // idle
	header, payload      []byte
	left, sent, inFlight int
	finish               func()
}

func newPingPong(t testing.TB, client, server *Loop) *pingPong {
	p := &pingPong{header: make([]byte, headerBytes), payload: make([]byte, 4096), inFlight: 1}
	to := listen(t, server, localhost, func(s env.Stream) env.StreamHandler {
		p.server = s
		return &funcs{received: p.serve}
	})
	do(t, client, func(finish func()) {
		p.dialer = client.Dial(to, &funcs{connected: finish, received: p.reply})
	})
	return p
}

// serve answers complete requests.
func (p *pingPong) serve(b []byte) {
	for p.served += len(b); p.served >= requestBytes; p.served -= requestBytes {
		p.server.Send(take(&p.replies, p.header))
	}
}

// take returns an idle send of the parts, or a new one.
func take(idle *[]*env.SendOp, parts ...[]byte) *env.SendOp {
	if n := len(*idle); n > 0 {
		op := (*idle)[n-1]
		*idle = (*idle)[:n-1]
		return op
	}
	return &env.SendOp{Parts: append([][]byte{}, parts...), Done: func(op *env.SendOp, _ error) {
		*idle = append(*idle, op)
	}}
}

// reply counts replies and keeps the wanted number of requests in flight.
func (p *pingPong) reply(b []byte) {
	for p.received += len(b); p.received >= headerBytes; p.received -= headerBytes {
		if p.left--; p.left == 0 {
			p.finish()
		}
		p.request()
	}
}

func (p *pingPong) request() {
	if p.sent == 0 {
		return
	}
	p.sent--
	if n := len(p.requests); n > 0 {
		p.dialer.Send(take(&p.requests))
		return
	}
	p.dialer.Send(take(&p.requests, p.header, p.payload))
}

// run makes that many round trips; on the client's loop.
func (p *pingPong) run(rounds int, finish func()) {
	p.left, p.sent, p.finish = rounds, rounds, finish
	for range p.inFlight {
		p.request()
	}
}

// BenchmarkStream is one connection over loopback between two loops.
func BenchmarkStream(b *testing.B) {
	for _, depth := range []int{1, 64} {
		b.Run(fmt.Sprintf("QD%d", depth), func(b *testing.B) {
			client := start(b, Options{})
			p := newPingPong(b, client, start(b, Options{}))
			p.inFlight = depth
			b.ReportAllocs()
			b.ResetTimer()
			do(b, client, func(finish func()) { p.run(b.N, finish) })
		})
	}
}

// BenchmarkDisk is 4 KiB direct I/O on a preallocated file: by io_uring, by
// threads, and by the plain system call.
func BenchmarkDisk(b *testing.B) {
	const bytes = 64 << 20
	dir, err := os.MkdirTemp(".", "bench-disk-") // the temporary directory may be in memory
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := dir + "/disk"
	if err := os.WriteFile(path, make([]byte, bytes), 0o600); err != nil {
		b.Fatal(err)
	}
	for kind, name := range []string{env.DiskRead: "read", env.DiskWrite: "write"} {
		for _, depth := range []int{1, 32} {
			for how, noRing := range map[string]bool{"ring": false, "threads": true} {
				b.Run(fmt.Sprintf("%s/QD%d/%s", name, depth, how), func(b *testing.B) {
					benchDisk(b, path, env.DiskOpKind(kind), depth, Options{NoRing: noRing})
				})
			}
		}
		b.Run(name+"/QD1/plain", func(b *testing.B) { benchPlain(b, path, env.DiskOpKind(kind)) })
	}
}

// nextBlock jumps over the blocks of the file in a fixed, scattered order.
func nextBlock(offset, bytes int64) int64 { return (offset*5 + 4096*12345) % bytes &^ 4095 }

func benchDisk(b *testing.B, path string, kind env.DiskOpKind, depth int, o Options) {
	l, mem := start(b, o), alloc(b, depth*4096)
	d := openDisk(b, l, path, env.DiskOptions{})
	b.ReportAllocs()
	b.ResetTimer()
	do(b, l, func(finish func()) {
		left, started := b.N, 0
		for i := range min(depth, b.N) {
			op := &env.DiskOp{Kind: kind, Offset: int64(i) * 4096, Buf: mem[i*4096:][:4096]}
			op.Done = func(op *env.DiskOp) {
				if op.Err != nil {
					b.Error(op.Err)
				}
				if left--; left == 0 {
					finish()
				}
				if started < b.N {
					started++
					op.Offset = nextBlock(op.Offset, d.Info().SizeBytes)
					d.Submit(op)
				}
			}
			started++
			d.Submit(op)
		}
	})
}

func benchPlain(b *testing.B, path string, kind env.DiskOpKind) {
	fd, e := sys.OpenDisk(path, sys.OpenDiskFlags{Direct: true})
	if e != 0 {
		b.Fatal(e)
	}
	defer sys.Close(fd)
	mem, call, offset := alloc(b, 4096), sys.ReadAt, int64(0)
	if kind == env.DiskWrite {
		call = sys.WriteAt
	}
	parts := []sys.Iovec{sys.NewIovec(mem)}
	for b.Loop() {
		if _, e := call(fd, parts, offset, 0); e != 0 {
			b.Fatal(e)
		}
		offset = nextBlock(offset, 64<<20)
	}
}

// BenchmarkIdle measures what a loop with a timer each second costs while
// nothing happens: ms-CPU/s should stay below 1.
func BenchmarkIdle(b *testing.B) {
	l := start(b, Options{})
	do(b, l, func(finish func()) {
		var tick env.Timer
		tick.Fire = func() { l.Arm(&tick, time.Second) }
		l.Arm(&tick, time.Second)
		finish()
	})
	time.Sleep(200 * time.Millisecond) // let the last event be forgotten
	began, used := time.Now(), cpuTime(b)
	for b.Loop() {
		time.Sleep(time.Second)
	}
	b.ReportMetric((cpuTime(b)-used).Seconds()*1e3/time.Since(began).Seconds(), "ms-CPU/s")
}

func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
