package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	clientv3 "go.etcd.io/etcd/client/v3"

	"vitastor/frontends/cli"
	"vitastor/internal/etcd/embed"
)

// fabricated is etcd with whatever state a test writes: no OSD runs, so that
// every number is known.
type fabricated struct {
	t      *testing.T
	server *embed.Server
	client *clientv3.Client
	url    string
	warned map[string]bool
}

func newFabricated(t *testing.T) *fabricated {
	t.Helper()
	server, err := embed.Start(embed.Config{Dir: t.TempDir(), Client: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	f := &fabricated{t: t, server: server, url: server.Endpoint(), warned: map[string]bool{}}
	f.client, err = clientv3.New(clientv3.Config{Endpoints: []string{f.url}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.client.Close() })
	return f
}

func (f *fabricated) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

func (f *fabricated) put(key, value string) {
	ctx, cancel := f.context()
	defer cancel()
	if _, err := f.client.Put(ctx, "/vitastor/"+key, value); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fabricated) clear() {
	ctx, cancel := f.context()
	defer cancel()
	if _, err := f.client.Delete(ctx, "/", clientv3.WithPrefix()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fabricated) dump(prefix string) string {
	ctx, cancel := f.context()
	defer cancel()
	r, err := f.client.Get(ctx, "/vitastor/"+prefix, clientv3.WithPrefix())
	if err != nil {
		f.t.Fatal(err)
	}
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s %s\n", strings.TrimPrefix(string(kv.Key), "/vitastor/"), kv.Value)
	}
	return b.String()
}

// volatile are the numbers that nobody can know.
var volatile = regexp.MustCompile(`[0-9.]+ [KM] database size|"etcd_db_size": [0-9]+|revision=[0-9]+`)

// run runs a command line in this process.
func (f *fabricated) run(args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	tool := cli.Tool{In: strings.NewReader(""), Out: &o, Err: &e, Name: "vitastor-cli"}
	code = tool.Main(append([]string{"--etcd_address", f.url}, args...))
	return volatile.ReplaceAllString(o.String(), "<volatile>"), f.news(volatile.ReplaceAllString(e.String(), "<volatile>")), code
}

// news leaves out warnings that were shown before.
func (f *fabricated) news(errs string) string {
	var b strings.Builder
	for line := range strings.Lines(errs) {
		if !strings.HasPrefix(line, "level=") || !f.warned[line] {
			b.WriteString(line)
		}
		f.warned[line] = true
	}
	return b.String()
}

// words splits a command line; '...' keeps spaces.
func words(line string) (list []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	return list
}

// TestTranscripts runs testdata/*.txt: what etcd has, commands, and all they
// print, with a bar at the end of each line, because cells are padded.
//
//	put        key and value per line; NOW is the time
//	run        a command line per line
//	keys       a prefix: what etcd has now
//	clear      nothing is left
func TestTranscripts(t *testing.T) {
	f := newFabricated(t)
	datadriven.Walk(t, "testdata", func(t *testing.T, file string) {
		if !strings.HasSuffix(file, ".txt") {
			return
		}
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			var b strings.Builder
			for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
				switch d.Cmd {
				case "clear":
					f.clear()
				case "put":
					key, value, _ := strings.Cut(line, " ")
					f.put(key, strings.ReplaceAll(value, "NOW", fmt.Sprint(time.Now().Unix())))
				case "keys":
					b.WriteString(f.dump(line))
				case "run":
					out, errs, code := f.run(words(line)...)
					fmt.Fprintf(&b, "$ %s\n%s%s", line, barred(" ", out), barred("!", errs))
					if code != 0 {
						fmt.Fprintf(&b, "exit %d\n", code)
					}
				default:
					d.Fatalf(t, "unknown command %s", d.Cmd)
				}
			}
			return b.String()
		})
	})
}

func barred(mark, text string) string {
	if text == "" {
		return ""
	}
	text = strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\033", "ESC")
	return mark + strings.ReplaceAll(text, "\n", "|\n"+mark) + "|\n"
}
