package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
)

// standing is all that a command which is refused must leave as it is.
type standing struct {
	id        uint64
	revision  int64
	hash      uint32 // HashKV at the revision, the same on every member
	data      harness.State
	snapshots []string // name and copies of the good ones
	nodes     []string // the members that were looked at
}

// stands tells how the nodes' members, all if none is named, and the snapshots are.
func stands(t *testing.T, c *harness.Cluster, nodes ...string) standing {
	t.Helper()
	if len(nodes) == 0 {
		nodes = c.NodeNames()
	}
	s := standing{nodes: nodes, snapshots: goodSnapshots(t, c)}
	s.id, s.revision = serving(t, c, nodes...)
	s.data = c.Now(nodes...)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	h, err := c.Client(nodes[0]).HashKV(ctx, c.Endpoint(nodes[0]), s.revision)
	if err != nil {
		t.Fatal(err)
	}
	s.hash = h.Hash
	return s
}

// same makes sure that nothing has changed since.
func (s standing) same(t *testing.T, c *harness.Cluster) {
	t.Helper()
	now := stands(t, c, s.nodes...)
	if now.id != s.id || now.revision != s.revision || now.hash != s.hash {
		t.Errorf("cluster %x at revision %d with HashKV %d has become cluster %x at revision %d with HashKV %d",
			s.id, s.revision, s.hash, now.id, now.revision, now.hash)
	}
	if diff := now.data.Diff(s.data); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(now.snapshots, s.snapshots) {
		t.Errorf("the good snapshots were\n%s\nand are\n%s", strings.Join(s.snapshots, "\n"), strings.Join(now.snapshots, "\n"))
	}
}

// goodSnapshots lists the READY snapshots with their copies, as the catalog has them and as they lie on the nodes.
func goodSnapshots(t *testing.T, c *harness.Cluster) []string {
	t.Helper()
	var all requorumv1.ListSnapshotsResponse
	if r := c.JSON(&all, "snapshot", "ls"); r.Code != 0 {
		t.Fatal(r)
	}
	var good []string
	for _, s := range all.GetSnapshots() {
		if s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY || s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY {
			continue // a restore that was reverted after the stop keeps its safety snapshot
		}
		line := s.GetName() + " " + s.GetManifest().GetSha256()
		for _, copied := range s.GetCopies() {
			line += fmt.Sprintf(" %s:%s", copied.GetNode(), copied.GetState())
		}
		for _, n := range c.Nodes {
			if _, err := os.Stat(c.Copy(n.Name, s.GetName())); err == nil {
				line += " file on " + n.Name
			}
		}
		good = append(good, line)
	}
	return good
}

// refused runs a command that must end with that code, and makes sure that it told one error with these words in it.
func refused(t *testing.T, c *harness.Cluster, code int, command []string, words ...string) harness.Result {
	t.Helper()
	r := c.CLI(command...)
	if r.Code != code {
		t.Errorf("want exit code %d\n%s", code, r)
	}
	complains(t, r, words...)
	return r
}

// complains makes sure that a command told one error, which may go on in indented lines, with these words in it.
func complains(t *testing.T, r harness.Result, words ...string) {
	t.Helper()
	errs := 0
	for line := range strings.Lines(r.Stderr) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, " ") {
			errs++
		}
	}
	if errs != 1 {
		t.Errorf("%d errors where one is wanted\n%s", errs, r)
	}
	for _, word := range words {
		if !strings.Contains(r.Stderr, word) {
			t.Errorf("the error does not say %q\n%s", word, r)
		}
	}
}

// errorOf takes the lines of the log away from what a server said on stderr.
func errorOf(r harness.Result) harness.Result {
	var kept []string
	for line := range strings.Lines(r.Stderr) {
		if stamp, _, _ := strings.Cut(line, " "); !isTime(stamp) {
			kept = append(kept, line)
		}
	}
	r.Stderr = strings.Join(kept, "")
	return r
}

func isTime(word string) bool {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.000Z0700"} {
		if _, err := time.Parse(layout, word); err == nil {
			return true
		}
	}
	return false
}

// agentFile is the configuration file of a node's agent.
func agentFile(c *harness.Cluster, node string) string {
	return filepath.Join(c.Node(node).Agent.Dir, "agent.yaml")
}

// reconfigure changes the configuration of a node's agent, and starts the agent anew if it runs.
func reconfigure(t *testing.T, c *harness.Cluster, node string, change func(*agent.Config)) {
	t.Helper()
	var cfg agent.Config
	if err := config.Load(agentFile(c, node), &cfg); err != nil {
		t.Fatal(err)
	}
	change(&cfg)
	data, err := yaml.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(agentFile(c, node), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.Process(node).Running() {
		restartAgent(t, c, node)
	}
}

// restartAgent ends a node's agent in order, starts it again and waits until the controller sees it.
func restartAgent(t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	if err := c.Process(node).Stop(); err != nil {
		t.Fatal(err)
	}
	waitNode(t, c, node, "is away", func(n *requorumv1.Node) bool { return !n.GetConnected() })
	if err := c.Process(node).Start(); err != nil {
		t.Fatal(err)
	}
	waitNode(t, c, node, "is connected", func(n *requorumv1.Node) bool { return n.GetConnected() })
}

// waitNode waits until a node is as it has to be.
func waitNode(t *testing.T, c *harness.Cluster, node, what string, ready func(*requorumv1.Node) bool) *requorumv1.Node {
	t.Helper()
	var found *requorumv1.Node
	within(t, node+" never "+what, func() error {
		all := nodes(t, c)
		if found = all[node]; found != nil && ready(found) {
			return nil
		}
		return fmt.Errorf("the nodes are %v", slices.Collect(maps.Values(all)))
	})
	return found
}

// nodes tells how the controller sees the cluster's nodes.
func nodes(t *testing.T, c *harness.Cluster) map[string]*requorumv1.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	resp, err := requorumv1.NewClusterServiceClient(c.Conn()).GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: harness.Name, Refresh: true})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*requorumv1.Node)
	for _, n := range resp.GetCluster().GetNodes() {
		all[n.GetName()] = n
	}
	return all
}

// within tries until there is no error, for as long as anything may take that ends by itself.
func within(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.After(harness.Patience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}
