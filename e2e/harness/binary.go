package harness

import (
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// binaries are requorum as it is released, and requorum with fault points.
type binaries struct{ plain, faults string }

var built struct {
	sync.Once
	binaries
	err error
}

// Binaries returns requorum and requorum with fault points: those that REQUORUM_BIN and REQUORUM_FAULTS_BIN name, or
// built once for all tests of the process.
func Binaries(t testing.TB) (plain, faults string) {
	t.Helper()
	built.Do(func() { built.binaries, built.err = findOrBuild() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.plain, built.faults
}

func findOrBuild() (binaries, error) {
	b := binaries{plain: os.Getenv("REQUORUM_BIN"), faults: os.Getenv("REQUORUM_FAULTS_BIN")}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..")
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("requorum-e2e-%d-%08x", os.Getuid(), crc32.ChecksumIEEE([]byte(root)))) // of this checkout only
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return b, err
	}
	if b.plain == "" {
		b.plain = filepath.Join(dir, "requorum")
		if err := build(root, b.plain); err != nil {
			return b, err
		}
	}
	if b.faults == "" {
		b.faults = filepath.Join(dir, "requorum-faults")
		flags, err := faultFlags(root, dir)
		if err != nil {
			return b, err
		}
		if err := build(root, b.faults, flags...); err != nil {
			return b, err
		}
	}
	return b, nil
}

// faultFlags are those of make build-faults: fault points, and a clock that can be set off.
func faultFlags(root, dir string) ([]string, error) {
	cmd := exec.Command("go", "run", "./internal/fault/skewtime", filepath.Join(dir, "skew"))
	cmd.Dir, cmd.Stderr = root, os.Stderr
	overlay, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("make a clock that can be set off: %w", err)
	}
	flags := []string{"-tags", "faultinject,faultclock", "-overlay", strings.TrimSpace(string(overlay))}
	if raceEnabled {
		flags = append(flags, "-race")
	}
	return flags, nil
}

// build builds the command beside its place and renames it, so that a binary that runs is never written to.
func build(root, to string, flags ...string) error {
	fresh := fmt.Sprintf("%s.%d", to, os.Getpid())
	args := append([]string{"build", "-buildvcs=false", "-o", fresh}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/requorum")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build requorum: %w\n%s", err, out)
	}
	return os.Rename(fresh, to)
}
