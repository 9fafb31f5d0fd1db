//go:build !faultinject

package fault_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/requorum/requorum/internal/fault"
)

var offPoint = fault.Declare("test/off", "in a build without points")

// A build without the tag must not even look, whatever the environment says.
func TestOtherBuildsHaveNoFaults(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(fault.DirEnv, dir)
	armed := filepath.Join(dir, fault.FileName(offPoint, ""))
	if err := os.WriteFile(armed, []byte("error once must not happen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fault.At(t.Context(), offPoint); err != nil {
		t.Errorf("At: %v", err)
	}
	if _, err := os.Stat(armed); err != nil {
		t.Errorf("the file was taken: %v", err)
	}
	if fault.Enabled || len(fault.Names()) != 0 {
		t.Errorf("Enabled %v with points %q", fault.Enabled, fault.Names())
	}
}
