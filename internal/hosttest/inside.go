package hosttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// inside is set in the environment of tests that run on a host.
const inside = "REQUORUM_ON_HOST"

// Inside says that a test is for the inside of a host, where GoTest runs it; anywhere else it is skipped.
func Inside(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) != "1" {
		t.Skip("runs inside of a host, which another test starts")
	}
}

// binary is where the tests are on the host.
const binary = "/usr/local/lib/requorum/tests"

// Install builds the tests of the package that calls it, without cgo, and copies them to the host.
func (h *Host) Install() {
	h.t.Helper()
	h.InstallFrom(".")
}

// InstallFrom is Install for the package in dir, whose tests have a stand-in that others use too. It returns where they are on
// the host.
func (h *Host) InstallFrom(dir string) string {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "tests")
	cmd := exec.CommandContext(h.t.Context(), "go", "test", "-c", "-o", file, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("build the tests for %s: %v\n%s", h.Name, err, out)
	}
	h.Run("mkdir", "-p", filepath.Dir(binary))
	h.Copy(file, binary)
	return binary
}

var verdict = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// GoTest runs the tests on the host that Install copied there and whose names match the pattern run, as -run does. It
// fails unless at least one ran and all passed.
func (h *Host) GoTest(run string) {
	h.t.Helper()
	out, err := h.Exec(h.t.Context(), "env", inside+"=1", binary, "-test.v", "-test.timeout=10m", "-test.run", run)
	verdicts := verdict.FindAllStringSubmatch(out, -1)
	for _, v := range verdicts {
		h.t.Logf("%s: %s %s", h.Name, v[1], v[2])
	}
	passed := len(verdicts) > 0 && !slices.ContainsFunc(verdicts, func(v []string) bool { return v[1] != "PASS" })
	if err != nil || !passed {
		h.t.Fatalf("tests on %s: %v\n%s", h.Name, err, strings.TrimSpace(out))
	}
}
