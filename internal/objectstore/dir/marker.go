package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/objectstore"
)

// MarkerFile holds the marker of a directory. No object has such a key, so it is not listed.
const MarkerFile = ".requorum-remote"

const maxMarker = 1 << 10 // bytes of the file

// MarkerError says that a directory is not the one that is known by a marker.
type MarkerError struct {
	Path  string // of the file with the marker
	Want  string
	Found string // empty if there is none
	Empty bool   // the file is there, with nothing in it
}

func (e *MarkerError) Error() string {
	if e.Empty {
		return fmt.Sprintf("its marker %s is empty: whoever made it died there", filepath.Base(e.Path))
	}
	if e.Found == "" {
		return fmt.Sprintf("it is not mounted, or is another directory: it has no marker %s", filepath.Base(e.Path))
	}
	return fmt.Sprintf("it is another directory: its marker %s is %.40q, not %q", filepath.Base(e.Path), e.Found, e.Want)
}

// Marker returns the directory's marker, empty while it has none.
func (s *Store) Marker() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marker
}

// expect reads the marker and compares it with the one that is wanted, if any is.
func (s *Store) expect(want string) error {
	found, err := s.readMarker()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &objectstore.Error{Store: "directory " + s.path, Doing: "read its marker", Kind: kind(err), Cause: err}
	}
	if want != "" && found != want {
		strange := &MarkerError{Path: filepath.Join(s.path, MarkerFile), Want: want, Found: found, Empty: err == nil && found == ""}
		return &objectstore.Error{Store: "directory " + s.path, Doing: "open", Kind: objectstore.ErrNoStore, Cause: strange}
	}
	s.marker = found
	return nil
}

func (s *Store) readMarker() (string, error) {
	f, err := s.root.Open(MarkerFile)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMarker))
	return strings.TrimSpace(string(data)), errors.Join(err, f.Close())
}

// mark makes sure that the directory has a marker. Of several that make one the first does, and the others take it over.
func (s *Store) mark(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.marker != "" {
		return nil
	}
	made := rand.Text()
	err := s.writeMarker(made)
	if errors.Is(err, fs.ErrExist) {
		made, err = s.readMarker()
		if err == nil && made == "" { // another one is about to write it, or died there
			err = errors.New("it is empty: whoever made it died there; remove it (rm " + filepath.Join(s.path, MarkerFile) + "), the next upload makes another one")
		}
	}
	if err != nil {
		return s.fail(ctx, "make its marker", MarkerFile, err)
	}
	s.marker = made
	return nil
}

// writeMarker makes the marker's file, durable. It fails with fs.ErrExist if there is one. The file gets its name when it is written,
// so that a crash leaves none that is empty, by a second name, which unlike a rename replaces nothing.
func (s *Store) writeMarker(marker string) error {
	part := MarkerFile + "." + rand.Text() + partSuffix
	if err := s.writeNew(part, marker); err != nil {
		return err
	}
	err := s.root.Link(part, MarkerFile)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without second names
		err = s.writeNew(MarkerFile, marker)
	}
	if err = errors.Join(err, s.removeIfThere(part)); err != nil {
		return err
	}
	return s.syncDir(".")
}

// writeNew writes a file that is not there yet, and makes what is in it durable.
func (s *Store) writeNew(name, marker string) error {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, marker+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, s.removeIfThere(name))
	}
	return nil
}
