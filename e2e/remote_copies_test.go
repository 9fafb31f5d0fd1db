package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/objectstore/dir"
	"github.com/requorum/requorum/internal/s3test"
)

// What disappears from a bucket is noticed, and an outage is not taken for it. Orphans are listed and stay.
func TestRemoteCopiesThatAreLost(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) {
		b.configure(cc)
		cc.ReconcileEvery = config.Duration(time.Second)
	}})
	c.Write(200)
	save(t, c, "kept", "--remote", "off-site")
	stored := func(state requorumv1.CopyState) {
		t.Helper()
		must(t, c.Until("the copy in the bucket is not "+state.String(), func() bool {
			return show(t, c, "kept").GetRemotes()[0].GetState() == state
		}))
	}

	must(t, os.WriteFile(filepath.Join(b.server.Dir, "backups", "etcd", harness.Name, "half-12345678.db"), []byte("half"), 0o600))
	says(t, c.Do("snapshot", "orphans"), "remote off-site", "half-12345678.db")

	b.giveKeys(t, "wrong")
	must(t, c.Until("nobody says that the bucket is out of reach", func() bool {
		return strings.Contains(c.Do("cluster", "status").Stdout, "remote off-site could not be looked into")
	}))
	stored(requorumv1.CopyState_COPY_STATE_GOOD)
	b.giveKeys(t, s3test.SecretKey)

	for _, key := range b.objects(t) {
		if strings.Contains(key, "kept-") {
			must(t, os.Remove(filepath.Join(b.server.Dir, "backups", key)))
		}
	}
	stored(requorumv1.CopyState_COPY_STATE_MISSING)
	says(t, c.Do("snapshot", "ls"), "off-site (missing)")
	says(t, c.Do("cluster", "status"), "requorum snapshot repair kept")

	c.Do("snapshot", "repair", "kept")
	stored(requorumv1.CopyState_COPY_STATE_GOOD)
	if objects := b.objects(t); len(objects) != 3 { // with the orphan
		t.Errorf("in the bucket: %v", objects)
	}
	for _, n := range c.NodeNames() {
		must(t, os.Remove(c.Copy(n, "kept")))
	}
	c.Do("snapshot", "repair", "kept", "--identity", b.keyFile)
	c.Do("snapshot", "check", "kept")
	nothingLeft(t, c)
}

// A directory that is not mounted looks like an empty one. It is told from one, nothing is lost by it, and nothing is written there.
func TestADirectoryThatIsNotMounted(t *testing.T) {
	t.Parallel()
	mount := filepath.Join(t.TempDir(), "mount")
	must(t, os.Mkdir(mount, 0o700))
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) {
		cc.Remotes = []remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: mount}}}
		cc.ReconcileEvery = config.Duration(time.Second)
	}})
	c.Write(200)
	save(t, c, "kept", "--remote", "nfs")
	state := func() requorumv1.CopyState { return show(t, c, "kept").GetRemotes()[0].GetState() }

	must(t, os.Rename(mount, mount+".away"))
	must(t, os.Mkdir(mount, 0o700))
	must(t, c.Until("nobody says that the directory is not mounted", func() bool {
		told := c.Do("cluster", "status").Stdout
		return strings.Contains(told, "remote nfs could not be looked into") && strings.Contains(told, "it is not mounted, or is another directory")
	}))
	r := c.Expect(3, "snapshot", "save", "--name", "refused", "--remote", "nfs")
	says(t, r, "etcd-", "it is not mounted", "mount it on that node", "echo ", filepath.Join(mount, dir.MarkerFile))
	c.Expect(3, "remote", "snapshots", "nfs")
	if got := state(); got != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("the copy in a directory that is not mounted is %v", got)
	}
	if entries, err := os.ReadDir(mount); err != nil || len(entries) != 0 {
		t.Errorf("in the mount point: %v, %v", entries, err)
	}

	must(t, os.Remove(mount))
	must(t, os.Rename(mount+".away", mount))
	save(t, c, "more", "--remote", "nfs")
	says(t, c.Do("remote", "snapshots", "nfs"), "kept", "more")
	must(t, c.Until("the directory is still said to be away", func() bool {
		return !strings.Contains(c.Do("cluster", "status").Stdout, "could not be looked into")
	}))
	if orphans := c.Do("snapshot", "orphans").Stdout; strings.Contains(orphans, dir.MarkerFile) {
		t.Errorf("an orphan: %s", orphans)
	}
	nothingLeft(t, c)

	// An empty directory that a person has given the marker is the remote, which has lost its copies then.
	marker, err := os.ReadFile(filepath.Join(mount, dir.MarkerFile))
	must(t, err)
	must(t, os.Rename(mount, mount+".away"))
	must(t, os.Mkdir(mount, 0o700))
	must(t, os.WriteFile(filepath.Join(mount, dir.MarkerFile), marker, 0o600))
	must(t, c.Until("the copy in a remote that began anew is not missing", func() bool {
		return state() == requorumv1.CopyState_COPY_STATE_MISSING
	}))
}

// A controller and nodes that have lost everything know again what a bucket holds, once they were told to look.
func TestACatalogIsRebuiltFromABucket(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	var saved harness.State
	t.Run("save", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Control: b.configure})
		c.Write(200)
		saved = c.Now()
		save(t, c, "one", "--remote", "off-site", "--label", "why=upgrade")
		c.Write(50)
		save(t, c, "two", "--remote", "off-site")
	})
	t.Run("rebuild", func(t *testing.T) {
		c := harness.Start(t, harness.Options{Control: b.configure})
		c.Write(50) // of the new cluster, to be gone
		save(t, c, "two")
		says(t, c.Do("catalog", "rebuild", "--from", "off-site", "--dry-run"), "one", "two: the catalog has another snapshot")
		if got := strings.Join(catalogNames(t, c), " "); got != "two" {
			t.Errorf("after a dry run the catalog has %s", got)
		}
		for range 2 {
			says(t, c.Do("catalog", "rebuild", "--from", "off-site"), "two: the catalog has another snapshot")
			one, two := show(t, c, "one"), show(t, c, "two")
			if len(one.GetCopies()) != 0 || len(one.GetRemotes()) != 1 || one.GetManifest().GetLabels()["why"] != "upgrade" || len(two.GetRemotes()) != 0 || len(two.GetCopies()) != 3 {
				t.Fatalf("rebuilt as %v and %v", one, two)
			}
		}
		r := c.CLI("restore", "--snapshot", "one", "--identity", b.keyFile, "--yes")
		if r.Code != 0 {
			t.Fatal(r)
		}
		holds(t, c, saved)
		nothingLeft(t, c)
	})
}

// A removal in the bucket that takes effect while its agent dies, and stays away until nobody waits for its answer, is ended by
// retention.
func TestARemovalWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	c := harness.Start(t, harness.Options{Control: b.configure, Patience: 3 * time.Minute})
	c.Write(200)
	apply(t, c, "name: frequent\ncluster: prod\nevery: 1000h\nlocalStorage: {last: 1}\nremoteStorage: {remote: off-site, last: 2}\n")
	must(t, c.Until("the first run does not succeed", func() bool {
		return runs(t, c)[0].GetResult() == requorumv1.RunResult_RUN_RESULT_SUCCEEDED
	}))
	first := catalogNames(t, c)[0]
	c.Do("schedule", "trigger", "frequent")
	must(t, c.Until("the nodes keep the first", func() bool { return len(show(t, c, first).GetCopies()) == 0 }))
	point := "agent/drop-remote/after"
	c.Arm(point, "", "kill once")
	c.CLI("schedule", "trigger", "frequent")
	must(t, c.Until("the removal does not break off", func() bool {
		return slices.ContainsFunc(c.Operations(), func(op *requorumv1.Operation) bool {
			return op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_DELETE && op.GetState() == requorumv1.OperationState_OPERATION_STATE_REVERTED
		})
	}))
	if left := b.objects(t); len(left) != 4 || strings.Contains(strings.Join(left, " "), first) {
		t.Fatalf("in the bucket: %v", left)
	}
	if s := show(t, c, first); s.GetRemotes()[0].GetState() != requorumv1.CopyState_COPY_STATE_MISSING {
		t.Fatalf("%v", s)
	}
	startTheDead(t, c)
	if err := c.Until("the entry stays", func() bool { return !slices.Contains(catalogNames(t, c), first) }); err != nil {
		t.Fatalf("%v: %v\n%s", err, show(t, c, first), c.Do("snapshot", "prune", "--dry-run"))
	}
	if names, left := catalogNames(t, c), b.objects(t); len(names) != 2 || len(left) != 4 {
		t.Errorf("the catalog has %v, the bucket %v", names, left)
	}
	nothingLeft(t, c)
}
