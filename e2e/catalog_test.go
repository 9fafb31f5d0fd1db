package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
)

// A copy that disappears from a node is noticed without anybody asking, and repaired. A catalog that was lost is rebuilt
// from what the nodes hold, and what was rebuilt can be restored.
func TestLostCopyAndLostCatalog(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) { cc.ReconcileEvery = config.Duration(time.Second) }})
	c.Write(200)
	saved := c.Now()
	save(t, c, "whole", "--label", "why=upgrade")
	if one := save(t, c, "one", "--copies", "one", "--ttl", "1h"); len(one.GetCopies()) != 1 {
		t.Errorf("one copy was asked for: %v", one.GetCopies())
	}
	if err := os.Remove(c.Copy("etcd-2", "whole")); err != nil {
		t.Fatal(err)
	}
	noticed := func() bool {
		return show(t, c, "whole").GetCopies()[1].GetState() == requorumv1.CopyState_COPY_STATE_MISSING
	}
	if err := c.Until("nobody noticed that a copy has disappeared", noticed); err != nil {
		t.Fatal(err)
	}
	says(t, c.Do("cluster", "status"), "copies are missing or bad of whole: requorum snapshot repair whole")
	c.Do("snapshot", "repair", "whole")
	c.Do("snapshot", "check", "whole")
	c.Do("snapshot", "check", "one")

	kill(t, c.Controller)
	loseCatalog(t, c)
	c.StartAgain("controller")
	if left := catalogNames(t, c); len(left) > 0 {
		t.Fatalf("the catalog still holds %v", left)
	}
	var orphans requorumv1.ListOrphansResponse
	if r := c.JSON(&orphans, "snapshot", "orphans"); r.Code != 0 || len(orphans.GetOrphans()) != 4 {
		t.Errorf("4 copies are orphans\n%s", r)
	}
	c.Do("catalog", "rebuild")
	if got := strings.Join(catalogNames(t, c), " "); got != "one whole" {
		t.Errorf("rebuilt: %s", got)
	}
	whole, one := show(t, c, "whole"), show(t, c, "one")
	if len(whole.GetCopies()) != 3 || whole.GetManifest().GetLabels()["why"] != "upgrade" || len(one.GetCopies()) != 1 || one.GetExpires() == nil {
		t.Errorf("rebuilt as %v and %v", whole, one)
	}
	says(t, c.Do("snapshot", "orphans"), "WHERE")
	c.Write(100)
	restore(t, c, "one") // which two of the nodes do not hold
	holds(t, c, saved)
	nothingLeft(t, c)
}

// loseCatalog removes every snapshot from the store of a controller that does not run.
func loseCatalog(t *testing.T, c *harness.Cluster) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(c.Dir, "controller", "requorum.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx store.Tx) error {
		var keys []string
		if err := tx.Each(store.Snapshots, "", func(k string, _ []byte) error { keys = append(keys, k); return nil }); err != nil {
			return err
		}
		for _, k := range keys {
			if err := tx.Delete(store.Snapshots, k); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}
