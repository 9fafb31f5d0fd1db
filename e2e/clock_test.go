package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/pki"
)

// wrongClocks are the clocks that jump, and by how much.
var wrongClocks = []struct {
	of   string
	skew time.Duration
}{
	{"controller", time.Hour}, {"controller", -time.Hour}, {"etcd-2", time.Hour}, {"etcd-2", -time.Hour},
}

// A clock that jumps ends nothing: sessions, operations and certificates outlive it, and what is newer stays newer.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	save(t, c, "before")
	for i, wrong := range wrongClocks {
		t.Run(fmt.Sprintf("%s by %s", wrong.of, wrong.skew), func(t *testing.T) {
			jumpsInARestore(t, c, wrong.of, wrong.skew)
			holds(t, c, saved)
			jumpsAtRest(t, c, wrong.of, wrong.skew, fmt.Sprintf("wrong-%d", i))
			holds(t, c, saved)
			nothingLeft(t, c)
		})
	}
	expiresByTheControllersClock(t, c)
}

// jumpsInARestore lets the clock jump while etcd is down everywhere, and leaves it wrong.
func jumpsInARestore(t *testing.T, c *harness.Cluster, of string, skew time.Duration) {
	t.Helper()
	c.Write(50)
	c.Arm("agent/start/before", "etcd-2", "hang once")
	id := detached(t, c, "before")
	c.WaitFired("agent/start/before", "etcd-2")
	c.SetClock(of, skew)
	must(t, c.Faults.Forget("agent/start/before", "etcd-2"))
	op := c.Settle()
	if op.GetId() != id || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the restore: %s", format(op))
	}
	if down := op.GetUnavailability(); down != nil && down.AsDuration() <= 0 {
		t.Errorf("etcd was down for %s", down.AsDuration())
	}
	if len(op.GetQuarantines()) != len(c.Nodes) {
		t.Errorf("old data is kept on %d nodes", len(op.GetQuarantines()))
	}
}

// jumpsAtRest works with a clock that is wrong, from before a start of its process and from after it, and puts it right.
func jumpsAtRest(t *testing.T, c *harness.Cluster, of string, skew time.Duration, name string) {
	t.Helper()
	c.SetClock(of, 0)
	sessions := ended(t, c)
	c.SetClock(of, skew)
	save(t, c, name)
	if now := ended(t, c); now != sessions {
		t.Errorf("%d sessions ended as the clock jumped", now-sessions)
	}
	if latest := show(t, c, "latest").GetName(); latest != name {
		t.Errorf("the latest snapshot is %s, the one that was taken last is %s", latest, name)
	}
	says(t, c.Do("restore", "--snapshot", "latest", "--plan"), name)
	must(t, c.Process(of).Kill())
	c.StartAgain(of)
	gathered(t, c)
	oldDataIsKept(t, c)
	creds := newNode(t, c, "etcd-9")
	c.SetClock(of, 0)
	if code := callAsNode(t, c, creds); code == codes.Unavailable || code == codes.Unauthenticated {
		t.Errorf("a certificate that was issued while the clock was wrong is refused with %s", code)
	}
	c.Do("cluster", "remove-node", harness.Name, "etcd-9")
	for _, node := range c.NodeNames() { // each sees a certificate that was made while the clock was wrong
		must(t, c.Process(node).Kill())
		c.StartAgain(node)
	}
	gathered(t, c)
}

// ended counts the sessions that the controller says have ended.
func ended(t *testing.T, c *harness.Cluster) int {
	t.Helper()
	log, err := os.ReadFile(c.Controller.Log())
	must(t, err)
	return strings.Count(string(log), "session ended")
}

// gathered waits until every node has a session and its member serves.
func gathered(t *testing.T, c *harness.Cluster) {
	t.Helper()
	eventually(t, "all nodes are back", func(ctx context.Context) error { return c.WaitServing(ctx) })
}

// oldDataIsKept makes sure that the old data of every restore is still there.
func oldDataIsKept(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, op := range c.Operations() {
		for _, q := range op.GetQuarantines() {
			for _, path := range q.GetPaths() {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("old data of %s, which is kept for 72 h: %v", q.GetNode(), err)
				}
			}
		}
	}
}

// newNode enrols a node that has no agent, and returns its credentials.
func newNode(t *testing.T, c *harness.Cluster, node string) *pki.Credentials {
	t.Helper()
	creds, err := enrol(t, c, node, strings.TrimSpace(c.Do("token", "create", "--cluster", harness.Name).Stdout))
	must(t, err)
	return creds
}

func enrol(t *testing.T, c *harness.Cluster, node, token string) (*pki.Credentials, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	return enroll.Ensure(ctx, enroll.Options{Dir: t.TempDir(), ControllerAddress: c.Address, Token: token, Node: node, Log: hclog.NewNullLogger()})
}

// expiresByTheControllersClock makes sure that a join token is good for its time by the clock that gave it.
func expiresByTheControllersClock(t *testing.T, c *harness.Cluster) {
	t.Helper()
	token := strings.TrimSpace(c.Do("token", "create", "--cluster", harness.Name, "--ttl", "30m").Stdout)
	c.SetClock("controller", time.Hour)
	if _, err := enrol(t, c, "etcd-9", token); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("a token that ended half an hour ago by the controller's clock: %v", err)
	}
	c.SetClock("controller", -time.Hour)
	_, err := enrol(t, c, "etcd-9", token)
	must(t, err)
	c.SetClock("controller", 0)
	c.Do("cluster", "remove-node", harness.Name, "etcd-9")
}
