package e2e

import (
	"os"
	"path/filepath"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
)

// Encrypted files of a node that are damaged after preflight show while they are staged. They are told from a bad copy of the
// snapshot, and come from a remote; where none has them the restore says so and is taken back. What an earlier restore has left
// open, whose end the node has not seen, goes with the first of them.
func TestFilesThatAreDamagedBeforeTheyAreStaged(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	key := aKey{b.key, b.keyFile}
	f := nodeFiles{t: t, dir: t.TempDir()}
	c := harness.Start(t, harness.Options{Configure: f.configure, Control: func(cc *controller.Config) {
		sealsFor(key)(cc)
		b.configure(cc)
	}})
	c.Write(100)
	saved := c.Now()
	save(t, c, "alone", "--files", "pki")
	save(t, c, "stored", "--files", "pki", "--remote", "off-site")
	for _, n := range c.NodeNames() {
		f.write(n, "newer", "newer")
	}
	c.Write(50)
	id, _ := serving(t, c)
	now := c.Now()
	damaged := func(name string) *requorumv1.Operation {
		point := "agent/stage/before"
		c.Arm(point, "etcd-2", "hang")
		detached(t, c, name, "--identity", key.file, "--files", "restore")
		c.WaitFired(point, "etcd-2")
		must(t, flip(filepath.Join(c.Vault("etcd-2"), name+".files"), 100))
		c.Disarm()
		return c.Settle()
	}

	stray := filepath.Join(filepath.Dir(c.Vault("etcd-1")), "files", "01JB2M3N4P5Q6R7S8T9V0W1X2Y.files")
	must(t, os.MkdirAll(filepath.Dir(stray), 0o700))
	must(t, os.WriteFile(stray, []byte("keys"), 0o600))
	op := damaged("alone")
	says(t, harness.Result{Stderr: op.GetFailure().GetMessage() + "; " + op.GetFailure().GetAdvice()}, "alone.files", "restore without files (--files=none)")
	if op.GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED || op.GetFailure().GetNode() != "etcd-2" {
		t.Errorf("the restore: %s", format(op))
	}
	untouched(t, c, id, now)
	nothingOpened(t, c)

	if op := damaged("stored"); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the restore: %s", format(op))
	}
	holds(t, c, saved)
	for _, n := range c.NodeNames() {
		f.are(n, "secret of "+n, "newer")
	}
	nothingOpened(t, c)
	nothingLeft(t, c)
}
