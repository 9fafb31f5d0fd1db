package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
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
