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

	c.Arm("agent/restore-files/middle", "etcd-3", "kill")
	c.Do("restore", "--snapshot", "a", "--files", "restore", "--yes", "--detach")
	c.WaitFired("agent/restore-files/middle", "etcd-3")
	<-c.Process("etcd-3").Done()
	c.Disarm()
	c.StartAgain("etcd-3")
	if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatal(format(op))
	}
	holds(t, c, saved)
	for _, n := range c.NodeNames() {
		f.are(n, "secret of "+n, "token of "+n)
		old, err := filepath.Glob(filepath.Join(f.dir, n, ".requorum-quarantine-*-token"))
		if err != nil || len(old) != 1 {
			t.Errorf("old files on %s: %v, %v", n, old, err)
		}
	}
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
