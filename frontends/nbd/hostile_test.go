package nbd

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vitastor/frontends/blockdev"
	"vitastor/frontends/nbd/nbdproto"
	"vitastor/internal/sys"
)

// closedByPeer waits for the end of the connection.
func (c *raw) closedByPeer(what string) {
	c.Helper()
	if b, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
		c.Errorf("%s: %d bytes, then %v", what, len(b), err)
	}
}

// clean waits until nothing is left of any connection.
func (r *rig) clean() {
	r.Helper()
	r.eventually("connections end, their disks are closed, their memory is free", func() bool {
		return r.server.Connections() == 0 && r.disks.opens == 0 && r.server.pool.Stats().UsedBytes == 0 && len(r.server.exports) == 0
	})
}

// TestHostile: clients that break the rules lose their connection and nothing
// else happens.
func TestHostile(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		name string
		do   func(c *raw)
	}{
		{"garbage instead of flags", func(c *raw) { c.send([]byte("GET / HTTP/1.1\r\n\r\n")) }},
		{"garbage instead of an option", func(c *raw) { c.send([]byte{0, 0, 0, 3}, bytes.Repeat([]byte("x"), 64)) }},
		{"a name that is too long", func(c *raw) {
			c.send([]byte{0, 0, 0, 3}, []byte("IHAVEOPT"), []byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
		}},
		{"garbage instead of a request", func(c *raw) {
			c.goOn("data", true)
			c.send(bytes.Repeat([]byte("y"), 28))
		}},
		{"half a request", func(c *raw) {
			c.goOn("data", true)
			c.send(request(nbdproto.CmdRead, 1, 0, 4096)[:13])
			c.Conn.(*net.UnixConn).CloseWrite()
		}},
		{"half a payload", func(c *raw) {
			c.goOn("data", true)
			c.send(request(nbdproto.CmdWrite, 1, 0, 1<<20), make([]byte, 100<<10))
			c.Conn.(*net.UnixConn).CloseWrite()
		}},
		{"nothing at all", func(c *raw) { c.Conn.(*net.UnixConn).CloseWrite() }},
		{"good bye at once", func(c *raw) {
			c.goOn("data", false)
			c.send(request(nbdproto.CmdDisconnect, 1, 0, 0))
		}},
	} {
		k := dialRaw(t, r)
		c.do(k)
		k.closedByPeer(c.name)
		r.clean()
	}
}

// TestGoodBye: what was asked before is answered.
func TestGoodBye(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	c.goOn("data", false)
	c.send(slices.Concat(request(nbdproto.CmdFlush, 1, 0, 0), request(nbdproto.CmdRead, 2, 0, 512), request(nbdproto.CmdDisconnect, 3, 0, 0)))
	if cookie, e := c.simple(); cookie != 1 || e != 0 {
		t.Error(cookie, e)
	}
	if cookie, e := c.simple(); cookie != 2 || e != 0 {
		t.Error(cookie, e)
	}
	c.want(512)
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Error(n, err)
	}
	r.clean()
}

// TestBadRequests: what is wrong is answered, and the connection goes on, also
// when a payload follows.
func TestBadRequests(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	c.goOn("data", false)
	c.send(request(nbdproto.CmdWrite, 1, 64*mib, 4096), make([]byte, 4096))
	c.send(request(nbdproto.CmdWrite, 2, 0, MaxPayload+1), make([]byte, MaxPayload+1))
	c.send(request(77, 3, 0, 4096))
	c.send(request(nbdproto.CmdBlockStatus, 4, 0, 4096))
	c.send(request(nbdproto.CmdWrite, 5, 0, 0))
	c.send(request(nbdproto.CmdTrim, 6, 0, 1<<31))
	c.send(request(nbdproto.CmdFlush, 7, 0, 0))
	got := map[uint64]nbdproto.Errno{}
	for range 7 {
		cookie, e := c.simple()
		got[cookie] = e
	}
	want := map[uint64]nbdproto.Errno{1: nbdproto.ENOSPC, 2: nbdproto.EOVERFLOW, 3: nbdproto.EINVAL, 4: nbdproto.EINVAL, 5: 0, 6: nbdproto.ENOSPC, 7: 0}
	for k, e := range want {
		if got[k] != e {
			t.Errorf("request %d: error %d, want %d", k, got[k], e)
		}
	}
}

// TestErrorTexts: structured errors say what to do.
func TestErrorTexts(t *testing.T) {
	r := newRig(t, nil)
	r.on(func() { r.disks.disks["data"].Fail = func(*blockdev.Request) syscall.Errno { return syscall.EIO } })
	c := dialRaw(t, r)
	c.goOn("data", true)
	c.send(request(nbdproto.CmdRead, 1, 0, 4096))
	head := c.want(nbdproto.ChunkBytes)
	text := string(c.want(int(be.Uint32(head[16:]))))
	if be.Uint16(head[6:]) != 0x8001 || !strings.Contains(text, "vitastor-cli status") {
		t.Errorf("%x %q", head, text)
	}
}

// TestEveryCut: a conversation that comes byte by byte has the same answers.
func TestEveryCut(t *testing.T) {
	r := newRig(t, nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 512)
	for _, cut := range []int{1, 7, 27, 28, 29, 4096, 8191} {
		c := dialRaw(t, r)
		c.goOn("data", false)
		all := slices.Concat(request(nbdproto.CmdWrite, 1, 512, uint32(len(data))), data, request(nbdproto.CmdFlush, 2, 0, 0),
			request(nbdproto.CmdRead, 3, 512, uint32(len(data))))
		for len(all) > 0 {
			n := min(cut, len(all))
			c.send(all[:n])
			all = all[n:]
		}
		c.want(2 * nbdproto.SimpleBytes)
		if _, e := c.simple(); e != 0 || !bytes.Equal(c.want(len(data)), data) {
			t.Errorf("cut into %d bytes: the data is not the same", cut)
		}
		c.Close()
	}
	r.clean()
}

// TestMemoryIsShared: a client that fills all its memory and does not go on
// keeps nobody from working, and clients that wait get their turn.
func TestMemoryIsShared(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MemoryBytes = 4 * MaxPayload })
	var lazy []*raw
	for range 3 { // each begins writes of its share and never ends them
		c := dialRaw(t, r)
		c.goOn("data", false)
		c.send(request(nbdproto.CmdWrite, 1, 0, MaxPayload), make([]byte, 1000))
		lazy = append(lazy, c)
	}
	greedy := dialRaw(t, r) // wants far more than there is, and reads its answers late
	greedy.goOn("data", false)
	go func() {
		for i := range 40 {
			greedy.Write(request(nbdproto.CmdRead, uint64(i), 0, 8*mib))
		}
	}()
	r.eventually("a client waits for memory", func() bool {
		for c := range r.server.conns {
			if c.blocked {
				return true
			}
		}
		return false
	})
	for range 40 {
		if _, e := greedy.simple(); e != 0 {
			t.Fatal(e)
		}
		greedy.want(8 * mib)
	}
	greedy.Close()
	// Now all is taken by those who do not go on: they are dropped for others.
	last := dialRaw(t, r)
	last.goOn("data", false)
	extra := dialRaw(t, r)
	extra.goOn("data", false)
	extra.send(request(nbdproto.CmdWrite, 1, 0, MaxPayload), make([]byte, 1000))
	last.send(request(nbdproto.CmdRead, 9, 0, MaxPayload))
	r.eventually("a client waits for all", func() bool { return len(r.server.waiting) == 1 })
	r.on(func() {
		for range stalledMax + 1 {
			r.server.relieve()
		}
	})
	if cookie, e := last.simple(); cookie != 9 || e != 0 {
		t.Error(cookie, e)
	}
	for _, c := range append(lazy, extra) {
		c.Close()
	}
	last.want(MaxPayload)
	last.Close()
	r.clean()
}

// TestManyInFlight: more requests than slots, none of them lost.
func TestManyInFlight(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	c.goOn("data", false)
	const n = 5000
	go func() {
		for i := range n {
			c.Write(request(nbdproto.CmdRead, uint64(i), uint64(i)*512, 512))
		}
	}()
	seen := make([]bool, n)
	for range n {
		cookie, e := c.simple()
		c.want(512)
		if e != 0 || seen[cookie] {
			t.Fatal(cookie, e)
		}
		seen[cookie] = true
	}
	c.Close()
	r.clean()
}

func TestTooManyClients(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Connections = 2 })
	a, b := dialRaw(t, r), dialRaw(t, r)
	c, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	(&raw{t, c}).closedByPeer("the third client")
	a.Close()
	b.Close()
	r.clean()
}

func TestSlowHandshake(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	r.on(func() {
		for k := range r.server.conns {
			if !k.deadline.Armed() {
				t.Error("a handshake may take for ever")
			}
			k.deadline.Fire()
		}
	})
	c.closedByPeer("a client that says nothing")
	r.clean()
}

func TestConfigErrors(t *testing.T) {
	r := newRig(t, nil)
	if _, err := NewServer(Config{Env: r.env, MemoryBytes: mib}); err == nil || !strings.Contains(err.Error(), "128 MiB") {
		t.Errorf("too little memory: %v", err)
	}
}

// TestNothingAllocates: reads and writes in steady state, of the whole server.
func TestNothingAllocates(t *testing.T) {
	r := newRig(t, nil)
	c := dialRaw(t, r)
	c.goOn("data", true)
	write := slices.Concat(request(nbdproto.CmdWrite, 1, 4096, 4096), make([]byte, 4096))
	read := request(nbdproto.CmdRead, 2, 4096, 4096)
	buf := make([]byte, nbdproto.SimpleBytes+nbdproto.DataHeaderBytes+4096)
	round := func() {
		c.Write(write)
		c.Write(read)
		io.ReadFull(c, buf)
	}
	for range 100 {
		round()
	}
	// testing.AllocsPerRun allows only one thread, on which the loop would block.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 2000
	for range rounds {
		round()
	}
	runtime.ReadMemStats(&after)
	if n := float64(after.Mallocs-before.Mallocs) / rounds; n > 0.1 {
		t.Errorf("%.2f allocations per write and read", n)
	}
}

// FuzzConn: any bytes, in any pieces, and the server is as before.
func FuzzConn(f *testing.F) {
	f.Add([]byte{}, uint8(1))
	f.Add(request(nbdproto.CmdRead, 1, 0, 4096), uint8(9))
	f.Add(slices.Concat(request(nbdproto.CmdWrite, 1, 0, 4), []byte("data"), request(nbdproto.CmdDisconnect, 2, 0, 0)), uint8(3))
	f.Add(slices.Concat(request(nbdproto.CmdBlockStatus, 1, 0, 1<<31), request(nbdproto.CmdWriteZeroes, 2, 4096, 100000)), uint8(40))
	r := newRig(f, nil)
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		pair, err := sys.SocketPair()
		if err != nil {
			t.Fatal(err)
		}
		r.on(func() { err = r.loop.Adopt(pair[0], r.server.AcceptDevice) })
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(pair[1]), "pair")
		for len(b) > 0 {
			n := min(len(b), int(piece)+1)
			if _, err := file.Write(b[:n]); err != nil {
				break
			}
			b = b[n:]
		}
		file.Close()
		end := time.Now().Add(10 * time.Second)
		for left := 1; left > 0; {
			r.on(func() { left = r.server.Connections() })
			if time.Now().After(end) {
				t.Fatal("the connection does not end")
			}
		}
		r.on(func() {
			if used := r.server.pool.Stats().UsedBytes; used != 0 {
				t.Errorf("%d bytes of memory are lost", used)
			}
		})
	})
}
