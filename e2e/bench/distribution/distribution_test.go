package distribution_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/e2e/bench/distribution"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/lacking"
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

func needNetwork(t *testing.T) {
	t.Helper()
	if why := distribution.Unavailable(); why != "" {
		lacking.Part(t, "%s", why)
	}
}

// A small file over unshaped links: the figures are of what was asked for, and nothing is left.
func TestSourceSendsTheFileOnce(t *testing.T) {
	needNetwork(t)
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

// A link that delays does so in both directions, and carries as much as one that does not.
func TestLinksDelay(t *testing.T) {
	needNetwork(t)
	const delay = 20 * time.Millisecond
	net, err := distribution.NewNetwork(t.Context(), 2, distribution.Links{Megabits: 100, Delay: delay})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	}()
	l, err := net.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // sends what it is sent
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn) // the other end tells what is missing
	}()
	conn, err := net.Dial(t.Context(), 1, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := []byte{1}
	for range 3 {
		began := time.Now()
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, sent); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 4*delay { // two links, there and back
			t.Errorf("there and back took %s", took)
		}
	}
	large := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(large)
	go func() { _, _ = conn.Write(large) }() // as above
	back := make([]byte, size)
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, large) {
		t.Errorf("something else came back: %v", err)
	}
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
	needNetwork(t)
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
	_, err := distribution.Measure(ctx, distribution.Options{Binary: binary, Dir: dir, Size: size, Receivers: 2, Links: distribution.Links{Megabits: 1}})
	if err == nil || !strings.Contains(err.Error(), "cancel") && !strings.Contains(err.Error(), "killed") {
		t.Errorf("%v", err)
	}
	nothingLeft(t, dir)
}
