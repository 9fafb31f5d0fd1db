package e2e

import (
	"bytes"
	"os"
	"testing"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/fault"
)

// What makes the binary under test fail, or its clock jump, is not in the one that is released.
func TestReleaseHasNoFaults(t *testing.T) {
	t.Parallel()
	plain, faults := harness.Binaries(t)
	released, err := os.ReadFile(plain)
	must(t, err)
	tested, err := os.ReadFile(faults)
	must(t, err)
	for _, trace := range []string{fault.DirEnv, "skewWall", "injected at", "undo-before-outcome", "agent/datadir/swap/half", "/deliver", "fault-points"} {
		if bytes.Contains(released, []byte(trace)) {
			t.Errorf("%s has %q in it", plain, trace)
		}
		if !bytes.Contains(tested, []byte(trace)) {
			t.Errorf("%s has no %q in it: build it with make build-faults", faults, trace)
		}
	}
}
