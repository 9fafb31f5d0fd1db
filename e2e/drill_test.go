package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// A drill proves on one node that a snapshot can be restored. The cluster goes on serving what it serves, and nothing is
// left, also if the agent dies in the middle.
func TestDrill(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(400)
	c.Delete(50)
	save(t, c, "before")
	c.Write(100)
	id, _ := serving(t, c)
	now := c.Now()

	says(t, c.Do("snapshot", "ls"), "never")
	says(t, c.Do("snapshot", "verify", "before", "--node", "etcd-2"), "before of prod can be restored: etcd-2 did so and read all 350 keys")
	s := show(t, c, "before")
	if v := s.GetVerified(); v.GetNode() != "etcd-2" || v.GetTook().AsDuration() <= 0 || s.GetFailedVerification() != nil || len(s.GetCopies()) != 3 {
		t.Errorf("the catalog says %v", s)
	}
	says(t, c.Do("snapshot", "ls"), "on etcd-2")
	untouched(t, c, id, now)

	t.Run("the agent is killed in the middle", func(t *testing.T) {
		c.On(t)
		c.Arm("agent/drill-copy/middle", "etcd-1", "kill once")
		var started requorumv1.VerifySnapshotResponse
		if r := c.JSON(&started, "snapshot", "verify", "before", "--node", "etcd-1", "--detach"); r.Code != 0 {
			t.Fatal(r)
		}
		c.WaitFired("agent/drill-copy/middle", "etcd-1")
		<-c.Process("etcd-1").Done()
		c.StartAgain("etcd-1")
		c.Disarm()
		if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED || op.GetKind() != requorumv1.OperationKind_OPERATION_KIND_VERIFY {
			t.Errorf("the drill: %s", format(op))
		}
		untouched(t, c, id, now)
	})
	t.Run("the agent is killed while etcd runs on the scratch directory", func(t *testing.T) {
		c.On(t)
		socket := filepath.Join(c.Vault("etcd-1"), ".requorum-drill", "client.sock")
		caught := false
		for try := 0; try < 5 && !caught; try++ { // a drill of so little data may be over before anybody looks
			var started requorumv1.VerifySnapshotResponse
			if r := c.JSON(&started, "snapshot", "verify", "before", "--node", "etcd-1", "--detach"); r.Code != 0 {
				t.Fatal(r)
			}
			over := func() bool { return c.Operations()[0].GetEnded() != nil }
			must(t, c.Until("the drill does not begin", func() bool {
				_, err := os.Lstat(socket)
				caught = err == nil
				return caught || over()
			}))
			if caught {
				must(t, c.Process("etcd-1").Kill())
				c.StartAgain("etcd-1")
			}
			if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
				t.Errorf("the drill: %s", format(op))
			}
		}
		if !caught {
			t.Error("no drill was seen: this test proves nothing")
		}
		untouched(t, c, id, now)
	})
	t.Run("cancelled", func(t *testing.T) {
		c.On(t)
		c.Arm("agent/drill-copy/middle", "etcd-1", "hang once")
		var started requorumv1.VerifySnapshotResponse
		if r := c.JSON(&started, "snapshot", "verify", "before", "--node", "etcd-1", "--detach"); r.Code != 0 {
			t.Fatal(r)
		}
		c.WaitFired("agent/drill-copy/middle", "etcd-1")
		c.Do("operation", "cancel", started.GetOperation().GetId())
		if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED {
			t.Errorf("the drill: %s", format(op))
		}
		c.Disarm()
		untouched(t, c, id, now)
	})
	t.Run("the file is damaged", func(t *testing.T) {
		c.On(t)
		newFlips(t).inValue(t, c.Copy("etcd-3", "before"))
		r := c.Expect(4, "snapshot", "verify", "before", "--node", "etcd-3")
		says(t, r, "etcd-3", "different")
		s := show(t, c, "before")
		if s.GetFailedVerification().GetNode() != "etcd-3" || s.GetVerified().GetNode() != "etcd-1" {
			t.Errorf("the catalog says %v", s)
		}
		says(t, c.Do("snapshot", "ls"), "FAILED", "2 of 3 good")
		c.Do("snapshot", "verify", "before", "--node", "etcd-2")
		if r := c.Do("snapshot", "ls"); strings.Contains(r.Stdout, "FAILED") {
			t.Errorf("a drill that succeeded later does not count\n%s", r)
		}
		untouched(t, c, id, now)
	})
}

// A rehearsal is a restore up to staging, of which nothing is left.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	save(t, c, "before")
	c.Write(100)
	id, _ := serving(t, c)
	now := c.Now()
	must(t, os.Remove(c.Copy("etcd-3", "before")))
	r := c.Do("restore", "--snapshot", "before", "--drill")
	says(t, r, "prod could be restored from before", "preflight", "distribute", "agree", "stage", "unstage", "keep clients from writing for about")
	if op := c.Settle(); op.GetKind() != requorumv1.OperationKind_OPERATION_KIND_REHEARSE || op.GetEstimatedUnavailability().AsDuration() <= 0 || op.GetUnavailability() != nil {
		t.Errorf("the rehearsal: %s", format(op))
	}
	untouched(t, c, id, now)

	c.Arm("agent/stage/after", "etcd-2", "error once it is full")
	says(t, c.Expect(4, "restore", "--snapshot", "before", "--drill"), "etcd-2", "it is full")
	untouched(t, c, id, now)
	saved := filepath.Base(c.Copy("etcd-3", "before"))
	if _, err := os.Stat(c.Copy("etcd-3", "before")); err != nil {
		t.Errorf("the rehearsal did not give etcd-3 a copy of %s: %v", saved, err)
	}
}
