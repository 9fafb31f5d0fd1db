// Package logging makes the program's hclog loggers and is the one place where zap, which etcd's
// packages need, is bridged to hclog.
package logging

import (
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options say how to log.
type Options struct {
	Level  string    // trace, debug, info, warn, error; empty for info
	JSON   bool      // one JSON object a line
	Output io.Writer // where to
}

// New returns a logger named name. It fails on an unknown level.
func New(name string, o Options) (hclog.Logger, error) {
	level := hclog.Info
	if o.Level != "" {
		if level = hclog.LevelFromString(o.Level); level == hclog.NoLevel {
			return nil, fmt.Errorf("log level %q is unknown; use trace, debug, info, warn or error", o.Level)
		}
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, JSONFormat: o.JSON, Output: o.Output}), nil
}

// Zap returns a zap logger that writes to log. etcd's informational lines come out at debug level.
func Zap(log hclog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log})
}

// bridge is a zapcore.Core that hands every entry to hclog.
type bridge struct{ log hclog.Logger }

func (b *bridge) Enabled(level zapcore.Level) bool {
	switch {
	case level >= zapcore.ErrorLevel:
		return b.log.IsError()
	case level >= zapcore.WarnLevel:
		return b.log.IsWarn()
	}
	return b.log.IsDebug()
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log.With(pairs(fields)...)}
}

func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	log := b.log
	if e.LoggerName != "" {
		log = log.Named(e.LoggerName)
	}
	args := pairs(fields)
	switch {
	case e.Level >= zapcore.ErrorLevel:
		log.Error(e.Message, args...)
	case e.Level >= zapcore.WarnLevel:
		log.Warn(e.Message, args...)
	default:
		log.Debug(e.Message, args...)
	}
	return nil
}

func (b *bridge) Sync() error { return nil }

func pairs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	args := make([]any, 0, 2*len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		args = append(args, f.Key, enc.Fields[f.Key])
	}
	return args
}
