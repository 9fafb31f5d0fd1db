package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/vault"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/internal/seal/sealtest"
)

// saveSealed seals data in v and returns the manifest of it.
func saveSealed(t *testing.T, v *vault.Vault, name string, data []byte, o seal.Options) *requorumv1.Manifest {
	t.Helper()
	w, err := v.CreateSealed(name, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if shown, err := os.ReadFile(w.PlainPath()); err != nil || !bytes.Equal(shown, data) {
		t.Errorf("what was sealed is shown as %d bytes, %v", len(shown), err)
	}
	facts, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	m := describe(name, data)
	if facts.GetSize() != m.GetSize() || facts.GetMd5() != m.GetMd5() || facts.GetSha256() != m.GetSha256() || !facts.GetHasTrailer() || facts.GetCreated() == nil {
		t.Errorf("facts %v", facts)
	}
	m.Local = facts.GetLocal()
	if err := v.WriteManifest(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSealedCopies(t *testing.T) {
	key, data := sealtest.NewKey(t), snapshot(1000)
	to := []string{key.Recipient().String()}
	for suffix, o := range map[string]seal.Options{".zst": {Level: 3}, ".age": {Recipients: to}, ".zst.age": {Level: 1, Recipients: to}} {
		t.Run(suffix, func(t *testing.T) {
			v, other := open(t, t.TempDir()), open(t, t.TempDir())
			m := saveSealed(t, v, "a", data, o)
			expectEntries(t, v, "a.db"+suffix, "a.json")
			stored, err := os.ReadFile(filepath.Join(v.Dir(), "a.db"+suffix))
			if err != nil || bytes.Contains(stored, data[:64]) != (suffix == ".zst") { // random bytes are stored as they are
				t.Errorf("%d bytes stored, %v", len(stored), err)
			}
			if list, err := v.List(); err != nil || len(list) != 1 || !proto.Equal(list[0], m) {
				t.Errorf("listed %v, %v", list, err)
			}

			// Another node receives the very same bytes.
			r, err := other.Receive(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Write(stored); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Commit(); err != nil {
				t.Fatal(err)
			}
			expectEntries(t, other, "a.db"+suffix, "a.json")
			c := other.Hash(t.Context(), m, nil)
			if c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD || c.GetMd5() != "" || c.GetSha256() != m.GetLocal().GetSha256() || !strings.HasSuffix(c.GetPath(), suffix) {
				t.Errorf("%v", c)
			}
			p, err := other.Plain(t.Context(), m, key.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(p.Path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("opened to %d bytes, %v", len(got), err)
			}
			expectEntries(t, other, "a.db"+suffix, "a.json") // what it was opened into has no name
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if err := other.Drop("a"); err != nil {
				t.Error(err)
			}
			expectEntries(t, other)
		})
	}
}

func TestSealedCopyIsOpenedByItsKeysOnly(t *testing.T) {
	v, key, data := open(t, t.TempDir()), sealtest.NewKey(t), snapshot(500)
	m := saveSealed(t, v, "a", data, seal.Options{Level: 3, Recipients: []string{sealtest.NewKey(t).Recipient().String(), key.Recipient().String()}})
	for _, identity := range []string{"", sealtest.NewKey(t).String()} {
		if _, err := v.Plain(t.Context(), m, identity, nil); !errors.Is(err, seal.ErrNoIdentity) {
			t.Error(err)
		}
	}
	if _, err := v.Plain(t.Context(), m, key.String(), nil); err != nil {
		t.Error(err)
	}
}

func TestDamagedSealedCopy(t *testing.T) {
	key, data := sealtest.NewKey(t), snapshot(500)
	o := seal.Options{Level: 3, Recipients: []string{key.Recipient().String()}}
	var damage *vault.UnsealError
	var mismatch *vault.MismatchError
	for what, change := range map[string]func([]byte) []byte{
		"a bit flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut off":       func(b []byte) []byte { return b[:len(b)-100] },
		"emptied":       func(b []byte) []byte { return b[:0] },
	} {
		v := open(t, t.TempDir())
		m := saveSealed(t, v, "a", data, o)
		path := filepath.Join(v.Dir(), "a.db.zst.age")
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, change(stored))
		if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_DIFFERENT {
			t.Errorf("%s: %v", what, c)
		}
		if _, err := v.Plain(t.Context(), m, key.String(), nil); !errors.As(err, &damage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Sealed whole, and not what the manifest says.
	v := open(t, t.TempDir())
	m := saveSealed(t, v, "a", data, o)
	wrong := describe("a", snapshot(400))
	wrong.Local = m.GetLocal()
	if _, err := v.Plain(t.Context(), wrong, key.String(), nil); !errors.As(err, &mismatch) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Plain(ctx, m, key.String(), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What is in the place of a sealed copy and is something else gives way to it; a plain copy of the same snapshot does, too.
func TestSealedCopyReplacesWhatIsNotIt(t *testing.T) {
	v, from, key, data := open(t, t.TempDir()), open(t, t.TempDir()), sealtest.NewKey(t), snapshot(300)
	m := saveSealed(t, from, "a", data, seal.Options{Recipients: []string{key.Recipient().String()}})
	stored, err := os.ReadFile(filepath.Join(from.Dir(), "a.db.age"))
	if err != nil {
		t.Fatal(err)
	}
	receive(t, v, "a", data)
	if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_DIFFERENT {
		t.Errorf("%v", c)
	}
	r, err := v.Replace(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(stored); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	expectEntries(t, v, "a.db.age", "a.json")
	if _, err := v.Receive(describe("a", snapshot(299))); !errors.Is(err, vault.ErrExists) {
		t.Errorf("another snapshot of the name: %v", err)
	}
	if _, err := v.Create("a"); !errors.Is(err, vault.ErrExists) {
		t.Error(err)
	}
}

func TestSealedWriterLeavesNothing(t *testing.T) {
	v := open(t, t.TempDir())
	o := seal.Options{Level: 3, Recipients: []string{sealtest.NewKey(t).Recipient().String()}}
	w, err := v.CreateSealed("a", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(snapshot(100)); err != nil {
		t.Fatal(err)
	}
	expectEntries(t, v, "a.db.part") // all that a crash would leave
	if err := errors.Join(w.Discard(), w.Discard()); err != nil {
		t.Error(err)
	}
	expectEntries(t, v)
	if _, err := v.CreateSealed("a", seal.Options{Recipients: []string{"age1x"}}); err == nil {
		t.Error("a recipient that is none was taken")
	}
	expectEntries(t, v)

	var space *vault.NoSpaceError
	v.SetFree(vault.Headroom + 3<<20)
	if w, err = v.CreateSealed("a", o); err != nil {
		t.Fatal(err)
	}
	if err := w.Expect(1 << 20); err != nil {
		t.Error(err)
	}
	if err := w.Expect(2 << 20); !errors.As(err, &space) { // once sealed, once in the clear
		t.Error(err)
	}
	if err := w.Discard(); err != nil {
		t.Error(err)
	}
	m := saveSealed(t, v, "a", snapshot(10_000), o)
	v.SetFree(vault.Headroom)
	if _, err := v.Plain(t.Context(), m, sealtest.NewKey(t).String(), nil); !errors.Is(err, seal.ErrNoIdentity) {
		t.Error(err)
	}
}

func TestImportSealed(t *testing.T) {
	v, key, data := open(t, t.TempDir()), sealtest.NewKey(t), snapshot(100)
	src := filepath.Join(t.TempDir(), "src.db")
	write(t, src, data)
	o := seal.Options{Recipients: []string{key.Recipient().String()}}
	refused := errors.New("refused")
	if _, err := v.ImportSealed(t.Context(), "a", src, false, o, nil, func(string) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
	expectEntries(t, v)
	facts, err := v.ImportSealed(t.Context(), "a", src, false, o, nil, func(path string) error {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("shown %d bytes, %v", len(got), err)
		}
		return nil
	})
	if err != nil || facts.GetSha256() != describe("a", data).GetSha256() || len(facts.GetLocal().GetRecipients()) != 1 {
		t.Errorf("%v, %v", facts, err)
	}
	expectEntries(t, v, "a.db.age")
	write(t, src, data[:len(data)-10])
	if _, err := v.ImportSealed(t.Context(), "b", src, false, o, nil, nil); err == nil {
		t.Error("a file that is cut off was taken")
	}
	expectEntries(t, v, "a.db.age")
}

func TestManifestOfASealedCopy(t *testing.T) {
	good := describe("a", snapshot(1))
	good.Local = &requorumv1.StoredObject{Size: 5, Sha256: good.GetSha256(), ZstdLevel: 3}
	if _, err := vault.EncodeManifest(good); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*requorumv1.StoredObject){
		"size":      func(l *requorumv1.StoredObject) { l.Size = 0 },
		"digest":    func(l *requorumv1.StoredObject) { l.Sha256 = "x" },
		"level":     func(l *requorumv1.StoredObject) { l.ZstdLevel = 20 },
		"recipient": func(l *requorumv1.StoredObject) { l.Recipients = []string{"bob"} },
	} {
		bad := proto.CloneOf(good)
		change(bad.GetLocal())
		if _, err := vault.EncodeManifest(bad); err == nil {
			t.Errorf("a wrong %s was taken", what)
		}
	}
}
