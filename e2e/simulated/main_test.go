//go:build faultinject

package simulated_test

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain lets more garbage lie about than usual: runs are short and make a lot of it.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
