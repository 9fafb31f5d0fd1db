package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/s3test"
)

// bucket is a bucket with what it takes to use it.
type bucket struct {
	server      *s3test.Server
	credentials string // file
	key         *age.X25519Identity
	keyFile     string
	dir         string // that the nodes share
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	dir := t.TempDir()
	b := &bucket{server: s3test.Start(t, "backups"), credentials: filepath.Join(dir, "credentials"), keyFile: filepath.Join(dir, "key.txt"), dir: t.TempDir()}
	b.giveKeys(t, s3test.SecretKey)
	var err error
	b.key, err = age.GenerateX25519Identity()
	must(t, err)
	must(t, os.WriteFile(b.keyFile, []byte("# our key\n"+b.key.String()+"\n"), 0o600))
	return b
}

// giveKeys writes the file that the controller reads keys from.
func (b *bucket) giveKeys(t *testing.T, secret string) {
	t.Helper()
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s3test.AccessKey, secret)
	must(t, os.WriteFile(b.credentials, []byte(text), 0o600))
}

// configure gives a controller two remotes: the bucket, encrypted, and a directory.
func (b *bucket) configure(c *controller.Config) {
	c.Remotes = []remote.Config{
		{
			Name: "off-site", Kind: "s3", Folder: "etcd", Recipients: []string{b.key.Recipient().String()},
			S3: remote.S3{Endpoint: b.server.URL(), Bucket: "backups", CA: b.server.CA.File, CredentialsFile: b.credentials},
		},
		{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: b.dir}},
	}
}

// objects are the keys in the bucket.
func (b *bucket) objects(t *testing.T) []string {
	t.Helper()
	var found []string
	root := filepath.Join(b.server.Dir, "backups")
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/.sgwtmp/") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		found = append(found, rel)
		return err
	}))
	return found
}

// A snapshot is saved to a bucket, every node and the controller are lost with all they had, and new nodes are restored
// from the bucket alone. No secret is written or logged on the way.
func TestRestoreFromTheBucketAlone(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	var saved harness.State
	t.Run("save", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Control: b.configure})
		c.Write(500)
		saved = c.Now()
		s := save(t, c, "pre-1.31", "--remote", "off-site")
		if len(s.GetRemotes()) != 1 || s.GetRemotes()[0].GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
			t.Errorf("%v", s.GetRemotes())
		}
		says(t, c.Do("snapshot", "ls"), "off-site")
		if r := c.Do("hook", "pre-upgrade", "--cluster", harness.Name, "--remote", "off-site"); r.Stdout != "pre-1.31\n" {
			t.Errorf("the hook says %q", r.Stdout)
		}
		says(t, c.Do("snapshot", "show", "pre-1.31"), "off-site", "zstd 3, age for 1", ".db.zst.age")
		save(t, c, "later")
		c.Do("snapshot", "upload", "later", "--remote", "nfs")
		says(t, c.Do("remote", "snapshots", "nfs"), "later")
		c.Do("snapshot", "rm", "later", "--yes")
		if entries, err := os.ReadDir(filepath.Join(b.dir, harness.Name)); err != nil || len(entries) != 0 {
			t.Errorf("left in the directory: %v, %v", entries, err)
		}
		if objects := b.objects(t); len(objects) != 2 {
			t.Errorf("in the bucket: %v", objects)
		}
		keepsNoSecret(t, c, b)
	})
	t.Run("restore", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Control: b.configure})
		c.Write(50) // of the new cluster, to be gone
		says(t, c.Do("remote", "snapshots", "off-site"), "pre-1.31")
		plan := c.Do("restore", "--from", "off-site:latest", "--plan")
		says(t, plan, "off-site", "encrypted", "--identity")
		without := c.Expect(4, "restore", "--from", "off-site:pre-1.31", "--yes")
		says(t, without, "--identity FILE")
		var resp requorumv1.StartRestoreResponse
		r := c.JSON(&resp, "restore", "--from", "s3://backups/etcd/prod/pre-1.31", "--identity", b.keyFile, "--yes")
		if r.Code != 0 {
			t.Fatal(r)
		}
		holds(t, c, saved)
		nothingLeft(t, c)
		keepsNoSecret(t, c, b)
	})
}

// keepsNoSecret makes sure that neither keys nor identities are in anything that the cluster has written.
func keepsNoSecret(t *testing.T, c *harness.Cluster, b *bucket) {
	t.Helper()
	secrets := map[string][]byte{"the secret key": []byte(s3test.SecretKey), "the identity": []byte(b.key.String())}
	looked := 0
	must(t, filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what goes away meanwhile holds nothing
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		looked++
		for what, secret := range secrets {
			if bytes.Contains(data, secret) {
				t.Errorf("%s is in %s", what, path)
			}
		}
		return nil
	}))
	if looked < 10 {
		t.Errorf("only %d files were looked at", looked)
	}
}

// What goes wrong with a bucket is told, and leaves nothing; keys that are replaced count at once.
func TestRemotesThatFail(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	c := harness.Start(t, harness.Options{Control: b.configure})
	c.Write(100)
	says(t, c.Expect(3, "snapshot", "save", "--name", "a", "--remote", "nosuch"), "off-site, nfs")

	b.giveKeys(t, "wrong")
	says(t, c.Expect(3, "snapshot", "save", "--name", "a", "--remote", "off-site"), "credentials")
	optional := c.Do("snapshot", "save", "--name", "kept", "--remote", "off-site", "--allow-remote-failure")
	says(t, optional, "remote off-site has no copy")
	if s := show(t, c, "kept"); len(s.GetRemotes()) != 0 || s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
		t.Errorf("%v", s)
	}
	b.giveKeys(t, s3test.SecretKey) // replaced on the disk, without a restart
	c.Do("snapshot", "upload", "kept", "--remote", "off-site")
	c.Do("snapshot", "upload", "kept", "--remote", "off-site") // is there already

	// An agent that dies in the middle, and comes back, finishes it.
	for _, n := range c.NodeNames() { // whichever saves
		c.Arm("agent/upload-copy/middle", n, "kill")
	}
	c.Do("snapshot", "save", "--name", "crashed", "--remote", "off-site", "--detach")
	startTheDead(t, c)
	if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Error(format(op))
	}

	// No node has a copy any more: it comes back from the bucket, to whoever has the key.
	for _, n := range c.NodeNames() {
		must(t, os.Remove(c.Copy(n, "kept")))
	}
	says(t, c.CLI("snapshot", "distribute", "kept"), "--identity FILE")
	c.Do("snapshot", "distribute", "kept", "--identity", b.keyFile)
	c.Do("snapshot", "check", "kept")

	// A bucket that is damaged is noticed before anything is used.
	b.damage(t, "kept-")
	for _, n := range c.NodeNames() {
		must(t, os.Remove(c.Copy(n, "kept")))
	}
	c.Expect(4, "snapshot", "distribute", "kept", "--identity", b.keyFile)

	b.server.RemoveBucket("backups")
	r := c.Expect(3, "snapshot", "save", "--name", "b", "--remote", "off-site")
	says(t, r, "bucket")
	nothingLeft(t, c)
}

// Copies that turn out to be bad while they are staged, on every node, are replaced from a remote.
func TestARestoreReplacesBadCopiesFromARemote(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	c := harness.Start(t, harness.Options{Control: func(c *controller.Config) {
		c.Remotes = []remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: shared}}}
	}})
	c.Write(200)
	saved := c.Now()
	save(t, c, "before", "--remote", "nfs")
	good, err := os.ReadFile(c.Copy("etcd-1", "before"))
	must(t, err)
	c.Write(50)
	for _, node := range c.NodeNames() {
		must(t, flip(c.Copy(node, "before"), 20_000))
	}
	warnings := strings.Join(restore(t, c, "before").GetWarnings(), "\n")
	if strings.Count(warnings, "it gets the file that is fetched from remote nfs") != len(c.Nodes) {
		t.Errorf("the restore warns of\n%s", warnings)
	}
	holds(t, c, saved)
	sameFile(t, c, good)
	nothingLeft(t, c)
}
