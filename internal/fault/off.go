//go:build !faultinject

package fault

import "context"

// Enabled tells whether this build has fault points.
const Enabled = false

// Declare returns name.
func Declare(name, _ string) string { return name }

// Names returns nothing: this build has no fault points.
func Names() []string { return nil }

// Points returns nothing, as Names does.
func Points() []Point { return nil }

// At returns nil.
func At(context.Context, string) error { return nil }

// WithTask returns ctx.
func WithTask(ctx context.Context, _ string) context.Context { return ctx }

// WithHook returns ctx.
func WithHook(ctx context.Context, _ func(context.Context, string) error) context.Context { return ctx }
