package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	keep "github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/e2e/harness"
)

// nodeFiles are files that nodes have besides etcd's.
type nodeFiles struct {
	t   *testing.T
	dir string
}

const apiserver = `apiVersion: v1
kind: Pod
spec:
  containers:
  - name: kube-apiserver
    image: registry.k8s.io/kube-apiserver:v1.31.2
`

// configure makes files for a node and allows them to be kept.
func (f nodeFiles) configure(node string, a *agent.Config) {
	f.t.Helper()
	dir := filepath.Join(f.dir, node)
	must(f.t, os.MkdirAll(filepath.Join(dir, "pki"), 0o700))
	must(f.t, os.WriteFile(filepath.Join(dir, "kube-apiserver.yaml"), []byte(apiserver), 0o600))
	a.Files = keep.Sets{"pki": {filepath.Join(dir, "pki")}, "token": {filepath.Join(dir, "token")}}
	a.Kubernetes.Manifest = filepath.Join(dir, "kube-apiserver.yaml")
	f.write(node, "secret of "+node, "token of "+node)
}

func (f nodeFiles) write(node, key, token string) {
	f.t.Helper()
	must(f.t, os.WriteFile(filepath.Join(f.dir, node, "pki", "ca.key"), []byte(key), 0o600))
	must(f.t, os.WriteFile(filepath.Join(f.dir, node, "token"), []byte(token), 0o640))
}

// are fails unless the files of a node are these.
func (f nodeFiles) are(node, key, token string) {
	f.t.Helper()
	for name, want := range map[string]string{"pki/ca.key": key, "token": token} {
		got, err := os.ReadFile(filepath.Join(f.dir, node, name))
		if err != nil || string(got) != want {
			f.t.Errorf("%s on %s is %q, %v; want %q", name, node, got, err, want)
		}
	}
}

// Files that the nodes keep with a snapshot come back with the cluster, each to its node, or stay as they are where the
// restore is taken back.
func TestFilesComeBackWithTheCluster(t *testing.T) {
	t.Parallel()
	f := nodeFiles{t: t, dir: t.TempDir()}
	c := harness.Start(t, harness.Options{Configure: f.configure})
	c.Write(200)
	says(t, c.Expect(3, "snapshot", "save", "--name", "other", "--files", "other"), `no set of files "other"; it has pki, token`)
	s := save(t, c, "a", "--files", "pki,token")
	saved := c.Now()
	if m := s.GetManifest(); len(m.GetBundles()) != 3 || m.GetBundles()[0].GetFiles() != 3 || m.GetKubernetesVersion() != "v1.31.2" {
		t.Errorf("%v", m)
	}
	says(t, c.Do("snapshot", "show", "a"), "Files of etcd-2", "v1.31.2")

	for _, n := range c.NodeNames() {
		f.write(n, "newer", "newer")
	}
	c.Write(50)
	says(t, c.Do("restore", "--snapshot", "a", "--files", "list", "--plan"), "/token different", "none is written")

	c.Arm("agent/swap/after", "etcd-2", "error once out of order") // the files were written by then
	c.Expect(4, "restore", "--snapshot", "a", "--files", "restore", "--yes")
	for _, n := range c.NodeNames() {
		f.are(n, "newer", "newer")
	}

	dies(t, c, "etcd-3", "agent/restore-files/middle", "restore", "--snapshot", "a", "--files", "restore", "--yes")
	holds(t, c, saved)
	for _, n := range c.NodeNames() {
		f.are(n, "secret of "+n, "token of "+n)
		old, err := filepath.Glob(filepath.Join(f.dir, n, ".requorum-quarantine-*-token"))
		if err != nil || len(old) != 1 {
			t.Errorf("old files on %s: %v, %v", n, old, err)
		}
	}
	restored := c.Operations()[0]
	for _, q := range restored.GetQuarantines() {
		if len(q.GetFiles()) != 2 || q.GetExpires() == nil {
			t.Errorf("old files that are not listed: %v", q)
		}
		for _, path := range q.GetFiles() {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	}
	says(t, c.Do("operation", "show", restored.GetId()), "etcd-3: files that the restore has replaced (2)", ".requorum-quarantine-"+restored.GetId())
	says(t, c.Expect(3, "restore", "--snapshot", "latest", "--files", "restore", "--plan"), "holds no files of the nodes")

	must(t, os.Remove(strings.TrimSuffix(c.Copy("etcd-1", "a"), ".db")+".files"))
	says(t, c.Expect(3, "snapshot", "check", "a"), "does not hold its files")
	apply(t, c, "name: nightly\ncluster: prod\nevery: 1h\npaused: true\nfiles: [token]\n")
	c.Do("schedule", "trigger", "nightly")
	if m := show(t, c, "latest").GetManifest(); len(m.GetBundles()) != 3 || m.GetSchedule() != "nightly" {
		t.Errorf("%v", m)
	}
	c.Do("snapshot", "rm", "a", "--yes")
	nothingLeft(t, c)
	inBundlesOnly(t, c, "secret of etcd-")
}

// Files of nodes go to a bucket with the snapshot. Every node and the controller are lost with all they had; new nodes of
// the same names get their files back from the bucket, unless what lies there was damaged.
func TestFilesComeBackFromTheBucketAlone(t *testing.T) {
	t.Parallel()
	f, b := nodeFiles{t: t, dir: t.TempDir()}, newBucket(t)
	var saved harness.State
	t.Run("save", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Configure: f.configure, Control: b.configure})
		c.Write(200)
		saved = c.Now()
		save(t, c, "gone", "--files", "pki", "--remote", "nfs")
		dies(t, c, "etcd-2", "agent/upload-files/middle", "snapshot", "save", "--name", "a", "--files", "pki,token", "--remote", "off-site")
		says(t, c.Do("snapshot", "show", "a"), "etcd-1, etcd-2, etcd-3")
		if objects := b.objects(t); len(objects) != 5 {
			t.Errorf("in the bucket: %v", objects)
		}
		c.Do("snapshot", "rm", "gone", "--yes")
		if entries, err := os.ReadDir(filepath.Join(b.dir, harness.Name)); err != nil || len(entries) != 0 {
			t.Errorf("left in the directory: %v, %v", entries, err)
		}

		// A node that lost its files alone is told of, and gets them back.
		must(t, os.Remove(strings.TrimSuffix(c.Copy("etcd-1", "a"), ".db")+".files"))
		says(t, c.Do("snapshot", "check", "a"), "etcd-1", "in remote off-site at best")
		says(t, c.Expect(4, "snapshot", "repair", "a"), "--identity FILE")
		c.Do("snapshot", "distribute", "a", "--identity", b.keyFile)
		if r := c.Do("snapshot", "check", "a"); strings.Contains(r.Stdout+r.Stderr, "at best") {
			t.Errorf("etcd-1 has its files again\n%s", r)
		}
		must(t, os.Remove(strings.TrimSuffix(c.Copy("etcd-1", "a"), ".db")+".files"))
		f.write("etcd-1", "newer", "newer")
		says(t, c.Expect(3, "restore", "--snapshot", "a", "--files", "restore", "--plan"), "--identity FILE")
		says(t, c.Do("restore", "--snapshot", "a", "--files", "list", "--plan", "--identity", b.keyFile), "/token different", "as remote off-site has them")
		dies(t, c, "etcd-1", "agent/download-files/after", "restore", "--snapshot", "a", "--files", "restore", "--identity", b.keyFile, "--yes")
		f.are("etcd-1", "secret of etcd-1", "token of etcd-1")
		keepsNoSecret(t, c, b)
	})
	t.Run("restore", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Configure: f.configure, Control: b.configure})
		for _, n := range c.NodeNames() {
			f.write(n, "newer", "newer")
		}
		c.Write(50) // of the new cluster, to be gone
		from := []string{"restore", "--from", "off-site:a", "--files", "restore", "--identity", b.keyFile}
		mend := b.damage(t, ".etcd-2.files")
		says(t, c.Expect(3, append(from, "--plan")...), "etcd-2", "cannot be opened")
		c.Expect(3, append(from, "--yes")...)
		if left, err := filepath.Glob(strings.TrimSuffix(c.Copy("etcd-2", "a"), ".db") + ".files*"); err != nil || len(left) != 0 {
			t.Errorf("of a damaged bundle %v was written, %v", left, err)
		}
		f.are("etcd-2", "newer", "newer")
		mend()

		c.Arm("agent/swap/after", "etcd-3", "error once out of order") // the files were written by then
		c.Expect(4, append(from, "--yes")...)
		for _, n := range c.NodeNames() {
			f.are(n, "newer", "newer")
		}
		c.Do(append(from, "--yes")...)
		holds(t, c, saved)
		for _, n := range c.NodeNames() {
			f.are(n, "secret of "+n, "token of "+n)
		}
		nothingLeft(t, c)
		inBundlesOnly(t, c, "secret of etcd-")
		keepsNoSecret(t, c, b)
	})
}

// dies starts an operation, kills an agent at a fault point, starts it again, and fails unless the operation is carried on.
func dies(t *testing.T, c *harness.Cluster, node, point string, command ...string) {
	t.Helper()
	c.Arm(point, node, "kill")
	c.Do(append(command, "--detach")...)
	c.WaitFired(point, node)
	<-c.Process(node).Done()
	c.Disarm()
	c.StartAgain(node)
	if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatal(format(op))
	}
}

// damage changes a byte of every object in the bucket whose key has part in it. What it returns takes that back.
func (b *bucket) damage(t *testing.T, part string) (mend func()) {
	t.Helper()
	whole := map[string][]byte{}
	for _, key := range b.objects(t) {
		if !strings.Contains(key, part) {
			continue
		}
		path := filepath.Join(b.server.Dir, "backups", key)
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, flipped(data, int64(len(data)/2)), 0o600))
		whole[path] = data
	}
	if len(whole) == 0 {
		t.Fatalf("no object is called %s: %v", part, b.objects(t))
	}
	return func() {
		for path, data := range whole {
			must(t, os.WriteFile(path, data, 0o600))
		}
	}
}

// inBundlesOnly makes sure that a secret is in what nodes keep with their snapshots, and nowhere else.
func inBundlesOnly(t *testing.T, c *harness.Cluster, secret string) {
	t.Helper()
	must(t, filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".files") {
			return nil //nolint:nilerr // what goes away meanwhile holds nothing
		}
		data, err := os.ReadFile(path)
		if err == nil && bytes.Contains(data, []byte(secret)) {
			t.Errorf("%q is in %s", secret, path)
		}
		return nil
	}))
}
