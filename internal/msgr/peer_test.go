package msgr

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"vitastor/internal/meta"
)

var update = flag.Bool("update", false, "rewrite the scripts in testdata with what happens")

// TestReconnectScripts runs the scripts in testdata/reconnect: commands, each
// followed by what has to happen at which second.
//
//	addr NAME refuse|hang|ok|stranger   how 10.0.0.NAME behaves from now on
//	set NAME...       SetAddresses of OSD 1
//	want | unwant | forget
//	wait SECONDS
//	drop              the server closes all connections
func TestReconnectScripts(t *testing.T) {
	files, err := os.ReadDir("testdata/reconnect")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			text, err := os.ReadFile("testdata/reconnect/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile("testdata/reconnect/"+f.Name(), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("go test -update would make it:\n%s", got)
			}
		})
	}
}

// runScript returns the script with the events that its commands cause, as
// lines that begin with ">".
func runScript(t *testing.T, script string) string {
	w := newFakeWorld()
	s := &scriptRun{t: t, w: w}
	s.server, s.stranger = newNode(t, &w.env, Options{OSD: 1}), newNode(t, &w.env, Options{OSD: 2})
	s.client = newNode(t, &w.env, Options{OSD: 3})
	event := func(format string, args ...any) {
		fmt.Fprintf(&s.out, "> %4.1f %s\n", float64(w.time)/1e9, fmt.Sprintf(format, args...))
	}
	s.client.m.handler = eventPrinter{s.client, event}
	w.dialled = func(a netip.AddrPort) { event("dial %d", a.Addr().As4()[3]) }
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		s.out.WriteString(line)
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			s.command(words)
			w.advance(time.Millisecond)
		}
	}
	return s.out.String()
}

type scriptRun struct {
	t                        *testing.T
	w                        *fakeWorld
	client, server, stranger *node
	out                      strings.Builder
}

func (s *scriptRun) addr(name string) netip.AddrPort {
	return netip.MustParseAddrPort("10.0.0." + name + ":1")
}

func (s *scriptRun) command(words []string) {
	switch args := words[1:]; words[0] {
	case "addr":
		a := s.addr(args[0])
		delete(s.w.listeners, a)
		s.w.hang[a] = args[1] == "hang"
		switch args[1] {
		case "ok":
			s.w.listeners[a] = s.server.m.accept
		case "stranger":
			s.w.listeners[a] = s.stranger.m.accept
		}
	case "set":
		var addrs []netip.AddrPort
		for _, name := range args {
			addrs = append(addrs, s.addr(name))
		}
		s.client.m.SetAddresses(1, addrs)
	case "want":
		s.client.m.Want(1)
	case "unwant":
		s.client.m.Unwant(1)
	case "forget":
		s.client.m.Forget(1)
	case "wait":
		d, err := time.ParseDuration(args[0] + "s")
		if err != nil {
			s.t.Fatal(err)
		}
		s.w.advance(d)
	case "drop":
		s.server.m.Connections(func(c *Conn) { c.Drop(errUnwanted) })
	default:
		s.t.Fatalf("unknown command %v", words)
	}
}

type eventPrinter struct {
	*node
	event func(string, ...any)
}

func (e eventPrinter) Connected(c *Conn) {
	e.node.Connected(c)
	e.event("connected to %d", c.RemoteAddr().Addr().As4()[3])
}

func (e eventPrinter) ConnectFailed(osd meta.OSDNum, reason error) { e.event("failed: %v", reason) }

func (e eventPrinter) Disconnected(c *Conn, reason error) { e.event("disconnected: %v", reason) }
