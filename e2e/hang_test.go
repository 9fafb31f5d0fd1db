package e2e

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
)

const stallSoon = 6 * time.Second // a member that starts on a machine under load makes progress more often than that

// A task that hangs for ever in a step in which etcd is down is given up, and the restore is taken back without anybody's
// help. When it is said to be reverted, the old cluster serves.
func TestTaskHangsForEver(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) { cc.StalledAfter = config.Duration(stallSoon) }})
	c.Write(100)
	save(t, c, "before")
	c.Write(50)
	id, _ := serving(t, c)
	now := c.Now()
	for _, step := range []string{"stop", "swap", "start", "verify"} {
		t.Run(step, func(t *testing.T) {
			point := "agent/" + step + "/before"
			c.Arm(point, "etcd-2", "hang once")
			r := c.Expect(4, "restore", "--snapshot", "before", "--yes")
			says(t, r, "etcd-2", "no progress for")
			op := c.Settle()
			if op.GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED || op.GetFailure().GetStep() != step || op.GetFailure().GetNode() != "etcd-2" {
				t.Errorf("the restore: %s", format(op))
			}
			holdsAtOnce(t, c, now)
			if !c.Fired(point, "etcd-2") {
				t.Errorf("%s was not passed", point)
			}
			untouched(t, c, id, now)
		})
	}
}

// holdsAtOnce makes sure, without waiting, that a quorum serves the data.
func holdsAtOnce(t *testing.T, c *harness.Cluster, want harness.State) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, node := range c.NodeNames() {
		resp, err := c.Client(node).Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || resp.Count != int64(len(want)) {
			t.Errorf("the restore is said to be reverted, and %s has %v, %v", node, resp, err)
		}
	}
}
