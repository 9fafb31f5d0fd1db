package remote_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/remote"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/seal"
)

var bundleFile = bytes.Repeat([]byte("a key of a node "), 1000)

// bundle describes a bundle of the snapshot a that is to be stored encrypted.
func (s *shelf) bundle(node string, data []byte) *requorumv1.Bundle {
	m := describe("a", data)
	return &requorumv1.Bundle{Node: node, Size: m.GetSize(), Sha256: m.GetSha256(), Stored: s.object("p/a-1." + node + ".files.zst.age")}
}

func (s *shelf) mustUploadFiles(b *requorumv1.Bundle, data []byte) *requorumv1.Bundle {
	s.t.Helper()
	stored, err := remote.UploadFiles(s.t.Context(), s, "a", b, data, func(int64) {})
	if err != nil {
		s.t.Fatal(err)
	}
	b = proto.CloneOf(b)
	b.Stored = stored
	return b
}

// A manifest lists what each node has stored; what is listed is not stored again, and goes with the snapshot.
func TestFilesOfNodes(t *testing.T) {
	s := newShelf(t)
	m, object := describe("a", snapshotFile), s.object("p/a-1.db.zst.age")
	first := s.mustUploadFiles(s.bundle("n1", bundleFile), bundleFile)
	m.Bundles = []*requorumv1.Bundle{first}
	m = s.mustUpload(m, object, snapshotFile)
	if again := s.mustUploadFiles(s.bundle("n1", bundleFile), bundleFile); !proto.Equal(again, first) {
		t.Errorf("it was stored again: %v, %v", again, first)
	}
	second := s.mustUploadFiles(s.bundle("n2", bundleFile), bundleFile)
	m.Bundles = append(m.Bundles, second)
	if later := s.mustUpload(m, object, snapshotFile); !proto.Equal(later, m) {
		t.Errorf("the file was stored again: %v", later)
	}
	list, err := remote.List(t.Context(), s, "p", "")
	if err != nil || len(list.GetManifests()) != 1 || !proto.Equal(list.GetManifests()[0], m) || len(list.GetOrphans())+len(list.GetProblems()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, b := range m.GetBundles() {
		data, err := remote.DownloadFiles(t.Context(), s, b, s.key.String(), func(int64) {})
		if err != nil || !bytes.Equal(data, bundleFile) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	if _, err := remote.DownloadFiles(t.Context(), s, first, "", func(int64) {}); !errors.Is(err, seal.ErrNoIdentity) {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), second.GetStored().GetKey()); err != nil {
		t.Fatal(err)
	}
	list, err = remote.List(t.Context(), s, "p", "")
	if err != nil || len(list.GetManifests()) != 1 || !strings.Contains(strings.Join(list.GetProblems(), ""), "the files of n2") {
		t.Errorf("%v, %v", list, err)
	}
	if err := remote.Drop(t.Context(), s, "a", object.GetKey(), first.GetStored().GetKey(), second.GetStored().GetKey()); err != nil || s.keys() != "" {
		t.Errorf("%s, %v", s.keys(), err)
	}
}

func TestFilesThatAreNotTheBundle(t *testing.T) {
	s := newShelf(t)
	_, err := remote.UploadFiles(t.Context(), s, "a", s.bundle("n1", bundleFile), bundleFile[1:], func(int64) {})
	if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt || s.keys() != "" {
		t.Errorf("%v, %s", err, s.keys())
	}
	b := s.mustUploadFiles(s.bundle("n1", bundleFile), bundleFile)
	path := filepath.Join(s.path, b.GetStored().GetKey())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for how, data := range map[string][]byte{"cut": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0), "empty": {}, "flipped": flipped(whole, len(whole)/2)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := remote.DownloadFiles(t.Context(), s, b, s.key.String(), func(int64) {})
		if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt {
			t.Errorf("%s: %v", how, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for how, lie := range map[string]func(*requorumv1.Bundle){
		"smaller": func(b *requorumv1.Bundle) { b.Size-- },
		"huge":    func(b *requorumv1.Bundle) { b.Size = files.MaxTar + 1 },
		"another": func(b *requorumv1.Bundle) { b.Sha256 = strings.Repeat("0", 64) },
	} {
		bad := proto.CloneOf(b)
		lie(bad)
		_, err := remote.DownloadFiles(t.Context(), s, bad, s.key.String(), func(int64) {})
		if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// A manifest that names objects elsewhere, as those of another cluster, is none.
func TestAManifestThatListsFilesElsewhere(t *testing.T) {
	s := newShelf(t)
	for _, key := range []string{"other/a-1.n1.files", "p/../other/x", ""} {
		m := describe("a", snapshotFile)
		m.Bundles = []*requorumv1.Bundle{{Node: "n1", Stored: &requorumv1.StoredObject{Key: key}}}
		s.mustUpload(m, s.object("p/a-1.db"), snapshotFile)
		_, err := remote.List(t.Context(), s, "p", "a")
		if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt {
			t.Errorf("%q: %v", key, err)
		}
		if err := s.Delete(t.Context(), "p/a.json"); err != nil && !errors.Is(err, objectstore.ErrNotFound) {
			t.Fatal(err)
		}
	}
}
