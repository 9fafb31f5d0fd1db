package remote_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/remote"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/seal"
)

// shelf is a remote in a directory.
type shelf struct {
	remote.Store
	t    *testing.T
	path string
	key  *age.X25519Identity
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	path := t.TempDir()
	store, err := remote.Open(&agentv1.Remote{Kind: &agentv1.Remote_Dir{Dir: &agentv1.DirRemote{Path: path}}}, nil, func() {}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &shelf{Store: store, t: t, path: path, key: key}
}

func describe(name string, data []byte) *requorumv1.Manifest {
	sum, old := sha256.Sum256(data), md5.Sum(data)
	return &requorumv1.Manifest{FormatVersion: 1, Name: name, Cluster: "prod", Size: int64(len(data)), Sha256: hex.EncodeToString(sum[:]), Md5: hex.EncodeToString(old[:])}
}

func (s *shelf) upload(m *requorumv1.Manifest, object *requorumv1.StoredObject, data []byte) (*requorumv1.StoredObject, error) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return remote.Upload(s.t.Context(), s, m, object, open, func(int64) {})
}

func (s *shelf) mustUpload(m *requorumv1.Manifest, object *requorumv1.StoredObject, data []byte) *requorumv1.Manifest {
	s.t.Helper()
	stored, err := s.upload(m, object, data)
	if err != nil {
		s.t.Fatal(err)
	}
	m = proto.CloneOf(m)
	m.Stored = stored
	return m
}

func (s *shelf) object(key string) *requorumv1.StoredObject {
	return &requorumv1.StoredObject{Key: key, ZstdLevel: 3, Recipients: []string{s.key.Recipient().String()}}
}

func (s *shelf) download(m *requorumv1.Manifest, identity string) ([]byte, error) {
	var out bytes.Buffer
	err := remote.Download(s.t.Context(), s, m, identity, &out, func(int64) {})
	return out.Bytes(), err
}

func (s *shelf) keys() string {
	s.t.Helper()
	var keys []string
	for info, err := range s.List(s.t.Context(), "") {
		if err != nil {
			s.t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return strings.Join(keys, " ")
}

var snapshotFile = bytes.Repeat([]byte("a snapshot of etcd "), 50_000)

func TestUploadAndDownload(t *testing.T) {
	s := newShelf(t)
	m := describe("a", snapshotFile)
	for range 2 { // an upload that is done already is not done again
		stored := s.mustUpload(m, s.object("etcd/prod/a-1.db.zst.age"), snapshotFile).GetStored()
		if stored.GetSize() == 0 || stored.GetSize() >= m.GetSize() || stored.GetSha256() == m.GetSha256() {
			t.Errorf("%v", stored)
		}
	}
	if s.keys() != "etcd/prod/a-1.db.zst.age etcd/prod/a.json" {
		t.Error(s.keys())
	}
	list, err := remote.List(t.Context(), s, "etcd/prod", "")
	if err != nil || len(list.GetManifests()) != 1 || len(list.GetOrphans())+len(list.GetProblems()) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	found := list.GetManifests()[0]
	data, err := s.download(found, s.key.String())
	if err != nil || !bytes.Equal(data, snapshotFile) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if _, err := s.download(found, ""); !errors.Is(err, seal.ErrNoIdentity) {
		t.Error(err)
	}
	if err := remote.Drop(t.Context(), s, "a", "etcd/prod/a-1.db.zst.age"); err != nil || s.keys() != "" {
		t.Errorf("%s, %v", s.keys(), err)
	}
}

// A copy on the node that is not the snapshot is not stored, and its manifest not either.
func TestWhatIsNotTheSnapshotIsNotStored(t *testing.T) {
	s := newShelf(t)
	for name, data := range map[string][]byte{"shorter": snapshotFile[:1000], "changed": append(bytes.Clone(snapshotFile[:len(snapshotFile)-1]), 'x')} {
		_, err := s.upload(describe("a", snapshotFile), s.object("p/a-1.db"), data)
		if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt || s.keys() != "" {
			t.Errorf("%s: %v, %s", name, err, s.keys())
		}
	}
	_, err := remote.Upload(t.Context(), s, describe("a", snapshotFile), s.object("p/a-1.db"), func() (io.ReadCloser, error) { return nil, os.ErrNotExist }, func(int64) {})
	if !errors.Is(err, os.ErrNotExist) || s.keys() != "" {
		t.Error(err)
	}
}

func TestANameThatIsTakenStaysWithItsOwner(t *testing.T) {
	s := newShelf(t)
	first, other := describe("a", snapshotFile), snapshotFile[:5000]
	s.mustUpload(first, s.object("p/a-1.db"), snapshotFile)
	_, err := s.upload(describe("a", other), s.object("p/a-2.db"), other)
	if _, taken := errors.AsType[*remote.TakenError](err); !taken {
		t.Error(err)
	}
	if err := remote.Drop(t.Context(), s, "a", "p/a-2.db"); err != nil { // what undo does
		t.Fatal(err)
	}
	list, err := remote.List(t.Context(), s, "p", "a")
	if err != nil || len(list.GetManifests()) != 1 {
		t.Fatalf("the first one's manifest is gone: %v", err)
	}
	if _, err := s.download(list.GetManifests()[0], s.key.String()); err != nil {
		t.Error(err)
	}
}

// Every way in which what is stored may be damaged is noticed; nothing is taken for the snapshot that is not it.
func TestDamageIsNoticed(t *testing.T) {
	for name, sealed := range map[string]func(*shelf) *requorumv1.StoredObject{
		"as it is":   func(*shelf) *requorumv1.StoredObject { return &requorumv1.StoredObject{Key: "p/a-1.db"} },
		"compressed": func(*shelf) *requorumv1.StoredObject { return &requorumv1.StoredObject{Key: "p/a-1.db", ZstdLevel: 1} },
		"encrypted":  func(s *shelf) *requorumv1.StoredObject { return s.object("p/a-1.db") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			m := s.mustUpload(describe("a", snapshotFile), sealed(s), snapshotFile)
			path := filepath.Join(s.path, "p/a-1.db")
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for how, data := range map[string][]byte{
				"cut":       whole[:len(whole)/2],
				"cut a bit": whole[:len(whole)-1],
				"longer":    append(bytes.Clone(whole), 0),
				"empty":     {},
				"flipped":   flipped(whole, len(whole)/2),
				"last":      flipped(whole, len(whole)-1),
			} {
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := s.download(m, s.key.String())
				if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt {
					t.Errorf("%s: %v", how, err)
				}
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if _, err := s.download(m, s.key.String()); !errors.Is(err, objectstore.ErrNotFound) {
				t.Error(err)
			}
		})
	}
}

func flipped(data []byte, at int) []byte {
	bad := bytes.Clone(data)
	bad[at] ^= 1
	return bad
}

// A manifest that lies about size or sums does not get its file used, and one that lies about where it is none.
func TestAManifestThatLies(t *testing.T) {
	s := newShelf(t)
	m := s.mustUpload(describe("a", snapshotFile), s.object("p/a-1.db"), snapshotFile)
	for name, lie := range map[string]func(*requorumv1.Manifest){
		"size":   func(m *requorumv1.Manifest) { m.Size-- },
		"SHA":    func(m *requorumv1.Manifest) { m.Sha256 = strings.Repeat("0", 64) },
		"MD5":    func(m *requorumv1.Manifest) { m.Md5 = strings.Repeat("0", 32) },
		"stored": func(m *requorumv1.Manifest) { m.Stored.Sha256 = strings.Repeat("0", 64) },
	} {
		bad := proto.CloneOf(m)
		lie(bad)
		_, err := s.download(bad, s.key.String())
		if _, corrupt := errors.AsType[*remote.CorruptError](err); !corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListTellsWhatIsNoSnapshot(t *testing.T) {
	s := newShelf(t)
	s.mustUpload(describe("a", snapshotFile), s.object("p/a-1.db"), snapshotFile)
	s.mustUpload(describe("gone", snapshotFile), s.object("p/gone-1.db"), snapshotFile)
	s.mustUpload(describe("cut", snapshotFile), s.object("p/cut-1.db"), snapshotFile)
	s.mustUpload(describe("other", snapshotFile), s.object("p2/other-1.db"), snapshotFile)
	for _, key := range []string{"p/orphan.db", "p/broken.json", "p/cut-1.db"} {
		if err := s.Put(t.Context(), key, func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "p/gone-1.db"); err != nil {
		t.Fatal(err)
	}
	list, err := remote.List(t.Context(), s, "p", "")
	if err != nil || len(list.GetManifests()) != 1 || list.GetManifests()[0].GetName() != "a" || len(list.GetProblems()) != 3 || strings.Join(list.GetOrphans(), " ") != "p/orphan.db" {
		t.Errorf("%v, %v", list, err)
	}
	var faults []string
	for _, f := range list.GetFaults() {
		faults = append(faults, f.GetName()+" "+strings.TrimPrefix(f.GetState().String(), "COPY_STATE_"))
	}
	if got := strings.Join(faults, ", "); got != "broken UNREADABLE, cut DIFFERENT, gone MISSING" {
		t.Error(got)
	}
	if list, err := remote.List(t.Context(), s, "p", "nosuch"); err != nil || len(list.GetManifests()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	s := newShelf(t)
	ctx, cancel := context.WithCancel(t.Context())
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(snapshotFile)), nil }
	_, err := remote.Upload(ctx, s, describe("a", snapshotFile), s.object("p/a-1.db"), open, func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) || s.keys() != "" {
		t.Errorf("%v, %s", err, s.keys())
	}
}
