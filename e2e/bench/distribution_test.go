package main

import "testing"

// The distribution is measured at 1 GiB wherever that was asked for, and never at more than was.
func TestSizeThatIsDistributed(t *testing.T) {
	for _, c := range []struct {
		sizes []Size
		want  Size
	}{
		{[]Size{gib / 10, gib, 4 * gib}, gib},
		{[]Size{gib / 10}, gib / 10},
		{[]Size{4 * gib}, 4 * gib},
	} {
		if got := distributed(c.sizes); got != c.want {
			t.Errorf("%v: %s", c.sizes, got)
		}
	}
}
