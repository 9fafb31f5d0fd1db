package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/e2e/harness"
)

// A member that does not vote does not vote after the restore either, and has the restored data.
func TestLearnerJoinsTheRestoredClusterAgain(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	makeLearner(t, c, "etcd-3")
	saved := c.Now("etcd-1")
	save(t, c, "before")
	c.Write(50)

	restore(t, c, "before")
	learner := waitForLearner(t, c, "etcd-3")
	if learner.Name != "etcd-3" {
		t.Errorf("the learner is %q", learner.Name)
	}
	if diff := c.Now("etcd-1", "etcd-2").Diff(saved); diff != "" {
		t.Errorf("after the restore: %s", diff)
	}
	promote(t, c, learner.ID) // etcd takes a learner for a voter only once it has all of the data
	if diff := c.Now("etcd-3").Diff(saved); diff != "" {
		t.Errorf("on the member that was a learner: %s", diff)
	}
}

// makeLearner takes a member out of the cluster and adds it again, empty, as a learner.
func makeLearner(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	node := c.Node(name)
	if err := errors.Join(node.Agent.Stop(), node.StopEtcd()); err != nil {
		t.Fatal(err)
	}
	cli := c.Client("etcd-1")
	eventually(t, "the member leaves and joins as a learner", func(ctx context.Context) error {
		list, err := cli.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.Name == name {
				if _, err := cli.MemberRemove(ctx, m.ID); err != nil {
					return err
				}
			}
		}
		_, err = cli.MemberAddAsLearner(ctx, []string{node.PeerURL})
		return err
	})
	if err := os.RemoveAll(node.DataDir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(node.Agent.Dir, "agent.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	joining := strings.Replace(string(text), "--log-level=warn\n", "--log-level=warn\n            - --initial-cluster-state=existing\n", 1)
	if joining == string(text) {
		t.Fatalf("etcd's arguments are not where they were:\n%s", text)
	}
	if err := os.WriteFile(file, []byte(joining), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := node.Agent.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLearner(t, c, name)
	eventually(t, "the learner's agent is connected", func(ctx context.Context) error { return c.WaitServing(ctx) })
}

// learner is a member that does not vote.
type learner struct {
	ID   uint64
	Name string
}

// waitForLearner waits until a learner of that name is a started member.
func waitForLearner(t *testing.T, c *harness.Cluster, name string) (found learner) {
	t.Helper()
	eventually(t, name+" is a learner", func(ctx context.Context) error {
		list, err := c.Client("etcd-1").MemberList(ctx, clientv3.WithSerializable())
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.IsLearner && m.Name == name {
				found = learner{m.ID, m.Name}
				return nil
			}
		}
		return fmt.Errorf("no such learner among %v", list.Members)
	})
	return found
}

func promote(t *testing.T, c *harness.Cluster, id uint64) {
	t.Helper()
	eventually(t, "the learner is promoted", func(ctx context.Context) error {
		_, err := c.Client("etcd-1").MemberPromote(ctx, id)
		return err
	})
}

// eventually tries until there is no error, for a minute at most.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}
