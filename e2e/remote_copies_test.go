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
