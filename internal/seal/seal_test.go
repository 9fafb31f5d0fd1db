package seal_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/internal/seal/sealtest"
)

func sealed(t *testing.T, o seal.Options, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := seal.Writer(&out, o)
	if err != nil {
		t.Fatal(err)
	}
	for part := range bytesIn(data, 10_000) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func bytesIn(data []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(size, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}

func opened(o seal.Options, data []byte, identities string) ([]byte, error) {
	r, err := seal.Reader(bytes.NewReader(data), o, identities)
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(r)
	return out, errors.Join(err, r.Close())
}

func TestRoundTrip(t *testing.T) {
	one, two := sealtest.NewKey(t), sealtest.NewKey(t)
	for _, size := range []int{0, 1, 64 << 10, 5<<20 + 3} {
		data := bytes.Repeat([]byte("requorum "), size/9+1)[:size]
		for _, o := range []seal.Options{
			{},
			{Level: 1},
			{Level: 19},
			{Recipients: []string{one.Recipient().String()}},
			{Level: 3, Recipients: []string{one.Recipient().String(), two.Recipient().String()}},
		} {
			keys := "# created: today\n" + one.String() + "\n"
			if len(o.Recipients) == 2 {
				keys = two.String() + "\n" // either opens it
			}
			got, err := opened(o, sealed(t, o, data), keys)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %+v: got %d, %v", size, o, len(got), err)
			}
		}
	}
}

func TestWhatIsNotWholeOrChangedIsNotOpened(t *testing.T) {
	key := sealtest.NewKey(t)
	data := bytes.Repeat([]byte("requorum "), 100_000)
	for _, o := range []seal.Options{{Level: 3}, {Recipients: []string{key.Recipient().String()}}, {Level: 3, Recipients: []string{key.Recipient().String()}}} {
		whole := sealed(t, o, data)
		for _, at := range []int{len(whole) - 1, len(whole) / 2, 10} {
			if _, err := opened(o, whole[:at], key.String()); err == nil {
				t.Errorf("%+v: cut at %d of %d, and nobody noticed", o, at, len(whole))
			}
			flipped := bytes.Clone(whole)
			flipped[at] ^= 1
			if got, err := opened(o, flipped, key.String()); err == nil && !bytes.Equal(got, data) {
				t.Errorf("%+v: a bit flipped at %d of %d, and nobody noticed", o, at, len(whole))
			}
		}
	}
}

func TestWhoHasNoKeyIsTold(t *testing.T) {
	key, other := sealtest.NewKey(t), sealtest.NewKey(t)
	o := seal.Options{Recipients: []string{key.Recipient().String()}}
	data := sealed(t, o, []byte("x"))
	for _, identities := range []string{"", "\n", other.String()} {
		if _, err := opened(o, data, identities); !errors.Is(err, seal.ErrNoIdentity) {
			t.Error(err)
		}
	}
	secret := "AGE-SECRET-KEY-1QQQ"
	if _, err := opened(o, data, secret); err == nil || strings.Contains(err.Error(), "QQQ") {
		t.Error(err)
	}
}

func TestOpens(t *testing.T) {
	one, two, other := sealtest.NewKey(t), sealtest.NewKey(t), sealtest.NewKey(t)
	recipients := []string{one.Recipient().String(), two.Recipient().String()}
	for _, identities := range []string{one.String(), "# mine\n" + other.String() + "\n" + two.String()} {
		if err := seal.Opens(identities, recipients); err != nil {
			t.Error(err)
		}
	}
	for _, identities := range []string{"", other.String(), "x"} {
		if err := seal.Opens(identities, recipients); !errors.Is(err, seal.ErrNoIdentity) {
			t.Errorf("%q: %v", identities, err)
		}
	}
}

func TestOptions(t *testing.T) {
	key := sealtest.NewKey(t)
	if _, err := seal.ParseRecipients([]byte("# ours\n\n" + key.Recipient().String() + "\n")); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "# nothing\n", "ssh-ed25519 AAAA", key.String()} {
		if _, err := seal.ParseRecipients([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	for _, o := range []seal.Options{{Level: -1}, {Level: 20}, {Recipients: []string{"age1x"}}} {
		if o.Check() == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if s := (seal.Options{Level: 3, Recipients: []string{"x"}}).Suffix(); s != ".zst.age" {
		t.Error(s)
	}
}

// A person with the key opens a snapshot without requorum: age -d, zstd -d, etcdutl snapshot status. Here it is their
// libraries that do, which their commands are made of.
func TestASealedSnapshotOpensWithoutRequorum(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Options{})
	if _, err := cluster.Client(t).Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(cluster.SaveSnapshot(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	key := sealtest.NewKey(t)
	stored := sealed(t, seal.Options{Level: 3, Recipients: []string{key.Recipient().String()}}, data)

	decrypted, err := age.Decrypt(bytes.NewReader(stored), key) // age -d
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := zstd.NewReader(decrypted) // zstd -d
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()
	file := filepath.Join(t.TempDir(), "opened.db")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, unpacked); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(file) // etcdutl snapshot status
	if err != nil || status.TotalKey != 1 {
		t.Errorf("%+v, %v", status, err)
	}
}

// Memory does not depend on the size of what is sealed.
func TestMemory(t *testing.T) {
	key := sealtest.NewKey(t)
	o := seal.Options{Level: 3, Recipients: []string{key.Recipient().String()}}
	w, err := seal.Writer(io.Discard, o)
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte("requorum"), 128<<10)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("%d MiB for 100 MiB", grown>>20)
	}
}
