package dir_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/dir"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"
)

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	s, err := dir.Open(path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	objectstoretest.Run(t, func(t *testing.T) objectstore.Store { return open(t, t.TempDir()) })
}

func TestADirectoryThatIsMissingIsNotMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not-mounted")
	if _, err := dir.Open(path, ""); !errors.Is(err, objectstore.ErrNoStore) {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFilesArePrivateAndWhatACrashLeftGoesWithTheObject(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if err := objectstoretest.Put(t.Context(), s, "folder/prod/a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"folder": 0o700 | fs.ModeDir, "folder/prod": 0o700 | fs.ModeDir, "folder/prod/a": 0o600} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	for _, left := range []string{".a.ABC.part", ".a.b.ABC.part"} {
		if err := os.WriteFile(filepath.Join(path, "folder/prod", left), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key != "folder/prod/a" {
			t.Errorf("listed: %+v, %v", info, err)
		}
	}
	if err := s.Delete(t.Context(), "folder/prod/a"); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(path, "folder/prod"))
	if err != nil || len(entries) != 1 || entries[0].Name() != ".a.b.ABC.part" {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestNothingLeadsOutOfTheDirectory(t *testing.T) {
	path, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if _, err := s.Get(t.Context(), "link/secret", 0); err == nil {
		t.Error("a link leads out")
	}
	if err := s.Put(t.Context(), "link/more", func(io.Writer) error { return nil }); err == nil {
		t.Error("a link leads out")
	}
}

// An upload that died is done again: what it has left goes then, and what somebody writes at the same time stays.
func TestWhatACrashLeftGoesWithTheNextPut(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	long := time.Now().Add(-time.Minute)
	for _, left := range []string{".a.DEAD.part", ".a.b.OTHER.part"} {
		if err := errors.Join(os.WriteFile(filepath.Join(path, left), nil, 0o600), os.Chtimes(filepath.Join(path, left), long, long)); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Put(t.Context(), "a", func(w io.Writer) error {
		if _, err := io.WriteString(w, "x"); err != nil {
			return err
		}
		return objectstoretest.Put(t.Context(), s, "a", []byte("x")) // by another node, which began later
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != 3 || entries[0].Name() != ".a.b.OTHER.part" || entries[1].Name() != dir.MarkerFile || entries[2].Name() != "a" {
		t.Errorf("%v, %v", entries, err)
	}
}

// A removal that was given up removes nothing, also if it has hung for so long that another object has come there.
func TestARemovalThatWasGivenUpRemovesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	store(t, s, "a")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Delete(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}
