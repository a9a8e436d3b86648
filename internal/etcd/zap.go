package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewZap makes a logger for etcd's libraries out of one of ours.
func NewZap(log *slog.Logger) *zap.Logger { return zap.New(&zapBridge{log.Handler()}) }

// zapBridge is a zapcore.Core that writes to a slog.Handler.
type zapBridge struct{ handler slog.Handler }

func (b *zapBridge) Enabled(l zapcore.Level) bool {
	return b.handler.Enabled(context.Background(), slogLevel(l))
}

func (b *zapBridge) With(fields []zapcore.Field) zapcore.Core {
	return &zapBridge{b.handler.WithAttrs(slogAttrs(fields))}
}

func (b *zapBridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

func (b *zapBridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(slogAttrs(fields)...)
	return b.handler.Handle(context.Background(), r)
}

func (b *zapBridge) Sync() error { return nil }

func slogLevel(l zapcore.Level) slog.Level {
	switch l {
	case zapcore.DebugLevel:
		return slog.LevelDebug
	case zapcore.InfoLevel:
		return slog.LevelInfo
	case zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func slogAttrs(fields []zapcore.Field) []slog.Attr {
	e := zapcore.NewMapObjectEncoder()
	attrs := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(e)
		attrs = append(attrs, slog.Any(f.Key, e.Fields[f.Key]))
	}
	return attrs
}
