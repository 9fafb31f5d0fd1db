package vault_test

import (
	"os"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/vault"
	"github.com/requorum/requorum/internal/durable/durabletest"
)

// TestReadingBackLeavesThePageCacheEmpty: what is read back comes from the disk, and etcd keeps the memory.
func TestReadingBackLeavesThePageCacheEmpty(t *testing.T) {
	v, err := vault.Open(t.TempDir(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.Create("s")
	if err == nil {
		_, err = w.Write(make([]byte, 5<<20+512+32))
	}
	if err != nil {
		t.Fatal(err)
	}
	wrote, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	path, err := v.Path("s")
	if err != nil {
		t.Fatal(err)
	}
	read, err := v.Facts(t.Context(), "s", nil)
	if err != nil || read.GetSize() != wrote.GetSize() || read.GetSha256() != wrote.GetSha256() {
		t.Fatalf("%v, %v, expected %v", read, err, wrote)
	}
	if part := durabletest.Cached(t, path); part > 0 && canReadDirectly(t, path) {
		t.Errorf("%.0f %% of it is in the page cache", 100*part)
	}
}

// canReadDirectly tells whether the file system reads past the page cache.
func canReadDirectly(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return false
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		t.Fatal(err)
	}
	return fs.Type != unix.TMPFS_MAGIC // which since Linux 6.6 says that it can
}
