package sim

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// logHandler writes what a node logs to Options.Log, with virtual time.
type logHandler struct {
	w      *World
	node   string
	attrs  string // formatted already
	prefix string // of groups, with dots
}

func (h *logHandler) Enabled(context.Context, slog.Level) bool { return h.w.opt.Log != nil }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%14.6f %-8s %-5s %s%s", float64(h.w.now)/float64(time.Second), h.node, r.Level, r.Message, h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s%s=%v", h.prefix, a.Key, a.Value)
		return true
	})
	b.WriteByte('\n')
	_, err := h.w.opt.Log.Write(b.Bytes())
	return err
}

func (h *logHandler) WithAttrs(as []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range as {
		fmt.Fprintf(&b, " %s%s=%v", h.prefix, a.Key, a.Value)
	}
	c := *h
	c.attrs += b.String()
	return &c
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.prefix += name + "."
	return &c
}
