package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/pki"
)

// A cluster is restored without a node that is gone. When the node comes back with its old data, it is kept out until a
// restore gives it the cluster's data. Once it is removed, its certificate opens nothing any more.
func TestLeftOutNodeComesBack(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	save(t, c, "before")
	saved := c.Now()
	must(t, c.Process("etcd-3").Kill())
	c.KillEtcd("etcd-3")
	c.Write(200)
	rest := []string{"etcd-1", "etcd-2"}
	later := stands(t, c, rest...)
	waitNode(t, c, "etcd-3", "is away", func(n *requorumv1.Node) bool { return !n.GetConnected() })

	refused(t, c, 3, []string{"restore", "--snapshot", "before", "--yes"}, "etcd-3", "not connected", "--nodes etcd-1,etcd-2")
	refused(t, c, 3, []string{"restore", "--snapshot", "before", "--nodes", "etcd-1,etcd-4", "--yes"}, "etcd-4", "it has etcd-1, etcd-2, etcd-3")
	later.same(t, c)

	restore(t, c, "before", "--nodes", "etcd-1,etcd-2")
	holds(t, c, saved, rest...)
	if members := memberNames(t, c, "etcd-1"); members != "etcd-1 etcd-2" {
		t.Errorf("the restored cluster has the members %s", members)
	}
	c.Write(10)
	restored := stands(t, c, rest...)

	must(t, c.Process("etcd-3").Start())
	keptOut(t, c, "etcd-3")
	must(t, c.Process("etcd-3").Kill())
	waitNode(t, c, "etcd-3", "is away", func(n *requorumv1.Node) bool { return !n.GetConnected() })
	must(t, c.Process("etcd-3").Start())
	neverRuns(t, c, "etcd-3")
	keptOut(t, c, "etcd-3")
	restored.same(t, c)

	restore(t, c, "before")
	holds(t, c, saved)
	if members := memberNames(t, c, "etcd-3"); members != "etcd-1 etcd-2 etcd-3" {
		t.Errorf("the restored cluster has the members %s", members)
	}
	if n := nodes(t, c)["etcd-3"]; n.GetFenced() || n.GetGeneration() != 2 {
		t.Errorf("after the restore the node is %v", n)
	}
	restartAgent(t, c, "etcd-3")
	holds(t, c, saved)
	nothingLeft(t, c)

	removed(t, c, "etcd-3")
}

// keptOut waits until a node is fenced and its etcd is stopped, and makes sure that it stays so and that people are told. An agent that is told
// by the controller that its node has missed a restore may have begun to start etcd just before: it counts as stopped once it is not
// wanted any more either.
func keptOut(t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	waitNode(t, c, node, "is fenced and wants no etcd", func(n *requorumv1.Node) bool {
		return n.GetConnected() && n.GetFenced() && n.GetMember().GetError() == "etcd does not run"
	})
	within(t, "etcd of "+node+" does not stop", func() error {
		if c.EtcdRuns(node) {
			return errRuns
		}
		return nil
	})
	neverRuns(t, c, node)
	r := c.Do("cluster", "status")
	says(t, r, node+": it missed a restore and keeps etcd stopped; include it in the next restore", "fenced")
}

type runsError struct{}

func (runsError) Error() string { return "it runs" }

var errRuns = runsError{}

// neverRuns looks for a while, longer than the agent takes between two looks, whether a node's etcd runs.
func neverRuns(t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); <-ticker.C {
		if c.EtcdRuns(node) {
			t.Fatalf("etcd of %s runs although the node is fenced", node)
		}
	}
}

func memberNames(t *testing.T, c *harness.Cluster, node string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	resp, err := c.Client(node).MemberList(ctx)
	must(t, err)
	names := make(map[string]bool)
	for _, m := range resp.Members {
		names[m.Name] = true
	}
	var found []string
	for _, name := range c.NodeNames() {
		if names[name] {
			found = append(found, name)
		}
	}
	if len(found) != len(resp.Members) {
		t.Errorf("unknown members: %v", resp.Members)
	}
	return strings.Join(found, " ")
}

// removed removes a node and makes sure that its certificate was good and is not any more.
func removed(t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	creds, err := pki.LoadBundle(c.Node(node).AgentDir + "/credentials")
	must(t, err)
	if code := callAsNode(t, c, creds); code == codes.Unauthenticated || code == codes.PermissionDenied {
		t.Fatalf("the certificate of %s is refused with %s before the node is removed", node, code)
	}
	c.Do("cluster", "remove-node", harness.Name, node)
	if code := callAsNode(t, c, creds); code != codes.Unauthenticated {
		t.Errorf("a call with the certificate of the removed node ends with %s, want %s", code, codes.Unauthenticated)
	}
	if n := nodes(t, c)[node]; n != nil {
		t.Errorf("the removed node is still there: %v", n)
	}
	refused(t, c, 3, []string{"restore", "--snapshot", "before", "--nodes", node, "--yes"}, node, "it has etcd-1, etcd-2")
	if !c.EtcdRuns(node) {
		t.Error("etcd of the removed node was stopped")
	}
}

// callAsNode makes a call that every node may make, and returns how it was answered.
func callAsNode(t *testing.T, c *harness.Cluster, creds *pki.Credentials) codes.Code {
	t.Helper()
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	_, err = agentv1.NewSessionServiceClient(conn).Heartbeat(ctx, &agentv1.HeartbeatRequest{SessionId: "none"})
	return status.Code(err)
}

// Nodes that could go on as the old cluster are left out only if somebody says that they are destroyed. If they were
// not, they are kept out all the same.
func TestQuorumLeftOut(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	save(t, c, "before")
	saved := c.Now()
	c.Write(100)
	was := stands(t, c)

	command := []string{"restore", "--snapshot", "before", "--nodes", "etcd-1", "--yes"}
	refused(t, c, 3, command, "2 of the old cluster's 3 voting members are left out: etcd-2, etcd-3", "--left-out-destroyed")
	refused(t, c, 3, append(command, "--plan"), "etcd-2, etcd-3", "--left-out-destroyed")
	refused(t, c, 3, append(command, "--left-out-destroyed"), "its member serves, so it is not destroyed")
	was.same(t, c)
	nothingLeft(t, c)

	gone := []string{"etcd-2", "etcd-3"}
	for _, node := range gone {
		must(t, c.Process(node).Kill())
		c.KillEtcd(node)
	}
	eventually(t, "the two are gone", func(ctx context.Context) error {
		if r := c.CLI(append(command, "--left-out-destroyed", "--plan")...); r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return ctx.Err()
	})
	restore(t, c, "before", "--nodes", "etcd-1", "--left-out-destroyed")
	holds(t, c, saved, "etcd-1")
	for _, node := range gone { // not destroyed after all
		must(t, c.Process(node).Start())
	}
	keptOut(t, c, "etcd-2")
	keptOut(t, c, "etcd-3")
	c.Write(1)

	restore(t, c, "before")
	holds(t, c, saved)
	nothingLeft(t, c)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
