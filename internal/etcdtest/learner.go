package etcdtest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// Join adds a learner to the cluster and starts it without waiting for more than its first answers: a learner
// is never ready in etcd's own sense of taking part in a quorum. It is stopped when the test ends. The
// cluster's other methods do not know it.
func Join(t testing.TB, c *Cluster) *Member {
	t.Helper()
	ports := freePorts(t, 2)
	m := &Member{
		Name: "learner", DataDir: filepath.Join(t.TempDir(), "etcd"),
		ClientURL: fmt.Sprintf("http://127.0.0.1:%d", ports[0]),
		PeerURL:   fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	if _, err := c.Client(t).MemberAddAsLearner(ctx, []string{m.PeerURL}); err != nil {
		t.Fatalf("add learner: %v", err)
	}
	m.cfg = c.config(m, Options{})
	m.cfg.InitialCluster += "," + m.Name + "=" + m.PeerURL
	m.cfg.ClusterState = embed.ClusterStateFlagExisting
	t.Cleanup(m.stop)
	if err := c.start(m); err != nil {
		t.Fatalf("start learner: %v", err)
	}
	return m
}
