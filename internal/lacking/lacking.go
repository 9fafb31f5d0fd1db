// Package lacking ends tests that need a part which this machine does not have. It is for tests only.
package lacking

import (
	"fmt"
	"os"
	"testing"
)

// Part skips the test and says why. With CI=true it fails: what a test needs is installed there.
func Part(t testing.TB, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatal("in CI nothing may be missing: " + why)
	}
	t.Skip("SKIPPED, " + why)
}
