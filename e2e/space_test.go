package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
)

// A disk that is full stops a save or a restore early, with the node's name, and nothing is left on it.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	small := map[string]func(*agent.Config) (dir string, mebibytes int){
		"etcd-2": func(a *agent.Config) (string, int) { return filepath.Join(a.DataDir, "snapshots"), 66 },
		"etcd-3": func(a *agent.Config) (string, int) { return filepath.Join(filepath.Dir(a.DataDir), "etcd"), 200 },
	}
	c := harness.Start(t, harness.Options{Configure: func(node string, a *agent.Config) {
		if small[node] != nil {
			dir, mebibytes := small[node](a)
			mount(t, dir, mebibytes)
		}
	}})
	c.Write(300)
	now := c.Now()
	id, _ := serving(t, c)
	save(t, c, "fits")
	r := c.Expect(3, "restore", "--snapshot", "fits", "--yes")
	says(t, r, "space on etcd-3", "needed", "nothing was stopped or changed")

	ballast(t, filepath.Join(c.Vault("etcd-2"), "ballast"), 3<<20) // below what the agent leaves free
	r = c.CLI("snapshot", "save", "--name", "does-not-fit")
	if r.Code != 3 && r.Code != 4 {
		t.Errorf("want exit code 3 or 4\n%s", r)
	}
	says(t, r, "etcd-2", "free space")
	if err := os.Remove(filepath.Join(c.Vault("etcd-2"), "ballast")); err != nil {
		t.Fatal(err)
	}
	untouched(t, c, id, now)
	save(t, c, "fits-again")
}

// Where the data directory is a file system of its own it cannot be renamed; what is in it is.
func TestDataDirIsAMountPoint(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Configure: func(_ string, a *agent.Config) {
		mount(t, filepath.Join(filepath.Dir(a.DataDir), "etcd"), 512)
	}})
	c.Write(300)
	saved := c.Now()
	save(t, c, "before")
	c.Write(100)
	now := c.Now()
	id, _ := serving(t, c)
	c.Arm("agent/verify/before", "etcd-2", "error once out of order")
	c.Expect(4, "restore", "--snapshot", "before", "--yes")
	untouched(t, c, id, now)
	op := restore(t, c, "before")
	holds(t, c, saved)
	quarantineKept(t, c, op)
	nothingLeft(t, c)
}

// mount puts an empty file system at dir until the test ends; where that is not permitted the test is skipped.
func mount(t *testing.T, dir string, mebibytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mebibytes)); err != nil {
		t.Skipf("mounting a tmpfs is not permitted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

func ballast(t *testing.T, path string, bytes int) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
}
