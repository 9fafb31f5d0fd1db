package vault_test

import (
	"os"
	"testing"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/vault"
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
	if cached := cachedPages(t, path); cached > 0 && canReadDirectly(t, path) {
		t.Errorf("%d pages are in the page cache", cached)
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

// cachedPages counts the pages of a file that are in memory.
func cachedPages(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	pages := make([]byte, (len(data)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), uintptr(unsafe.Pointer(&pages[0])))
	if err := unix.Munmap(data); err != nil || errno != 0 {
		t.Fatal(err, errno)
	}
	for _, page := range pages {
		n += int(page & 1)
	}
	return n
}
