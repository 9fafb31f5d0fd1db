package distribution_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/e2e/bench/distribution"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/etcdfile"
)

const size = 8 << 20

// What the bench distributes is a database as etcd writes it, and compresses or does not.
func TestFileIsADatabaseOfItsSize(t *testing.T) {
	for _, compressible := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "file.db")
		if err := distribution.WriteFile(file, size, compressible); err != nil {
			t.Fatal(err)
		}
		m, err := etcdfile.Inspect(t.Context(), file, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.GetKeys() != size/(3*4096) || m.GetSize() < size || m.GetSize() > 2*size {
			t.Errorf("%v", m)
		}
	}
}

// A small file over unshaped links: the figures are of what was asked for, and nothing is left.
func TestSourceSendsTheFileOnce(t *testing.T) {
	if why := distribution.Unavailable(); why != "" {
		t.Skip(why)
	}
	binary, _ := harness.Binaries(t)
	dir := t.TempDir()
	r, err := distribution.Measure(t.Context(), distribution.Options{Binary: binary, Dir: dir, Size: size, Receivers: 2, Star: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if ratio := r.SentRatio(); ratio < 1 || ratio > 1.05 { // a small file: what the session itself says counts more
		t.Errorf("the source sent %.3f of the file", ratio)
	}
	if r.Step <= 0 || r.Command < r.Step || r.Star <= 0 {
		t.Errorf("%+v", *r)
	}
	nothingLeft(t, dir)
}

// nothingLeft fails if anything of a measurement is left.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if ours := distribution.Namespaces(); len(ours) > 0 {
		t.Errorf("left behind: %v", ours)
	}
}

// Whoever interrupts a measurement finds nothing of it.
func TestNothingIsLeftOfAnInterruptedMeasurement(t *testing.T) {
	if why := distribution.Unavailable(); why != "" {
		t.Skip(why)
	}
	binary, _ := harness.Binaries(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for len(distribution.Namespaces()) == 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	_, err := distribution.Measure(ctx, distribution.Options{Binary: binary, Dir: dir, Size: size, Receivers: 2, Megabits: 1})
	if err == nil || !strings.Contains(err.Error(), "cancel") && !strings.Contains(err.Error(), "killed") {
		t.Errorf("%v", err)
	}
	nothingLeft(t, dir)
}
