package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/durable/durabletest"
	"github.com/requorum/requorum/internal/lacking"
)

func TestWriteFileReplacesWholeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"one", "a longer second one", ""} {
		if err := durable.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read %q, %v; wrote %q", got, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+durable.PartSuffix)); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestWriteFileKeepsOldContentWhenItCannotFinish(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.Mkdir(path, 0o700); err != nil { // a directory cannot be replaced by a file
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Fatal("replaced a directory")
	}
	if left, _ := filepath.Glob(path + durable.PartSuffix); len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestRemoveToleratesWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "gone"), filepath.Join(dir, "no", "such", "dir")} {
		if err := durable.Remove(path); err != nil {
			t.Errorf("Remove(%s): %v", path, err)
		}
		if err := durable.RemoveAll(path); err != nil {
			t.Errorf("RemoveAll(%s): %v", path, err)
		}
	}
}

func TestFreeBytesOfPathThatIsNotThereYet(t *testing.T) {
	dir := t.TempDir()
	free, err := durable.FreeBytes(filepath.Join(dir, "a", "b"))
	if err != nil || free == 0 {
		t.Fatalf("FreeBytes = %d, %v", free, err)
	}
	same, err := durable.SameFileSystem(dir, filepath.Join(dir, "a", "b"))
	if err != nil || !same {
		t.Fatalf("SameFileSystem = %v, %v", same, err)
	}
}

func TestJSONComesBackAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	var got map[string]int
	if found, err := durable.ReadJSON(path, &got); found || err != nil {
		t.Errorf("a file that is not there: %v, %v", found, err)
	}
	if err := durable.WriteJSON(path, map[string]int{"pid": 7}); err != nil {
		t.Fatal(err)
	}
	if found, err := durable.ReadJSON(path, &got); !found || err != nil || got["pid"] != 7 {
		t.Errorf("read %v, %v, %v", got, found, err)
	}
	if err := os.WriteFile(path, []byte("{\"pid\""), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.ReadJSON(path, &got); err == nil {
		t.Error("a file that was cut off is taken for whole")
	}
}

func TestDropCacheForgetsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := durabletest.Cached(t, path); got < 0.9 {
		t.Fatalf("of what was just written %.0f %% are in memory: nothing is tested", 100*got)
	}
	if err := durable.DropCacheOf(path); err != nil {
		t.Fatal(err)
	}
	if got := durabletest.Cached(t, path); got > 0.1 {
		t.Errorf("%.0f %% are still in memory", 100*got)
	}
}

func TestRenameNewOverwritesNothing(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	for _, path := range []string{from, to} {
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.RenameNew(from, to); err == nil || !strings.Contains(err.Error(), to+" is in the way") {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != to {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if err := durable.RenameNew(from, to); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != from {
		t.Errorf("%q, %v", got, err)
	}
}

// A directory of somebody else's is refused before anything is looked for in it.
func TestOwnDirOfAnotherUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := durable.OwnDir(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if os.Geteuid() != 0 {
		lacking.Part(t, "only root can become somebody else")
	}
	refused := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread, which is somebody else's from now on, ends with the goroutine
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			refused <- errno
			return
		}
		refused <- durable.OwnDir(dir)
	}()
	err := <-refused
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "run it as the directory's owner") {
		t.Error(err)
	}
}
