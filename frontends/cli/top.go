package cli

import (
	"cmp"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"vitastor/internal/schema"
)

// top draws the state of the cluster again and again. The numbers are what
// OSDs and the monitor report to etcd, so they are some seconds old.
func (r *run) top() (result, error) {
	interval := time.Second
	if v := r.text("interval"); v != "" {
		seconds, err := strconv.ParseFloat(v, 64)
		if err != nil || seconds < 0.1 || seconds > 3600 {
			return result{}, fail(syscall.EINVAL, "--interval must be a number of seconds from 0.1 to 3600, but it is %s", v)
		}
		interval = time.Duration(seconds * float64(time.Second))
	}
	once := r.flag("once") || !r.Terminal || r.json
	if !once {
		fmt.Fprint(r.Out, "\033[?1049h\033[?25l\033[?7l") // a screen of our own, no cursor, long lines are cut
		defer fmt.Fprint(r.Out, "\033[?7h\033[?25h\033[?1049l")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(stop)
	for {
		text, data, err := r.picture()
		switch {
		case err != nil && once:
			return result{}, err
		case err != nil: // stay: the cluster may come back
			text = fmt.Sprintf("%v", err)
		case once:
			return result{text: text, data: data}, nil
		}
		fmt.Fprint(r.Out, "\033[H"+strings.ReplaceAll(text, "\n", "\033[K\n")+"\033[K\n\033[J")
		select {
		case <-stop:
			return result{}, nil
		case <-time.After(interval):
		}
	}
}

// picture is one look at everything.
func (r *run) picture() (string, object, error) {
	h, err := r.health()
	if err != nil {
		return "", nil, err
	}
	osds, err := r.conn.osds()
	if err != nil {
		return "", nil, err
	}
	s, err := r.conn.state()
	if err != nil {
		return "", nil, err
	}
	r.options["long"] = "1"
	images, err := r.images(s, nil)
	if err != nil {
		return "", nil, err
	}
	limit := 8
	if n := r.number("count"); n > 0 {
		limit = int(min(n, 1000))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "vitastor-cli top - %s\n%s\n\n", now().Format("2006-01-02 15:04:05"), h.text())
	b.WriteString(busiestOSDs(osds, limit, r.color))
	b.WriteString("\n\n" + busiestImages(s, images, limit, r.color))
	return b.String(), h.json(), nil
}

// load orders by operations, then by bytes.
func load(all ...schema.Counters) (n uint64) {
	for _, c := range all {
		n += c.IOPS<<20 + c.BPS>>12
	}
	return n
}

func busiestOSDs(osds []*osdInfo, limit int, color bool) string {
	slices.SortStableFunc(osds, func(a, b *osdInfo) int {
		of := func(o *osdInfo) uint64 { return load(o.stats.Ops["primary_read"], o.stats.Ops["primary_write"]) }
		return cmp.Compare(of(b), of(a))
	})
	t := &table{}
	t.add(column{key: "name", title: "OSD"}, column{key: "host", title: "HOST"}, column{key: "up", title: "UP"}, column{key: "used", title: "USED%"})
	t.add(ioColumns("DEL", false)...)
	t.add(column{key: "slow", title: "SLOW OPS"})
	for _, o := range osds {
		if o.stats.SizeBytes == 0 || len(t.rows) >= limit {
			continue
		}
		row := map[string]string{"name": fmt.Sprint(o.num), "host": o.stats.Host, "slow": fmt.Sprint(o.stats.SlowOpsPrimary + o.stats.SlowOpsSecondary)}
		o.cells(row)
		t.rows = append(t.rows, row)
	}
	return t.text(color)
}

func busiestImages(s *state, images []*imageInfo, limit int, color bool) string {
	of := func(i *imageInfo) uint64 {
		if i.stats == nil {
			return 0
		}
		return load(i.stats.Read, i.stats.Write, i.stats.Delete)
	}
	slices.SortStableFunc(images, func(a, b *imageInfo) int { return cmp.Compare(of(b), of(a)) })
	t := &table{}
	t.add(column{key: "name", title: "IMAGE"}, column{key: "pool", title: "POOL"}, column{key: "used", title: "USED"})
	t.add(ioColumns("DEL", true)...)
	for _, i := range images[:min(limit, len(images))] {
		t.rows = append(t.rows, i.cells(s))
	}
	return t.text(color)
}
