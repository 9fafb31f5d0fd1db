package bolt_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/controller/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "store.db")) })
}

func TestWhatWasWrittenIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	if err := s.Update(func(tx store.Tx) error { return tx.Put(store.Clusters, "prod", []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer func() { _ = s.Close() }()
	err := s.View(func(tx store.Tx) error {
		value, err := tx.Get(store.Clusters, "prod")
		if string(value) != "v" {
			t.Errorf("read %q", value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFileIsPrivateEvenIfItWasNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := errors.Join(open(t, path).Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	defer func() { _ = s.Close() }()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestSecondControllerIsKeptOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	defer func() { _ = s.Close() }()
	if _, err := bolt.Open(path); !errors.Is(err, bolt.ErrLocked) {
		t.Fatalf("second Open: %v", err)
	}
}

func TestOpenRefusesWhatIsNotAStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *bolt.DamagedError
	if _, err := bolt.Open(path); !errors.As(err, &damaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--epoch-at-least") {
		t.Fatalf("a file of zeros: %v", err)
	}
	if _, err := bolt.Open(filepath.Join(path, "missing", "store.db")); err == nil {
		t.Fatal("opened a file in a directory that is not there")
	}
}

func open(t *testing.T, path string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
