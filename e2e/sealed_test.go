package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/seal/sealtest"
)

// aKey is a key of age and its file.
type aKey struct {
	*age.X25519Identity
	file string
}

func newKey(t *testing.T) aKey {
	t.Helper()
	id := sealtest.NewKey(t)
	k := aKey{id, filepath.Join(t.TempDir(), "key.txt")}
	must(t, os.WriteFile(k.file, []byte("# a key\n"+id.String()+"\n"), 0o600))
	return k
}

func (k aKey) public() string { return k.Recipient().String() }

// sealsFor makes the controller seal the copies on nodes.
func sealsFor(keys ...aKey) func(*controller.Config) {
	level := 3
	var recipients []string
	for _, k := range keys {
		recipients = append(recipients, k.public())
	}
	return func(c *controller.Config) {
		c.LocalStorage = sealing.Config{ZstdLevel: &level, Recipients: recipients}
	}
}

// sealedCopy is the file of a sealed copy.
func sealedCopy(c *harness.Cluster, node, name string) string { return c.Copy(node, name) + ".zst.age" }

// keepsNoIdentity makes sure that nothing which the cluster has written holds an identity.
func keepsNoIdentity(t *testing.T, c *harness.Cluster, k aKey) {
	t.Helper()
	must(t, filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what goes away meanwhile holds nothing
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(k.String())) {
			t.Errorf("the identity is in %s", path)
		}
		return nil
	}))
}

// allSealed makes sure that nothing in the vaults is in the clear, or left of what was.
func allSealed(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, n := range c.NodeNames() {
		entries, err := os.ReadDir(c.Vault(n))
		must(t, err)
		for _, e := range entries {
			name := e.Name()
			if e.Type().IsRegular() && !strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".files") && !strings.HasSuffix(name, ".age") {
				t.Errorf("in the clear on %s: %s", n, name)
			}
		}
	}
}

// opensWithoutRequorum opens a copy as age -d and zstd -d do, and has etcdutl look at it.
func opensWithoutRequorum(t *testing.T, path string, k aKey) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	decrypted, err := age.Decrypt(f, k)
	must(t, err)
	unpacked, err := zstd.NewReader(decrypted)
	must(t, err)
	defer unpacked.Close()
	opened, err := os.Create(filepath.Join(t.TempDir(), "opened.db"))
	must(t, err)
	_, err = opened.ReadFrom(unpacked)
	must(t, err)
	must(t, opened.Close())
	status, err := snapshot.NewV3(zap.NewNop()).Status(opened.Name())
	if err != nil || status.TotalKey == 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// sameOnAll makes sure that all nodes hold the same sealed file, and returns it.
func sameOnAll(t *testing.T, c *harness.Cluster, name string) []byte {
	t.Helper()
	good, err := os.ReadFile(sealedCopy(c, "etcd-1", name))
	must(t, err)
	for _, n := range c.NodeNames() {
		copied, err := os.ReadFile(sealedCopy(c, n, name))
		if err != nil || !bytes.Equal(copied, good) {
			t.Errorf("the copy on %s: %v", n, err)
		}
	}
	return good
}

// bundlesSealed makes sure that the files which nodes keep with a snapshot are nowhere in the clear.
func bundlesSealed(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	inBundlesOnly(t, c, "secret of etcd-") // and there encrypted:
	for _, n := range c.NodeNames() {
		bundle, err := os.ReadFile(strings.TrimSuffix(c.Copy(n, name), ".db") + ".files")
		if err != nil || bytes.Contains(bundle, []byte("secret of")) {
			t.Errorf("the files of %s: %v", n, err)
		}
	}
}

// nothingOpened makes sure that no files of nodes are left which were opened for a restore.
func nothingOpened(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, n := range c.NodeNames() { // what was opened for the restore is gone
		left, err := filepath.Glob(filepath.Join(filepath.Dir(c.Vault(n)), "*", "*.files"))
		left = slices.DeleteFunc(left, func(p string) bool { return strings.HasPrefix(p, c.Vault(n)) })
		if err != nil || len(left) > 0 {
			t.Errorf("%v, %v", left, err)
		}
	}
}

// Copies that are sealed on the nodes are the same file on all of them, are opened by nobody without the key, and are
// checked, repaired, proved and restored all the same.
func TestSealedCopies(t *testing.T) {
	t.Parallel()
	key, second, other := newKey(t), newKey(t), newKey(t)
	f := nodeFiles{t: t, dir: t.TempDir()}
	c := harness.Start(t, harness.Options{Configure: f.configure, Control: sealsFor(key, second)})
	c.Write(300)
	saved := c.Now()
	s := save(t, c, "before", "--files", "pki")
	good := sameOnAll(t, c, "before")
	m := s.GetManifest()
	if m.GetLocal().GetSize() != int64(len(good)) || m.GetSize() <= m.GetLocal().GetSize() || len(m.GetLocal().GetRecipients()) != 2 || m.GetRevision() == 0 || m.GetKeys() != 300 {
		t.Errorf("%v", m)
	}
	says(t, c.Do("snapshot", "show", "before"), "zstd 3, age for 2", key.public(), second.public())
	says(t, c.Do("snapshot", "ls"), "zstd 3, age for 2")
	opensWithoutRequorum(t, sealedCopy(c, "etcd-2", "before"), key)
	opensWithoutRequorum(t, sealedCopy(c, "etcd-3", "before"), second)
	bundlesSealed(t, c, "before")
	allSealed(t, c)

	id, _ := serving(t, c)
	for _, refused := range [][]string{
		{"restore", "--snapshot", "before", "--yes"},
		{"restore", "--snapshot", "before", "--plan"},
		{"restore", "--snapshot", "before", "--drill"},
		{"snapshot", "verify", "before"},
	} {
		says(t, c.Expect(3, refused...), key.public(), "no identity was given", "--identity FILE")
		says(t, c.Expect(3, append(refused, "--identity", other.file)...), second.public(), "none of the identities given")
	}
	untouched(t, c, id, saved)

	says(t, c.Do("snapshot", "verify", "before", "--identity", second.file), "can be restored", "300 keys")
	c.Do("restore", "--snapshot", "before", "--drill", "--identity", key.file)
	untouched(t, c, id, saved)

	t.Run("damage", func(t *testing.T) {
		c.On(t)
		must(t, flip(sealedCopy(c, "etcd-3", "before"), 1_000))
		says(t, c.Expect(3, "snapshot", "check", "before"), "etcd-3 different")
		c.Do("snapshot", "distribute", "before") // nobody has to open anything
		c.Do("snapshot", "check", "before")
		must(t, os.Remove(sealedCopy(c, "etcd-2", "before")))
		c.Do("snapshot", "repair", "before")
		c.Do("snapshot", "check", "before")
	})
	t.Run("export", func(t *testing.T) {
		c.On(t)
		dir := t.TempDir()
		c.Do("snapshot", "export", "before", "--file", filepath.Join(dir, "plain.db"), "--identity", key.file)
		status, err := snapshot.NewV3(zap.NewNop()).Status(filepath.Join(dir, "plain.db"))
		if err != nil || status.TotalKey == 0 || md5Of(t, filepath.Join(dir, "plain.db")) != m.GetMd5() {
			t.Errorf("%+v, %v", status, err)
		}
		says(t, c.Do("snapshot", "export", "before", "--file", filepath.Join(dir, "sealed.age")), "encrypted for", key.public())
		opensWithoutRequorum(t, filepath.Join(dir, "sealed.age"), key)
		c.Expect(1, "snapshot", "export", "before", "--file", filepath.Join(dir, "none.db"), "--identity", other.file)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("%v, %v", entries, err)
		}
	})
	t.Run("catalog", func(t *testing.T) {
		c.On(t)
		kill(t, c.Controller)
		loseCatalog(t, c)
		c.StartAgain("controller")
		c.Do("catalog", "rebuild")
		if found := show(t, c, "before"); len(found.GetCopies()) != 3 || found.GetManifest().GetLocal().GetSha256() != m.GetLocal().GetSha256() {
			t.Errorf("rebuilt as %v", found)
		}
		says(t, c.Do("snapshot", "save", "--name", "open", "--plain"), "open")
		if m := show(t, c, "open").GetManifest(); m.GetLocal() != nil {
			t.Errorf("%v", m)
		}
		c.Do("snapshot", "rm", "open", "--yes")
	})

	for _, n := range c.NodeNames() {
		f.write(n, "newer", "newer")
	}
	c.Write(50)
	must(t, flip(sealedCopy(c, "etcd-1", "before"), -500)) // found while it is staged, and replaced
	op := restore(t, c, "before", "--identity", key.file, "--files", "restore")
	holds(t, c, saved)
	for _, n := range c.NodeNames() {
		f.are(n, "secret of "+n, "newer")
	}
	if safety := show(t, c, op.GetSafetySnapshot()).GetManifest(); len(safety.GetLocal().GetRecipients()) != 2 {
		t.Errorf("the safety snapshot: %v", safety)
	}
	allSealed(t, c) // the one after the restore is as well
	keepsNoIdentity(t, c, key)
	nothingLeft(t, c)
	c.Write(10)
	restore(t, c, op.GetSafetySnapshot(), "--identity", second.file) // undoes it
	if len(c.Now().Diff(saved)) == 0 {
		t.Error("the safety snapshot is not of what was there before")
	}
	nothingOpened(t, c)
}

// Whoever dies while a sealed copy is made, staged or restored: it is carried on, or taken back where the identity is gone
// with the controller, and nothing is left in the clear.
func TestSealedCopiesSurviveDeaths(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	f := nodeFiles{t: t, dir: t.TempDir()}
	c := harness.Start(t, harness.Options{Configure: f.configure, Control: sealsFor(key)})
	c.Write(300)
	saved := c.Now()

	for _, n := range c.NodeNames() { // whichever saves
		c.Arm("agent/save-copy/middle", n, "kill")
	}
	c.Do("snapshot", "save", "--name", "before", "--files", "pki,token", "--detach")
	startTheDead(t, c)
	if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatal(format(op))
	}
	allSealed(t, c)
	c.Do("snapshot", "check", "before")
	for _, n := range c.NodeNames() {
		f.write(n, "newer", "newer")
	}
	c.Write(50)
	id, _ := serving(t, c)
	now := c.Now()

	t.Run("the controller, before the copies are opened", func(t *testing.T) {
		c.On(t)
		op := controllerDies(t, c, "controller/restore/stage/after-intent", "restore", "--snapshot", "before", "--identity", key.file, "--yes")
		if op.GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED || !strings.Contains(op.GetFailure().GetMessage(), "none of the identities") {
			t.Errorf("%s", format(op))
		}
		untouched(t, c, id, now)
	})
	t.Run("an agent, while it opens its copy", func(t *testing.T) {
		c.On(t)
		dies(t, c, "etcd-2", "agent/stage/middle", "restore", "--snapshot", "before", "--identity", key.file, "--yes")
		holds(t, c, saved)
		c.Write(50)
	})
	t.Run("the controller, once they were", func(t *testing.T) {
		c.On(t)
		op := controllerDies(t, c, "controller/restore/swap/after-intent", "restore", "--snapshot", "before", "--identity", key.file, "--files", "restore", "--yes")
		if op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			t.Fatal(format(op))
		}
		holds(t, c, saved)
		for _, n := range c.NodeNames() {
			f.are(n, "secret of "+n, "token of "+n)
		}
	})
	allSealed(t, c)
	keepsNoIdentity(t, c, key)
	nothingLeft(t, c)
}

// controllerDies starts an operation, kills the controller at a fault point, starts it again, and returns how it ended.
func controllerDies(t *testing.T, c *harness.Cluster, point string, command ...string) *requorumv1.Operation {
	t.Helper()
	c.Arm(point, "", "kill once")
	c.Do(append(command, "--detach")...)
	c.WaitFired(point, "")
	<-c.Process("controller").Done()
	c.Disarm()
	c.StartAgain("controller")
	return c.Settle()
}

// A schedule seals its snapshots, a remote takes them as they are, and they come back from there without a key; a remote
// that is for others is refused.
func TestSealedCopiesInRemotes(t *testing.T) {
	t.Parallel()
	b, stranger := newBucket(t), newKey(t)
	key := aKey{b.key, b.keyFile}
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) {
		b.configure(cc)
		cc.Remotes = append(cc.Remotes, remote.Config{Name: "theirs", Kind: "dir", Recipients: []string{stranger.public()}, Dir: remote.Dir{Path: t.TempDir()}})
	}})
	c.Write(200)
	saved := c.Now()
	apply(t, c, "name: nightly\ncluster: prod\nevery: 1h\npaused: true\nprefix: nightly\nlocalStorage: {last: 3, zstdLevel: 5, recipients: ["+key.public()+"]}\nremoteStorage: {remote: off-site}\n")
	says(t, c.Do("schedule", "get", "nightly", "-o", "yaml"), "zstdLevel: 5", key.public())
	c.Do("schedule", "trigger", "nightly")
	s := show(t, c, "latest")
	local, stored := s.GetManifest().GetLocal(), s.GetRemotes()[0].GetObject()
	if local.GetZstdLevel() != 5 || local.GetSha256() != stored.GetSha256() || stored.GetZstdLevel() != 5 || !strings.HasSuffix(stored.GetKey(), ".db.zst.age") {
		t.Errorf("on nodes %v, in the bucket %v", local, stored)
	}
	says(t, c.Expect(3, "snapshot", "upload", s.GetName(), "--remote", "theirs"), stranger.public(), key.public(), "nobody here can open them")
	says(t, c.Expect(3, "snapshot", "save", "--name", "x", "--encrypt-to", key.public(), "--remote", "theirs"), "nobody here can open them")

	for _, n := range c.NodeNames() {
		must(t, os.Remove(sealedCopy(c, n, s.GetName())))
	}
	c.Do("snapshot", "distribute", s.GetName()) // without a key: the bytes are the same
	c.Do("snapshot", "check", s.GetName())
	for _, n := range c.NodeNames() {
		must(t, os.Remove(sealedCopy(c, n, s.GetName())))
	}
	c.Write(20)
	restore(t, c, s.GetName(), "--identity", key.file)
	holds(t, c, saved)
	c.Do("snapshot", "upload", s.GetName(), "--remote", "nfs") // which has no recipients

	// Compressed only, it can be opened by anybody, and goes to any remote in its own way.
	packed := save(t, c, "packed", "--zstd-level", "1", "--remote", "off-site")
	if l := packed.GetManifest().GetLocal(); len(l.GetRecipients()) != 0 || l.GetSha256() == packed.GetRemotes()[0].GetObject().GetSha256() {
		t.Errorf("%v", packed)
	}
	c.Do("snapshot", "verify", "packed")
	for _, n := range c.NodeNames() {
		must(t, os.Remove(c.Copy(n, "packed")+".zst"))
	}
	c.Do("snapshot", "distribute", "packed", "--identity", key.file)
	c.Do("snapshot", "check", "packed")
	nothingLeft(t, c)
	keepsNoSecret(t, c, b)
}

// What comes from elsewhere is sealed as well, where the controller's configuration seals.
func TestWhatIsImportedIsSealed(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	shared := t.TempDir()
	var saved harness.State
	t.Run("save", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) {
			cc.Remotes = []remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: shared}}}
		}})
		c.Write(100)
		saved = c.Now()
		save(t, c, "before", "--remote", "nfs")
		c.Do("snapshot", "export", "before", "--file", filepath.Join(shared, "before.file"))
	})
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) {
		sealsFor(key)(cc)
		cc.Remotes = []remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: shared}}}
	}})
	c.Do("snapshot", "import", "--node", "etcd-1", "--path", filepath.Join(shared, "before.file"), "--name", "copied")
	says(t, c.Expect(3, "restore", "--from", "nfs:before", "--yes"), "no identity was given")
	c.Do("snapshot", "import", "--from", "nfs:before")
	allSealed(t, c)
	c.Write(10)
	restore(t, c, "before", "--identity", key.file)
	holds(t, c, saved)
	restore(t, c, "copied", "--identity", key.file, "--allow-version-mismatch")
	holds(t, c, saved)
	allSealed(t, c)
	nothingLeft(t, c)
}
