package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/dir"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"
)

func store(t *testing.T, s *dir.Store, key string) {
	t.Helper()
	if err := objectstoretest.Put(t.Context(), s, key, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

// refused makes sure that a directory is not taken for the one with the marker, and that nothing is written there.
func refused(t *testing.T, path, marker, says string) {
	t.Helper()
	before, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dir.Open(path, marker)
	if _, strange := errors.AsType[*dir.MarkerError](err); !strange || !errors.Is(err, objectstore.ErrNoStore) || !objectstore.Permanent(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("opened with %v", err)
	}
	if after, err := os.ReadDir(path); err != nil || len(after) != len(before) {
		t.Errorf("there were %v, and are %v, %v", before, after, err)
	}
}

func TestTheFirstPutMarksADirectoryAndItIsKnownByThat(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if s.Marker() != "" {
		t.Errorf("the marker of an empty directory is %q", s.Marker())
	}
	store(t, s, "old")
	marker := s.Marker()
	if marker == "" || open(t, path).Marker() != marker {
		t.Errorf("made %q, found %q", marker, open(t, path).Marker())
	}
	again, err := dir.Open(path, marker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	store(t, again, "new")
	if again.Marker() != marker {
		t.Errorf("the marker has changed to %q", again.Marker())
	}
	refused(t, t.TempDir(), marker, "it is not mounted")
	other := t.TempDir()
	store(t, open(t, other), "a")
	refused(t, other, marker, "it is another directory")
}

// A directory from before there were markers keeps what it has, and reading alone leaves none.
func TestADirectoryWithoutAMarkerIsTakenOver(t *testing.T) {
	path := t.TempDir()
	store(t, open(t, path), "old")
	if err := os.Remove(filepath.Join(path, dir.MarkerFile)); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if _, err := s.Stat(t.Context(), "old"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "none"); err != nil || s.Marker() != "" || open(t, path).Marker() != "" {
		t.Errorf("%v; marked with %q", err, s.Marker())
	}
	store(t, s, "new")
	if s.Marker() == "" || open(t, path).Marker() != s.Marker() {
		t.Errorf("marked with %q", s.Marker())
	}
}

// A person writes the marker with echo.
func TestAMarkerThatAPersonWrites(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, dir.MarkerFile), []byte("the-one\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := dir.Open(path, "the-one")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhoeverIsSecondTakesTheMarkerOver(t *testing.T) {
	path := t.TempDir()
	var all []*dir.Store
	for range 8 {
		all = append(all, open(t, path))
	}
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() {
			if err := objectstoretest.Put(t.Context(), s, fmt.Sprint("object-", i), []byte("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range all {
		if s.Marker() == "" || s.Marker() != all[0].Marker() {
			t.Errorf("markers %q and %q", s.Marker(), all[0].Marker())
		}
	}
}

// Somebody died in the moment between making the file and writing it.
func TestAMarkerThatIsEmptyIsTold(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, dir.MarkerFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := objectstoretest.Put(t.Context(), open(t, path), "a", []byte("x"))
	if err == nil || objectstore.Permanent(err) || !strings.Contains(err.Error(), "remove it") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	refused(t, path, "the-one", "is empty")
}

// Whoever looks while markers are made finds none, or a whole one, and nothing is left of those that came second.
func TestAMarkerIsNeverEmpty(t *testing.T) {
	for range 50 {
		path := t.TempDir()
		made := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 3 {
			s := open(t, path)
			wg.Go(func() { store(t, s, fmt.Sprint("object-", i)) })
		}
		go func() { wg.Wait(); close(made) }()
		for looking := true; looking; {
			select {
			case <-made:
				looking = false
			default:
			}
			if data, err := os.ReadFile(filepath.Join(path, dir.MarkerFile)); err == nil && len(data) == 0 {
				t.Fatal("a marker that is empty")
			}
		}
		if entries, err := os.ReadDir(path); err != nil || len(entries) != 4 {
			t.Fatalf("in the directory: %v, %v", entries, err)
		}
	}
}
