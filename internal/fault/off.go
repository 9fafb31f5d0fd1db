//go:build !faultinject

package fault

import "context"

// Enabled tells whether this build has fault points.
const Enabled = false

// Declare returns name.
func Declare(name string) string { return name }

// Names returns nothing: this build has no fault points.
func Names() []string { return nil }

// At returns nil.
func At(context.Context, string) error { return nil }

// WithHook returns ctx.
func WithHook(ctx context.Context, _ func(context.Context, string) error) context.Context { return ctx }
