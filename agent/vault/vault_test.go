package vault_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/requorum/requorum/agent/vault"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/names"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	v, err := vault.Open(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// snapshot returns size bytes that end in etcd's trailer, with size%512 == 32.
func snapshot(pages int) []byte {
	data := make([]byte, pages*512)
	chacha := rand.NewChaCha8([32]byte{7})
	chacha.Read(data)
	sum := sha256.Sum256(data)
	return slices.Concat(data, sum[:])
}

func describe(name string, data []byte) *requorumv1.Manifest {
	m, s := md5.Sum(data), sha256.Sum256(data)
	return &requorumv1.Manifest{
		FormatVersion: vault.FormatVersion, Name: name, Cluster: "prod", Node: "etcd-1",
		Size: int64(len(data)), Md5: hex.EncodeToString(m[:]), Sha256: hex.EncodeToString(s[:]), HasTrailer: true,
	}
}

func save(t *testing.T, v *vault.Vault, name string, data []byte) {
	t.Helper()
	w, err := v.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, v *vault.Vault, name string, data []byte) {
	t.Helper()
	r, err := v.Receive(describe(name, data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range found {
		list = append(list, e.Name())
	}
	return list
}

func expectEntries(t *testing.T, v *vault.Vault, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), entries(t, v.Dir())); diff != "" {
		t.Errorf("files in the vault (-want +got):\n%s", diff)
	}
}

func TestOpenClosesDirectoryToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(dir, hclog.NewNullLogger()); err == nil {
		t.Error("opened a directory that everybody may write to")
	}
}

func TestCreateWritesFileAndTellsItsFacts(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(100)
	w, err := v.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Expect(int64(3 * len(data))); err != nil { // an estimate that is too high leaves no trace
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	expectEntries(t, v, "a.db.part")
	facts, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	expectEntries(t, v, "a.db")
	want := describe("a", data)
	if facts.GetSize() != want.GetSize() || facts.GetMd5() != want.GetMd5() || facts.GetSha256() != want.GetSha256() || !facts.GetHasTrailer() {
		t.Errorf("facts %v, want %v", facts, want)
	}
	if age := time.Since(facts.GetCreated().AsTime()); age < 0 || age > time.Minute {
		t.Errorf("created %v ago", age)
	}
	path, err := v.Path("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("file differs from what was written, %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again, err := v.Facts(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(facts, again, protocmp.Transform(), protocmp.IgnoreFields(facts, "created")); diff != "" {
		t.Errorf("facts read back (-written +read):\n%s", diff)
	}
}

func TestDigestFindsTrailerHoweverTheBytesCome(t *testing.T) {
	good := snapshot(3)
	damaged := bytes.Clone(good)
	damaged[5] ^= 1
	sumOfNothing := sha256.Sum256(nil)
	for name, c := range map[string]struct {
		data []byte
		fits bool
	}{
		"good": {good, true}, "damaged": {damaged, false}, "cut": {good[:len(good)-32], false},
		"cut in the trailer": {good[:len(good)-1], false}, "trailer alone": {sumOfNothing[:], false}, "short": {[]byte("x"), false}, "empty": {nil, false},
	} {
		for _, pieces := range [][]int{{1 << 20}, {1}, {31}, {32}, {33}, {7, 40, 3, 100}} {
			size, gotMD5, gotSHA, fits := vault.HasTrailer(c.data, pieces)
			want := describe("x", c.data)
			if size != want.GetSize() || gotMD5 != want.GetMd5() || gotSHA != want.GetSha256() || fits != c.fits {
				t.Errorf("%s in pieces of %v: %d %s %s %v", name, pieces, size, gotMD5, gotSHA, fits)
			}
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	v := open(t, t.TempDir())
	save(t, v, "there", snapshot(1))
	if _, err := v.Create("there"); !errors.Is(err, vault.ErrExists) {
		t.Errorf("existing copy: %v", err)
	}
	w, err := v.Create("busy")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	if _, err := v.Create("busy"); !errors.Is(err, vault.ErrBusy) {
		t.Errorf("second writer: %v", err)
	}
	if _, err := v.Receive(describe("busy", snapshot(1))); !errors.Is(err, vault.ErrBusy) {
		t.Errorf("receiver beside a writer: %v", err)
	}
	if err := v.Drop("busy"); !errors.Is(err, vault.ErrBusy) {
		t.Errorf("drop while writing: %v", err)
	}
	if _, err := open(t, v.Dir()).Create("busy"); !errors.Is(err, vault.ErrBusy) {
		t.Errorf("writer of another process: %v", err)
	}
	for _, name := range []string{"", "..", "../x", "a/b", ".hidden"} {
		var bad *names.Error
		if _, err := v.Create(name); !errors.As(err, &bad) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestCreateReplacesWhatACrashLeft(t *testing.T) {
	v := open(t, t.TempDir())
	half, err := v.Receive(describe("a", snapshot(9)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write(snapshot(9)[:2000]); err != nil {
		t.Fatal(err)
	}
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	save(t, v, "a", snapshot(2))
	expectEntries(t, v, "a.db")
	if c := v.Hash(t.Context(), describe("a", snapshot(2)), nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("%v", c)
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	v := open(t, t.TempDir())
	w, err := v.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Discard(), w.Discard()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, vault.ErrEnded) {
		t.Errorf("write after the end: %v", err)
	}
	if _, err := w.Commit(); !errors.Is(err, vault.ErrEnded) {
		t.Errorf("commit after the end: %v", err)
	}
	expectEntries(t, v)
}

func TestTooLittleSpace(t *testing.T) {
	v, m := open(t, t.TempDir()), describe("a", snapshot(9))
	expectNoSpace := func(what string, err error) {
		t.Helper()
		var space *vault.NoSpaceError
		if !errors.As(err, &space) || space.Path != v.Dir() || space.Needed == 0 || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", what, err)
		}
	}
	v.SetFree(vault.Headroom)
	_, err := v.Create("a")
	expectNoSpace("create", err)
	expectEntries(t, v)
	_, err = v.Receive(m)
	expectNoSpace("receive", err)
	if msg := err.Error(); !strings.Contains(msg, "64 MiB free on "+v.Dir()) || !strings.Contains(msg, "free space there") {
		t.Errorf("message %q", msg)
	}
	v.SetFree(vault.Headroom + 1<<20)
	w, err := v.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	expectNoSpace("expect", w.Expect(2<<20))
	if err := w.FillDisk(); err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte("x"))
	expectNoSpace("write", err)
	_, err = w.Commit()
	expectNoSpace("commit", err)
	expectEntries(t, v)

	r, err := v.Receive(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.FillDisk(); err != nil {
		t.Fatal(err)
	}
	_, err = r.Write([]byte("x"))
	expectNoSpace("write of a receiver", err)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	expectEntries(t, v, "a.db.expected", "a.db.part")
}

func TestReceiveChecksTheFileAndWritesTheManifest(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(50)
	receive(t, v, "a", data)
	expectEntries(t, v, "a.db", "a.json")
	m, err := v.Manifest("a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(describe("a", data), m, protocmp.Transform()); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	for _, path := range []string{"a.db", "a.json"} {
		if info, err := os.Stat(filepath.Join(v.Dir(), path)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(v.Dir(), "a.json")); bytes.Count(text, []byte("\n")) < 5 {
		t.Errorf("manifest is not on several lines: %s", text)
	}
	var conflict *vault.ConflictError
	_, err = v.Receive(describe("a", data))
	if !errors.Is(err, vault.ErrExists) || errors.As(err, &conflict) {
		t.Errorf("the same again: %v", err)
	}
	_, err = v.Receive(describe("a", snapshot(2)))
	if !errors.Is(err, vault.ErrExists) || !errors.As(err, &conflict) {
		t.Errorf("another snapshot of that name: %v", err)
	}
}

func TestReceiveRemovesWrongFile(t *testing.T) {
	data := snapshot(50)
	flipped := bytes.Clone(data)
	flipped[1000] ^= 0x10
	for what, sent := range map[string][]byte{"flipped bit": flipped, "too short": data[:1000]} {
		v := open(t, t.TempDir())
		r, err := v.Receive(describe("a", data))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write(sent); err != nil {
			t.Fatal(err)
		}
		var mismatch *vault.MismatchError
		if _, err := r.Commit(); !errors.As(err, &mismatch) {
			t.Errorf("%s: %v", what, err)
		}
		expectEntries(t, v)
	}
	v := open(t, t.TempDir())
	r, err := v.Receive(describe("a", data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(append(data, 'x')); err == nil {
		t.Error("took more bytes than the manifest says")
	}
	if err := r.Discard(); err != nil {
		t.Error(err)
	}
	expectEntries(t, v)
}

func TestReceiveGoesOnWhereAnEarlierOneStopped(t *testing.T) {
	dir, data := t.TempDir(), snapshot(5000)
	m := describe("a", data)
	for _, upTo := range []int{1, 700_000, 700_000, 2_000_000} {
		r, err := open(t, dir).Receive(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write(data[r.Offset():upTo]); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	v, ticked := open(t, dir), int64(0)
	r, err := v.Resume(t.Context(), m, func(done, total int64) { ticked = done })
	if err != nil {
		t.Fatal(err)
	}
	if r.Offset() != 2_000_000 || r.Resumed() != 2_000_000 || ticked != 2_000_000 {
		t.Errorf("offset %d, resumed %d, ticked %d", r.Offset(), r.Resumed(), ticked)
	}
	if _, err := r.Write(data[r.Offset():]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("%v", c)
	}
}

func TestReceiveGoesOnWithWhatAWriterKept(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(5000)
	m := describe("a", data)
	w, err := v.Follow("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Expect(m.GetSize() + 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[:2_000_000]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Keep(), w.Keep(), w.Discard()); err != nil {
		t.Fatal(err)
	}
	if all, err := v.List(); err != nil || len(all) != 0 {
		t.Errorf("what was kept is listed as %v, %v", all, err)
	}
	r, err := v.Resume(t.Context(), m, func(int64, int64) { t.Error("it is read again") })
	if err != nil {
		t.Fatal(err)
	}
	if r.Offset() != 2_000_000 || r.Resumed() != 2_000_000 {
		t.Errorf("offset %d, resumed %d", r.Offset(), r.Resumed())
	}
	if _, err := r.Write(data[2_000_000:]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("%v", c)
	}
}

func TestWhatAWriterKeptIsNotTakenForAnythingElse(t *testing.T) {
	data := snapshot(2000)
	for name, happens := range map[string]func(t *testing.T, v *vault.Vault){
		"dropped":        func(t *testing.T, v *vault.Vault) { errIsNil(t, v.Drop("a")) },
		"partly dropped": func(t *testing.T, v *vault.Vault) { errIsNil(t, v.DropPartial("a")) },
		"cut": func(t *testing.T, v *vault.Vault) {
			errIsNil(t, os.Truncate(filepath.Join(v.Dir(), "a.db.part"), 100))
		},
		"written anew": func(t *testing.T, v *vault.Vault) {
			w, err := v.Create("a")
			errIsNil(t, err)
			errIsNil(t, w.Discard())
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := open(t, t.TempDir())
			w, err := v.Follow("a")
			errIsNil(t, err)
			_, err = w.Write(data[:500_000])
			errIsNil(t, err)
			errIsNil(t, w.Keep())
			happens(t, v)
			r, err := v.Receive(describe("a", data))
			errIsNil(t, err)
			if r.Offset() != 0 {
				t.Errorf("it goes on at %d", r.Offset())
			}
			errIsNil(t, r.Discard())
		})
	}
}

func errIsNil(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReceiveStopsReadingBackWhenToldTo(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(5000)
	r, err := v.Receive(describe("a", data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(data[:2_000_000]); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := v.Resume(ctx, describe("a", data), func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if r, err = v.Receive(describe("a", data)); err != nil || r.Offset() != 2_000_000 {
		t.Fatalf("bytes are gone: %v", err)
	}
	if err := r.Discard(); err != nil {
		t.Error(err)
	}
}

func TestReceiveDoesNotContinueWhatIsNotTheSameFile(t *testing.T) {
	data, other := snapshot(50), snapshot(60)
	for what, leave := range map[string]func(t *testing.T, v *vault.Vault){
		"partial of another snapshot": func(t *testing.T, v *vault.Vault) {
			r, err := v.Receive(describe("a", other))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Write(other[:10_000]); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"partial that nothing describes": func(t *testing.T, v *vault.Vault) {
			write(t, filepath.Join(v.Dir(), "a.db.part"), other[:10_000])
		},
		"partial that is too long": func(t *testing.T, v *vault.Vault) {
			r, err := v.Receive(describe("a", data))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(v.Dir(), "a.db.part"), other)
		},
		"partial described by rubbish": func(t *testing.T, v *vault.Vault) {
			write(t, filepath.Join(v.Dir(), "a.db.part"), other[:10_000])
			write(t, filepath.Join(v.Dir(), "a.db.expected"), []byte("{"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			v := open(t, t.TempDir())
			leave(t, v)
			r, err := v.Receive(describe("a", data))
			if err != nil {
				t.Fatal(err)
			}
			if r.Offset() != 0 {
				t.Errorf("goes on at %d", r.Offset())
			}
			if _, err := r.Write(data); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Commit(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReceiveDoesNotFollowLinks(t *testing.T) {
	v, outside := open(t, t.TempDir()), filepath.Join(t.TempDir(), "precious")
	write(t, outside, []byte("precious"))
	if err := os.Symlink(outside, filepath.Join(v.Dir(), "a.db.part")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Receive(describe("a", snapshot(1))); err == nil {
		t.Error("received into a link")
	}
	if _, err := v.Create("a"); err == nil {
		t.Error("created into a link")
	}
	if got, _ := os.ReadFile(outside); string(got) != "precious" {
		t.Errorf("outside now holds %q", got)
	}
}

func TestReplaceADirectoryOnlyIfItIsEmpty(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(50)
	receive(t, v, "a", data)
	path := filepath.Join(v.Dir(), "a.db")
	for _, content := range []string{"", "somebody's"} {
		if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			write(t, filepath.Join(path, "file"), []byte(content))
		}
		r, err := v.Replace(t.Context(), describe("a", data), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write(data); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Commit(); (err == nil) != (content == "") {
			t.Errorf("a directory with %q in it: %v", content, err)
		}
	}
	if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
		t.Errorf("what was in the directory: %v", err)
	}
}

func TestReplaceKeepsTheOldCopyUntilTheNewOneIsGood(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(50)
	receive(t, v, "a", data)
	rotten := bytes.Clone(data)
	rotten[77] ^= 1
	write(t, filepath.Join(v.Dir(), "a.db"), rotten)
	m := describe("a", data)
	r, err := v.Replace(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(data); err != nil {
		t.Fatal(err)
	}
	if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_DIFFERENT {
		t.Errorf("before commit: %v", c)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	if c := v.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("after commit: %v", c)
	}

	save(t, v, "unknown", snapshot(3))
	var conflict *vault.ConflictError
	if _, err := v.Replace(t.Context(), describe("unknown", data), nil); !errors.As(err, &conflict) {
		t.Errorf("file without a manifest: %v", err)
	}
	if _, err := v.Replace(t.Context(), describe("a", snapshot(3)), nil); !errors.As(err, &conflict) {
		t.Errorf("another snapshot: %v", err)
	}
}

func TestHashTellsStatesApart(t *testing.T) {
	data := snapshot(50)
	flipped := bytes.Clone(data)
	flipped[1000] ^= 0x10
	place := func(data []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { write(t, path, data) }
	}
	for what, c := range map[string]struct {
		put    func(t *testing.T, path string)
		want   requorumv1.CopyState
		detail string
	}{
		"good":      {place(data), requorumv1.CopyState_COPY_STATE_GOOD, ""},
		"missing":   {func(*testing.T, string) {}, requorumv1.CopyState_COPY_STATE_MISSING, "no file"},
		"flipped":   {place(flipped), requorumv1.CopyState_COPY_STATE_DIFFERENT, "MD5 is"},
		"truncated": {place(data[:100]), requorumv1.CopyState_COPY_STATE_DIFFERENT, "size is 100, should be 25632"},
		"empty":     {place(nil), requorumv1.CopyState_COPY_STATE_DIFFERENT, "size is 0"},
		"directory": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, requorumv1.CopyState_COPY_STATE_UNREADABLE, "is a directory"},
		"link": {func(t *testing.T, path string) {
			write(t, path+"x", data)
			if err := os.Symlink(path+"x", path); err != nil {
				t.Fatal(err)
			}
		}, requorumv1.CopyState_COPY_STATE_UNREADABLE, "is a symbolic link"},
		"pipe": {func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, requorumv1.CopyState_COPY_STATE_UNREADABLE, "is a named pipe"},
	} {
		t.Run(what, func(t *testing.T) {
			v := open(t, t.TempDir())
			path := filepath.Join(v.Dir(), "a.db")
			c.put(t, path)
			got := v.Hash(t.Context(), describe("a", data), nil)
			if got.GetState() != c.want || !strings.Contains(got.GetDetail(), c.detail) || got.GetPath() != path || got.GetChecked() == nil {
				t.Errorf("%v", got)
			}
			if c.want == requorumv1.CopyState_COPY_STATE_DIFFERENT && (got.GetSha256() == "" || got.GetMd5() == "") {
				t.Errorf("digests are missing: %v", got)
			}
		})
	}
}

func TestHashTellsErrorOfTheDisk(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	v, data := open(t, t.TempDir()), snapshot(1)
	save(t, v, "a", data)
	if err := os.Chmod(filepath.Join(v.Dir(), "a.db"), 0); err != nil {
		t.Fatal(err)
	}
	c := v.Hash(t.Context(), describe("a", data), nil)
	if c.GetState() != requorumv1.CopyState_COPY_STATE_UNREADABLE || !strings.Contains(c.GetDetail(), "permission denied") {
		t.Errorf("%v", c)
	}
}

func TestHashStopsWithItsContext(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(9000)
	save(t, v, "a", data)
	ctx, cancel := context.WithCancel(t.Context())
	c := v.Hash(ctx, describe("a", data), func(int64, int64) { cancel() })
	if c.GetState() != requorumv1.CopyState_COPY_STATE_UNKNOWN {
		t.Errorf("%v", c)
	}
}

func TestImport(t *testing.T) {
	good, dir := snapshot(40), t.TempDir()
	damaged := bytes.Clone(good)
	damaged[9] ^= 1
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		write(t, path, data)
		return path
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file("good", good), link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		path    string
		skip    bool
		wantErr string // "" for success
	}{
		"good":              {filepath.Join(dir, "good"), false, ""},
		"link to a file":    {link, false, ""},
		"no trailer":        {file("raw", good[:len(good)-32]), false, "skip the hash check (--skip-hash-check) if it comes from a member that was stopped"},
		"no trailer, skip":  {filepath.Join(dir, "raw"), true, ""},
		"damaged":           {file("damaged", damaged), false, "is damaged"},
		"damaged, skip":     {filepath.Join(dir, "damaged"), true, ""},
		"empty":             {file("empty", nil), true, "is empty"},
		"directory":         {dir, true, "a directory"},
		"pipe":              {pipe, true, "a named pipe"},
		"device":            {"/dev/zero", true, "a device"},
		"nothing there":     {filepath.Join(dir, "none"), true, "no such file or directory; give a path as it is on this node"},
		"not absolute":      {"good", true, "must be absolute"},
		"too large to hold": {filepath.Join(dir, "good"), false, "free space"},
	} {
		t.Run(what, func(t *testing.T) {
			v := open(t, t.TempDir())
			if what == "too large to hold" {
				v.SetFree(vault.Headroom + 1000)
			}
			facts, err := v.Import(t.Context(), "a", c.path, c.skip, nil)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) || !strings.Contains(err.Error(), c.path) {
					t.Errorf("%v", err)
				}
				expectEntries(t, v)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			src, _ := os.ReadFile(c.path)
			want := describe("a", src)
			if facts.GetSha256() != want.GetSha256() || facts.GetSize() != want.GetSize() {
				t.Errorf("%v", facts)
			}
			expectEntries(t, v, "a.db")
			if _, err := v.Import(t.Context(), "a", c.path, c.skip, nil); !errors.Is(err, vault.ErrExists) {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestImportStopsWithItsContext(t *testing.T) {
	v, path := open(t, t.TempDir()), filepath.Join(t.TempDir(), "f")
	write(t, path, snapshot(9000))
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := v.Import(ctx, "a", path, false, func(int64, int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	expectEntries(t, v)
}

func TestImportNoticesThatTheFileIsBeingWritten(t *testing.T) {
	v, path := open(t, t.TempDir()), filepath.Join(t.TempDir(), "f")
	write(t, path, snapshot(9000))
	grow := func(int64, int64) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write([]byte("x"))
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Import(t.Context(), "a", path, true, grow); err == nil || !strings.Contains(err.Error(), "changed while") {
		t.Errorf("%v", err)
	}
}

func TestListIsOfCompleteCopiesOnly(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(3)
	for _, name := range []string{"b", "a", "a-b", "looks.db.part", "b.json"} {
		receive(t, v, name, data)
	}
	save(t, v, "not-described", data)
	partial, err := v.Receive(describe("partial", data))
	if err != nil {
		t.Fatal(err)
	}
	defer partial.Discard()
	write(t, filepath.Join(v.Dir(), "alone.json"), []byte("{}"))
	write(t, filepath.Join(v.Dir(), "stray.txt"), nil)
	got, err := v.List()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range got {
		list = append(list, m.GetName())
	}
	if diff := cmp.Diff([]string{"a", "a-b", "b", "b.json", "looks.db.part"}, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write(t, filepath.Join(v.Dir(), "b.json"), []byte("rubbish"))
	if got, err = v.List(); err == nil || !strings.Contains(err.Error(), "b.json") || len(got) != 4 {
		t.Errorf("with a damaged manifest: %d copies, %v", len(got), err)
	}
}

func TestManifestBelongsToItsCopy(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(3)
	m := describe("a", data)
	if err := v.WriteManifest(m); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("without a copy: %v", err)
	}
	save(t, v, "a", data)
	if _, err := v.Manifest("a"); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("before it is written: %v", err)
	}
	if err := errors.Join(v.WriteManifest(m), v.WriteManifest(m)); err != nil {
		t.Error(err)
	}
	var mismatch *vault.MismatchError
	if err := v.WriteManifest(describe("a", snapshot(4))); !errors.As(err, &mismatch) {
		t.Errorf("of another size: %v", err)
	}
	for what, spoil := range map[string]func(*requorumv1.Manifest){
		"name":    func(m *requorumv1.Manifest) { m.Name = "../a" },
		"sha":     func(m *requorumv1.Manifest) { m.Sha256 = strings.ToUpper(m.Sha256) },
		"md5":     func(m *requorumv1.Manifest) { m.Md5 = m.Md5[1:] },
		"size":    func(m *requorumv1.Manifest) { m.Size = 0 },
		"version": func(m *requorumv1.Manifest) { m.FormatVersion = 2 },
	} {
		bad := proto.CloneOf(m)
		spoil(bad)
		if err := v.WriteManifest(bad); err == nil {
			t.Errorf("bad %s was written", what)
		}
	}
	if err := os.Rename(filepath.Join(v.Dir(), "a.json"), filepath.Join(v.Dir(), "b.json")); err != nil {
		t.Fatal(err)
	}
	save(t, v, "b", data)
	if err := os.WriteFile(filepath.Join(v.Dir(), "b.json"), mustEncode(t, m), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Manifest("b"); err == nil {
		t.Error("took another snapshot's manifest")
	}
}

func TestDrop(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(30)
	receive(t, v, "a", data)
	receive(t, v, "ab", data)
	r, err := v.Receive(describe("half", data))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a", "half", "never-was"} {
		if err := v.Drop(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	expectEntries(t, v, "ab.db", "ab.json")
	if err := v.Drop("../x"); err == nil {
		t.Error("dropped outside")
	}
}

func TestReaderFollowsReceiver(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(4000)
	m := describe("a", data)
	r, err := v.Receive(m)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		data []byte
		err  error
	}
	results := make(chan result)
	for range 3 {
		reader, err := v.OpenReader("a", m.GetSha256(), m.GetSize())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			got, err := follow(t.Context(), reader, m.GetSize())
			results <- result{got, errors.Join(err, reader.Close())}
		}()
	}
	for piece := range slices.Chunk(data, 100_000) {
		if _, err := r.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := <-results; got.err != nil || !bytes.Equal(got.data, data) {
			t.Errorf("read %d bytes, %v", len(got.data), got.err)
		}
	}
}

func follow(ctx context.Context, r *vault.Reader, size int64) ([]byte, error) {
	var got []byte
	for int64(len(got)) < size {
		available, err := r.Wait(ctx, int64(len(got)))
		if err != nil {
			return got, err
		}
		buf := make([]byte, available-int64(len(got)))
		if _, err := r.ReadAt(buf, int64(len(got))); err != nil {
			return got, err
		}
		got = append(got, buf...)
	}
	return got, nil
}

func TestReaderFollowsAWriter(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(100)
	if _, err := v.OpenGrowing("a"); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("nobody writes: %v", err)
	}
	for name, end := range map[string]struct {
		how  func(w *vault.Writer) error
		want error
	}{
		"committed": {func(w *vault.Writer) error { _, err := w.Commit(); return err }, nil},
		"kept":      {(*vault.Writer).Keep, nil},
		"discarded": {(*vault.Writer).Discard, vault.ErrDiscarded},
	} {
		w, err := v.Create("a")
		errIsNil(t, err)
		r, err := v.OpenGrowing("a")
		errIsNil(t, err)
		_, err = w.Write(data[:1000])
		errIsNil(t, err)
		if n, err := r.Wait(t.Context(), 0); n != 1000 || err != nil {
			t.Errorf("%s: %d bytes can be read, %v", name, n, err)
		}
		_, err = w.Write(data[1000:])
		errIsNil(t, err)
		errIsNil(t, end.how(w))
		if n, err := r.Wait(t.Context(), int64(len(data))); n != int64(len(data)) || !errors.Is(err, end.want) {
			t.Errorf("%s: it ended with %v at %d", name, err, n)
		}
		got := make([]byte, len(data))
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v, the same bytes: %v", name, err, bytes.Equal(got, data))
		}
		errIsNil(t, r.Close())
		errIsNil(t, v.Drop("a"))
	}
}

func TestReaderLearnsHowReceivingEnded(t *testing.T) {
	data := snapshot(10)
	m := describe("a", data)
	for what, c := range map[string]struct {
		end  func(*vault.Receiver) error
		want error
	}{
		"closed":    {(*vault.Receiver).Close, vault.ErrInterrupted},
		"discarded": {(*vault.Receiver).Discard, vault.ErrDiscarded},
		"wrong":     {func(r *vault.Receiver) error { r.Commit(); return nil }, vault.ErrDiscarded},
	} {
		t.Run(what, func(t *testing.T) {
			v := open(t, t.TempDir())
			r, err := v.Receive(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Write(data[:100]); err != nil {
				t.Fatal(err)
			}
			reader, err := v.OpenReader("a", m.GetSha256(), m.GetSize())
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if n, err := reader.ReadAt(make([]byte, 200), 0); n != 100 || !errors.Is(err, io.EOF) {
				t.Errorf("read %d, %v", n, err)
			}
			waiting := make(chan error)
			go func() {
				_, err := reader.Wait(t.Context(), 100)
				waiting <- err
			}()
			if err := c.end(r); err != nil {
				t.Fatal(err)
			}
			if err := <-waiting; !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
			if _, err := v.OpenReader("a", m.GetSha256(), m.GetSize()); !errors.Is(err, vault.ErrNotFound) {
				t.Errorf("reader of a partial file that nobody receives: %v", err)
			}
		})
	}
}

func TestReaderWaitsNoLongerThanItsContext(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(10)
	m := describe("a", data)
	r, err := v.Receive(m)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Discard()
	reader, err := v.OpenReader("a", m.GetSha256(), m.GetSize())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if n, err := reader.Wait(ctx, 0); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestReaderIsOfTheFileAskedFor(t *testing.T) {
	v, data := open(t, t.TempDir()), snapshot(10)
	m := describe("a", data)
	if _, err := v.OpenReader("a", m.GetSha256(), m.GetSize()); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := v.OpenReader("../a", m.GetSha256(), m.GetSize()); err == nil {
		t.Error("opened outside")
	}
	save(t, v, "a", data) // no manifest yet: only the size can be compared
	var conflict *vault.ConflictError
	if _, err := v.OpenReader("a", m.GetSha256(), m.GetSize()+1); !errors.As(err, &conflict) {
		t.Errorf("another size: %v", err)
	}
	reader, err := v.OpenReader("a", m.GetSha256(), m.GetSize())
	if err != nil {
		t.Fatal(err)
	}
	got, err := follow(t.Context(), reader, m.GetSize())
	if err = errors.Join(err, reader.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if err := v.WriteManifest(m); err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenReader("a", strings.Repeat("0", 64), m.GetSize()); !errors.As(err, &conflict) {
		t.Errorf("another SHA-256: %v", err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	good, err := vault.EncodeManifest(describe("a", snapshot(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"formatVersion":1,"name":"../a","size":"1"}`))
	f.Add([]byte(`{"formatVersion":1,"name":"a","size":"-1","new":{"x":[1]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := vault.DecodeManifest(data)
		if err != nil {
			return
		}
		if names.Check("snapshot", m.GetName()) != nil || m.GetSize() <= 0 || len(m.GetSha256()) != 64 {
			t.Fatalf("accepted %v", m)
		}
		again, err := vault.DecodeManifest(mustEncode(t, m))
		if err != nil || !proto.Equal(m, again) {
			t.Fatalf("%v does not survive being written: %v", m, err)
		}
	})
}

func mustEncode(t *testing.T, m *requorumv1.Manifest) []byte {
	t.Helper()
	data, err := vault.EncodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
