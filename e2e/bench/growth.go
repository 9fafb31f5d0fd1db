package main

import (
	"context"
	"fmt"
)

// growth compares what grows with the data at the two largest sizes. With one size there is nothing to compare.
func growth(_ context.Context, r *Report) error {
	sizes := r.Settings.Sizes
	if len(sizes) < 2 {
		r.Say("  one size only: nothing to compare")
		return nil
	}
	small, large := sizes[len(sizes)-2], sizes[len(sizes)-1]
	one, found := r.Find("restore", unavailable, bareRestart, small)
	other, foundOther := r.Find("restore", unavailable, bareRestart, large)
	if !found || !foundOther {
		return fmt.Errorf("the section restore has no figures at %s and %s; run it together with this one", small, large)
	}
	r.Add(Row{
		Section: "growth", What: fmt.Sprintf("%s, %s against %s", unavailable, large, small),
		Against: bareRestart + " at both sizes", Unit: "×",
		Measured: other.Measured / one.Measured, Base: other.Base / one.Base, Target: 1.25,
	})
	for _, what := range []string{saving, sending, receiving, hashing} {
		one, found := r.Find("memory", what, "", small)
		other, foundOther := r.Find("memory", what, "", large)
		if found && foundOther {
			r.Add(Row{
				Section: "growth", What: fmt.Sprintf("%s, %s less %s", what, large, small), Unit: "bytes",
				Measured: other.Measured - one.Measured, Target: sameMemory,
				Note: "The same at both sizes means: no more than 16 MiB more.",
			})
		}
	}
	return nil
}
