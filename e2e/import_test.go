package e2e

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/e2e/harness"
)

// A file made with etcd's own snapshot call is imported, exported as the very same file, and imported again. A file that
// is damaged in any way is refused in one sentence that names the node, and leaves nothing.
func TestImportAndExport(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	saved := c.Now()
	dir := t.TempDir()
	file := filepath.Join(dir, "etcdctl.db")
	snapshotByClient(t, c, file)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.Write(100)
	id, _ := serving(t, c)
	later := c.Now()

	for name, bad := range map[string]struct {
		path    string
		content []byte
		code    int
		says    []string
	}{
		"page":      {path: filepath.Join(dir, "page.db"), content: flipped(good, int64(len(good)/2)), code: 3, says: []string{"damaged"}},
		"trailer":   {path: filepath.Join(dir, "trailer.db"), content: flipped(good, -5), code: 3, says: []string{"damaged"}},
		"truncated": {path: filepath.Join(dir, "truncated.db"), content: good[:len(good)-4096], code: 3, says: []string{"SHA-256"}},
		"half":      {path: filepath.Join(dir, "half.db"), content: good[:len(good)/2], code: 3, says: []string{"SHA-256"}},
		"empty":     {path: filepath.Join(dir, "empty.db"), content: []byte{}, code: 3},
		"text":      {path: filepath.Join(dir, "text.db"), content: bytes.Repeat([]byte("not a database\n"), 1000), code: 3, says: []string{"SHA-256"}},
		"missing":   {path: filepath.Join(dir, "missing.db"), code: 3, says: []string{"no such file"}},
		"directory": {path: dir, code: 3},
	} {
		if bad.content != nil {
			if err := os.WriteFile(bad.path, bad.content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := c.CLI("snapshot", "import", "--node", "etcd-2", "--path", bad.path, "--name", "bad-"+name)
		if r.Code != 3 && r.Code != 4 {
			t.Errorf("%s: want exit code 3 or 4\n%s", name, r)
		}
		says(t, r, append(bad.says, "etcd-2")...)
		if n := strings.Count(r.Stderr, "rror"); n > 2 {
			t.Errorf("%s: more than one error\n%s", name, r)
		}
	}
	// Without the hash check the pages are still looked at.
	r := c.CLI("snapshot", "import", "--node", "etcd-2", "--path", filepath.Join(dir, "text.db"), "--name", "bad-text-unchecked", "--skip-hash-check")
	if r.Code != 3 && r.Code != 4 {
		t.Errorf("want exit code 3 or 4\n%s", r)
	}
	for _, path := range []string{"relative.db", dir + "/../" + filepath.Base(dir) + "/etcdctl.db", "../../etc/passwd", ""} {
		r := c.CLI("snapshot", "import", "--node", "etcd-2", "--path", path, "--name", "bad-path")
		if r.Code != 2 && r.Code != 3 {
			t.Errorf("path %q: want exit code 2 or 3\n%s", path, r)
		}
	}
	untouched(t, c, id, later)

	c.Do("snapshot", "import", "--node", "etcd-2", "--path", file, "--name", "imported")
	out := filepath.Join(dir, "exported.db")
	c.Do("snapshot", "export", "imported", "--file", out)
	if got, want := md5Of(t, out), md5Of(t, file); got != want || show(t, c, "imported").GetManifest().GetMd5() != want {
		t.Errorf("the exported file has MD5 %s, the imported %s, its manifest says %s", got, want, show(t, c, "imported").GetManifest().GetMd5())
	}
	c.Do("snapshot", "import", "--node", "etcd-3", "--path", out, "--name", "again")
	restore(t, c, "again")
	holds(t, c, saved)
	nothingLeft(t, c)
}

// snapshotByClient does what "etcdctl snapshot save" does.
func snapshotByClient(t *testing.T, c *harness.Cluster, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := c.Client("etcd-1").Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flipped(data []byte, offset int64) []byte {
	bad := bytes.Clone(data)
	if offset < 0 {
		offset += int64(len(data))
	}
	bad[offset] ^= 1
	return bad
}

func md5Of(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}
