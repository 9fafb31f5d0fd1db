package files_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/requorum/requorum/agent/files"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// node is a node with files.
type node struct {
	*files.Keeper
	t   *testing.T
	dir string // what the configuration allows is pki and token in it
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, dir: filepath.Join(dir, "etc")}
	n.Keeper = &files.Keeper{
		Dir: filepath.Join(dir, "snapshots"), Records: filepath.Join(dir, "records"),
		Sets: files.Sets{"pki": {filepath.Join(n.dir, "pki")}, "token": {filepath.Join(n.dir, "token")}, "none": {}},
	}
	for _, d := range []string{n.Dir, n.dir, filepath.Join(n.dir, "pki"), filepath.Join(n.dir, "pki", "etcd")} {
		n.must(os.Mkdir(d, 0o700))
	}
	n.must(os.Chmod(filepath.Join(n.dir, "pki", "etcd"), 0o750))
	n.write("pki/ca.crt", "certificate", 0o644)
	n.write("pki/ca.key", "key", 0o600)
	n.write("pki/etcd/server.key", "server key", 0o640)
	n.write("token", "secret", 0o600)
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) write(name, text string, mode fs.FileMode) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	n.must(os.WriteFile(path, []byte(text), mode))
	n.must(os.Chmod(path, mode))
}

func (n *node) pack(sets ...string) *requorumv1.Bundle {
	n.t.Helper()
	b, err := n.Pack(n.t.Context(), "a", sets)
	n.must(err)
	return b
}

// tree is every file and directory below the node's directory with mode and content, less what restores put aside.
func (n *node) tree() string {
	n.t.Helper()
	var b strings.Builder
	n.must(filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.HasPrefix(d.Name(), ".requorum-quarantine-") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(n.dir, path)
		if err != nil {
			return err
		}
		b.WriteString(rel + " " + info.Mode().String())
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.WriteString(" " + string(data))
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

// damage changes, removes and adds files.
func (n *node) damage() {
	n.t.Helper()
	n.write("pki/ca.crt", "another", 0o600)
	n.write("pki/ca.key", "key", 0o644) // only its mode
	n.must(os.RemoveAll(filepath.Join(n.dir, "pki", "etcd")))
	n.must(os.Remove(filepath.Join(n.dir, "token")))
}

func states(found []*requorumv1.PlannedFile) string {
	var all []string
	for _, f := range found {
		all = append(all, filepath.Base(f.GetPath())+" "+strings.ToLower(strings.TrimPrefix(f.GetState().String(), "FILE_STATE_")))
	}
	return strings.Join(all, ", ")
}

func TestFilesComeBackWithOwnerAndModeAndTheOldOnesStay(t *testing.T) {
	n := newNode(t)
	saved := n.tree()
	b := n.pack("token", "pki", "none", "pki")
	if strings.Join(b.GetSets(), " ") != "none pki token" || b.GetFiles() != 6 {
		t.Errorf("%v", b)
	}
	info, err := os.Stat(filepath.Join(n.Dir, "a.files"))
	n.must(err)
	if info.Mode() != 0o600 || info.Size() != b.GetSize() {
		t.Errorf("%s, %d bytes", info.Mode(), info.Size())
	}
	n.damage()
	n.write("pki/new.crt", "newer than the snapshot", 0o600)
	found, err := n.Compare(t.Context(), "a", b)
	n.must(err)
	if want := "pki same, ca.crt different, ca.key different, etcd missing, server.key missing, token missing"; states(found) != want {
		t.Errorf("%s, want %s", states(found), want)
	}
	for range 2 { // as after a crash
		n.must(n.Restore(t.Context(), "R1", "a", b))
	}
	if got, want := n.tree(), strings.Replace(saved, "token ", "pki/new.crt -rw------- newer than the snapshot\ntoken ", 1); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
	kept, err := os.ReadFile(filepath.Join(n.dir, "pki", ".requorum-quarantine-R1-ca.crt"))
	if err != nil || string(kept) != "another" {
		t.Errorf("the old file: %q, %v", kept, err)
	}
	again := n.pack("pki", "token")
	if again.GetFiles() != 7 { // and not what lies in quarantine
		t.Errorf("%d", again.GetFiles())
	}
}

// What a restore has replaced is listed, and goes once nobody may want it back any more; nothing else does.
func TestOldFilesAreRemoved(t *testing.T) {
	n := newNode(t)
	b := n.pack("pki", "token")
	n.damage()
	n.must(n.Restore(t.Context(), "R1", "a", b))
	n.write("pki/ca.crt", "a third one", 0o600)
	n.must(n.Restore(t.Context(), "R2", "a", b))
	pki := filepath.Join(n.dir, "pki")
	first, err := n.Old("R1")
	n.must(err)
	if want := []string{filepath.Join(pki, ".requorum-quarantine-R1-ca.crt"), filepath.Join(pki, ".requorum-quarantine-R1-ca.key")}; !slices.Equal(first, want) {
		t.Errorf("kept %q, want %q", first, want)
	}
	n.must(os.Remove(first[1])) // by a person
	before := n.tree()
	for range 2 { // as after a crash
		n.must(n.RemoveOld(t.Context(), "R1"))
	}
	left, err := filepath.Glob(filepath.Join(pki, ".requorum-*"))
	n.must(err)
	if want := []string{filepath.Join(pki, ".requorum-quarantine-R2-ca.crt")}; !slices.Equal(left, want) || n.tree() != before {
		t.Errorf("left %q, want %q; %s", left, want, n.tree())
	}
	if none, err := n.Old("R1"); err != nil || len(none) != 0 {
		t.Errorf("%q, %v", none, err)
	}
	n.must(n.Undo(t.Context(), "R1")) // there is nothing to undo any more
	if n.tree() != before {
		t.Error(n.tree())
	}
	n.Sets = files.Sets{}
	if err := n.RemoveOld(t.Context(), "R2"); err == nil || !strings.Contains(err.Error(), left[0]) {
		t.Errorf("not allowed any more: %v", err)
	}
	if _, err := os.Stat(left[0]); err != nil {
		t.Error(err)
	}
}

func TestTheOwnerComesBack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may give files to others")
	}
	n := newNode(t)
	key, dir := filepath.Join(n.dir, "pki", "ca.key"), filepath.Join(n.dir, "pki", "etcd")
	n.must(os.Chown(key, 1234, 4321))
	n.must(os.Chown(dir, 1234, 4321))
	b := n.pack("pki")
	n.must(os.Chown(key, 5, 6))
	n.must(os.Chown(dir, 5, 6))
	owners := func(want string) {
		t.Helper()
		for _, path := range []string{key, dir} {
			info, err := os.Stat(path)
			n.must(err)
			st := info.Sys().(*syscall.Stat_t)
			if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != want {
				t.Errorf("%s is of %s, want %s", path, got, want)
			}
		}
	}
	n.must(n.Restore(t.Context(), "R1", "a", b))
	owners("1234:4321")
	n.must(n.Undo(t.Context(), "R1"))
	owners("5:6")
}

func TestUndoPutsEverythingBack(t *testing.T) {
	n := newNode(t)
	b := n.pack("pki", "token")
	n.damage()
	damaged := n.tree()
	n.must(n.Undo(t.Context(), "R1")) // nothing was done
	n.must(n.Restore(t.Context(), "R1", "a", b))
	for range 2 {
		n.must(n.Undo(t.Context(), "R1"))
		if n.tree() != damaged {
			t.Errorf("after undo:\n%s\nbefore:\n%s", n.tree(), damaged)
		}
	}
	left, err := filepath.Glob(filepath.Join(n.dir, "pki", ".requorum-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A restore that ended anywhere can be carried on or taken back.
func TestACrashAnywhereCanBeCarriedOnOrTakenBack(t *testing.T) {
	for at, blocked := range []string{"pki/ca.crt", "pki/ca.key", "token"} {
		n := newNode(t)
		saved := n.tree()
		b := n.pack("pki", "token")
		n.damage()
		damaged := n.tree()
		// Where the new file is to be made lies a directory that is not empty, so that the restore ends there.
		dir := filepath.Join(n.dir, filepath.Dir(blocked), ".requorum-restore-R1-"+filepath.Base(blocked), "x")
		n.must(os.MkdirAll(dir, 0o700))
		if err := n.Restore(t.Context(), "R1", "a", b); err == nil {
			t.Fatal("it was not stopped")
		}
		n.must(os.RemoveAll(filepath.Dir(dir)))
		if blocked == "pki/ca.crt" { // it may also have come one step further
			n.must(os.Link(filepath.Join(n.dir, blocked), filepath.Join(n.dir, "pki", ".requorum-quarantine-R1-ca.crt")))
		}
		if at%2 == 0 {
			n.must(n.Undo(t.Context(), "R1"))
			if left, err := filepath.Glob(filepath.Join(n.dir, "*", ".requorum-*")); err != nil || len(left) > 0 || n.tree() != damaged {
				t.Errorf("%s: taken back: left %v, %v\n%s", blocked, left, err, n.tree())
			}
		}
		n.must(n.Restore(t.Context(), "R1", "a", b))
		if n.tree() != saved {
			t.Errorf("%s: carried on:\n%s", blocked, n.tree())
		}
		n.must(n.Undo(t.Context(), "R1")) // also of what was done before the crash
		if n.tree() != damaged {
			t.Errorf("%s: taken back after it was carried on:\n%s", blocked, n.tree())
		}
	}
}

func TestWhatIsNotKept(t *testing.T) {
	for name, spoil := range map[string]func(n *node){
		"no set of files \"other\"; it has none, pki, token": nil,
		"is a symbolic link": func(n *node) { n.must(os.Symlink("ca.crt", filepath.Join(n.dir, "pki", "link"))) },
		"is a named pipe":    func(n *node) { n.must(syscall.Mkfifo(filepath.Join(n.dir, "pki", "pipe"), 0o600)) },
		"token is not there": func(n *node) { n.must(os.Remove(filepath.Join(n.dir, "token"))) },
		"the most that is kept of one file": func(n *node) {
			n.write("pki/large", "", 0o600)
			n.must(os.Truncate(filepath.Join(n.dir, "pki", "large"), 4<<20+1))
		},
		"are not kept with a snapshot": func(n *node) {
			for _, name := range []string{"1", "2", "3", "4", "5"} {
				n.write("pki/"+name, "", 0o600)
				n.must(os.Truncate(filepath.Join(n.dir, "pki", name), 4<<20))
			}
		},
	} {
		n := newNode(t)
		sets := []string{"pki", "token"}
		if spoil == nil {
			sets = []string{"other"}
		} else {
			spoil(n)
		}
		_, err := n.Pack(t.Context(), "a", sets)
		if refusal, is := errors.AsType[*files.RefusedError](err); !is || !strings.Contains(err.Error(), name) || refusal.Advice == "" {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(n.Dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", name, left, err)
		}
	}
}

// Whoever writes the manifest and the bundle gets no file written where the node's configuration does not allow it, and
// nothing at all is changed.
func TestNothingIsWrittenElsewhere(t *testing.T) {
	outside := t.TempDir()
	for name, spoil := range map[string]func(n *node){
		"does not allow": func(n *node) { delete(n.Sets, "token") },
		"pki/etcd is a symbolic link, which is not replaced": func(n *node) {
			n.must(os.RemoveAll(filepath.Join(n.dir, "pki", "etcd")))
			n.must(os.Symlink(outside, filepath.Join(n.dir, "pki", "etcd")))
		},
		"is a symbolic link, which is not replaced": func(n *node) {
			n.must(os.Remove(filepath.Join(n.dir, "token")))
			n.must(os.Symlink(filepath.Join(outside, "x"), filepath.Join(n.dir, "token")))
		},
		"is a directory, which is not replaced": func(n *node) {
			n.must(os.Remove(filepath.Join(n.dir, "token")))
			n.must(os.Mkdir(filepath.Join(n.dir, "token"), 0o700))
		},
		"is not there": func(n *node) { n.must(os.RemoveAll(n.dir)) },
	} {
		n := newNode(t)
		b := n.pack("pki", "token")
		n.write("pki/ca.crt", "another", 0o600)
		spoil(n)
		before := ""
		if name != "is not there" {
			before = n.tree()
		}
		for what, err := range map[string]error{"restore": n.Restore(t.Context(), "R1", "a", b), "compare": func() error { _, err := n.Compare(t.Context(), "a", b); return err }()} {
			if _, refused := errors.AsType[*files.RefusedError](err); !refused || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if name != "is not there" && n.tree() != before {
			t.Errorf("%s: changed:\n%s", name, n.tree())
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

// A file's own place may be fine, and still a link above it leads elsewhere.
func TestLinksAboveAFileAreNotFollowed(t *testing.T) {
	n := newNode(t)
	n.Sets["deep"] = []string{filepath.Join(n.dir, "pki", "etcd", "server.key")}
	b := n.pack("deep")
	delete(n.Sets, "deep")
	n.must(os.Rename(filepath.Join(n.dir, "pki", "etcd"), filepath.Join(n.dir, "pki", "moved")))
	n.must(os.Symlink("moved", filepath.Join(n.dir, "pki", "etcd")))
	n.write("pki/moved/server.key", "another", 0o600)
	err := n.Restore(t.Context(), "R1", "a", b)
	if _, refused := errors.AsType[*files.RefusedError](err); !refused || !strings.Contains(err.Error(), "is a symbolic link instead of a directory") {
		t.Error(err)
	}
}

// forge puts a tar of one entry in the place of the bundle.
func (n *node) forge(h *tar.Header, content string) *requorumv1.Bundle {
	n.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h.Size = int64(len(content))
	n.must(w.WriteHeader(h))
	_, err := w.Write([]byte(content))
	n.must(err)
	n.must(w.Close())
	n.must(os.WriteFile(filepath.Join(n.Dir, "a.files"), b.Bytes(), 0o600))
	sum := sha256.Sum256(b.Bytes())
	return &requorumv1.Bundle{Size: int64(b.Len()), Sha256: hex.EncodeToString(sum[:]), Files: 1}
}

// Even a bundle that its manifest vouches for gets nothing written elsewhere, and no link or device.
func TestForgedBundles(t *testing.T) {
	n := newNode(t)
	before := n.tree()
	for _, path := range []string{n.dir + "/pki/../token", n.dir + "/pki/etcd/../../../x", n.dir + "/pkix", n.dir, "/" + n.dir + "/token", "../x"} {
		b := n.forge(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o644}, "forged")
		if err := n.Restore(t.Context(), "R1", "a", b); err == nil {
			t.Errorf("%s was written to", path)
		}
	}
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo} {
		b := n.forge(&tar.Header{Typeflag: kind, Name: strings.TrimPrefix(n.dir, "/") + "/pki/link", Linkname: "/etc/passwd", Mode: 0o644}, "")
		if err := n.Restore(t.Context(), "R1", "a", b); err == nil {
			t.Errorf("an entry of the type %c was written", kind)
		}
	}
	if n.tree() != before {
		t.Errorf("changed:\n%s", n.tree())
	}
	b := n.forge(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(n.dir, "/") + "/pki/ca.crt", Mode: 0o4755, Uid: os.Getuid(), Gid: os.Getgid()}, "x")
	n.must(n.Restore(t.Context(), "R1", "a", b))
	if info, err := os.Stat(n.dir + "/pki/ca.crt"); err != nil || info.Mode() != 0o755 { // nothing but permission bits
		t.Errorf("%s, %v", info.Mode(), err)
	}
}

func TestDamagedBundlesAreNotUsed(t *testing.T) {
	n := newNode(t)
	b := n.pack("pki")
	path := filepath.Join(n.Dir, "a.files")
	whole, err := os.ReadFile(path)
	n.must(err)
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(flipped, []byte("certificate"))] ^= 1
	for name, data := range map[string][]byte{"flipped": flipped, "cut": whole[:len(whole)-512], "longer": append(bytes.Clone(whole), 0), "empty": nil} {
		n.must(os.WriteFile(path, data, 0o600))
		_, err := n.Compare(t.Context(), "a", b)
		if _, corrupt := errors.AsType[*files.CorruptError](err); !corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.must(n.Drop("a"))
	if _, err := n.Compare(t.Context(), "a", b); !errors.Is(err, files.ErrNotFound) {
		t.Error(err)
	}
}

// What comes from elsewhere is put beside the copy only if it is the bundle; what is there stays otherwise.
func TestABundleThatComesFromElsewhere(t *testing.T) {
	n := newNode(t)
	b := n.pack("pki")
	data, err := n.Read("a", b)
	n.must(err)
	n.must(n.Drop("a"))
	n.damage()
	found, err := n.CompareData(t.Context(), "a", b, data)
	n.must(err)
	if _, err := n.Compare(t.Context(), "a", b); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("comparing wrote it: %v", err)
	}
	for name, bad := range map[string][]byte{"changed": append(bytes.Clone(data[:len(data)-1]), 1), "cut": data[:512], "empty": nil} {
		err := n.Put("a", b, bad)
		_, there := n.Read("a", b)
		if _, corrupt := errors.AsType[*files.CorruptError](err); !corrupt || !errors.Is(there, files.ErrNotFound) {
			t.Errorf("%s: %v; beside the copy: %v", name, err, there)
		}
		if _, err := n.CompareData(t.Context(), "a", b, bad); err == nil {
			t.Errorf("%s is compared with", name)
		}
	}
	n.must(n.Put("a", b, data))
	again, err := n.Compare(t.Context(), "a", b)
	if err != nil || states(again) != states(found) {
		t.Errorf("%s, before %s, %v", states(again), states(found), err)
	}
}

func TestSetsThatCannotBeMeant(t *testing.T) {
	for _, s := range []files.Sets{{"a/b": {"/x"}}, {"": {"/x"}}, {"a": {"x"}}, {"a": {"/x/../y"}}, {"a": {"/x/"}}, {"a": {"/"}}} {
		if s.Check() == nil {
			t.Errorf("%v is taken", s)
		}
	}
	if err := (files.Sets{"a": {"/x", "/y/z"}, "none": nil}).Check(); err != nil {
		t.Error(err)
	}
}
