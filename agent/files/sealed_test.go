package files_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/internal/seal"
)

// An encrypted bundle is opened for a restore beforehand, which writes it back without a key, and leaves nothing in the clear.
func TestEncryptedFilesComeBack(t *testing.T) {
	n := newNode(t)
	key, err := age.GenerateX25519Identity()
	n.must(err)
	other, err := age.GenerateX25519Identity()
	n.must(err)
	before := n.tree()
	b, err := n.Pack(t.Context(), "a", []string{"pki", "token"}, key.Recipient().String())
	n.must(err)
	path := filepath.Join(n.Dir, "a.files")
	stored, err := os.ReadFile(path)
	n.must(err)
	if bytes.Contains(stored, []byte("server key")) || b.GetLocal().GetSize() != int64(len(stored)) || b.GetSize() == b.GetLocal().GetSize() {
		t.Errorf("%d bytes stored of %v", len(stored), b)
	}
	if data, err := n.Read("a", b); err != nil || !bytes.Equal(data, stored) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	n.write("pki/ca.key", "newer", 0o600)
	for _, identity := range []string{"", other.String()} {
		if _, err := n.Open("a", b, identity); !errors.Is(err, seal.ErrNoIdentity) {
			t.Error(err)
		}
	}
	if err := n.Restore(t.Context(), "r", "a", b); !errors.Is(err, seal.ErrNoIdentity) {
		t.Errorf("without anything opened: %v", err)
	}
	data, err := n.Open("a", b, key.String())
	n.must(err)
	if err := n.PutOpened("r", b, data[1:]); err == nil {
		t.Error("something else was taken")
	}
	n.must(n.PutOpened("r", b, data))
	n.must(n.Restore(t.Context(), "r", "a", b))
	if after := n.tree(); after != before {
		t.Errorf("%s\nwant\n%s", after, before)
	}
	n.must(errors.Join(n.PutOpened("of-another", b, data), n.KeepOpened("r")))
	if left, err := filepath.Glob(filepath.Join(n.Records, "*.files*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != "r.files" {
		t.Errorf("kept: %v, %v", left, err)
	}
	n.must(errors.Join(n.DropOpened("r"), n.DropOpened("r")))
	if left, err := filepath.Glob(filepath.Join(n.Records, "*.files*")); err != nil || len(left) > 0 {
		t.Errorf("left in the clear: %v, %v", left, err)
	}

	var corrupt *files.CorruptError
	stored[len(stored)/2] ^= 1
	if err := n.PutSealed("a", b, stored); !errors.As(err, &corrupt) {
		t.Error(err)
	}
	n.must(os.WriteFile(path, stored, 0o600))
	if _, err := n.Read("a", b); !errors.As(err, &corrupt) {
		t.Error(err)
	}
	stored[len(stored)/2] ^= 1
	n.must(n.PutSealed("a", b, stored))
	if _, err := n.Open("a", b, key.String()); err != nil {
		t.Error(err)
	}
}
