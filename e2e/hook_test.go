package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// Several nodes are upgraded at once. One snapshot is taken, every hook prints its name, and it brings the data back.
func TestPreUpgradeHook(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	saved := c.Now()

	must(t, c.Until("not every member tells its version", func() bool { // with its agent's next heartbeat
		resp, err := requorumv1.NewClusterServiceClient(c.Conn()).GetCluster(t.Context(), &requorumv1.GetClusterRequest{Cluster: harness.Name})
		return err == nil && !slices.ContainsFunc(resp.GetCluster().GetNodes(), func(n *requorumv1.Node) bool { return n.GetMember().GetVersion() == "" })
	}))
	const hooks = 4
	var wg sync.WaitGroup
	results := make([]harness.Result, hooks)
	for i := range hooks {
		wg.Go(func() {
			results[i] = c.CLI("hook", "pre-upgrade", "--cluster", "prod", "--verify", "--kubernetes-version", "v1.31.0")
		})
	}
	wg.Wait()
	name := strings.TrimSpace(results[0].Stdout)
	for _, r := range results {
		if r.Code != 0 || r.Stdout != name+"\n" {
			t.Fatalf("not just the name %q\n%s", name, r)
		}
	}
	kinds := map[requorumv1.OperationKind]int{}
	for _, op := range c.Operations() {
		kinds[op.GetKind()]++
	}
	delete(kinds, requorumv1.OperationKind_OPERATION_KIND_CHECK) // of a hook that was late
	if kinds[requorumv1.OperationKind_OPERATION_KIND_SAVE] != 1 || kinds[requorumv1.OperationKind_OPERATION_KIND_VERIFY] != 1 || len(kinds) != 2 {
		t.Errorf("%d hooks have begun %v", hooks, kinds)
	}
	s := show(t, c, name)
	labels := s.GetManifest().GetLabels()
	if s.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE || !strings.HasPrefix(name, "pre-upgrade-prod-") || s.GetVerified() == nil ||
		labels["pre-upgrade"] != "true" || labels["kubernetes-version"] != "v1.31.0" || labels["etcd-version"] != s.GetManifest().GetEtcdVersion() {
		t.Errorf("the snapshot: %v", s)
	}
	c.Expect(3, "hook", "pre-upgrade", "--cluster", "prod", "--require-remote") // this controller has none

	// A node that has lost its copy makes it useless.
	must(t, os.Remove(c.Copy("etcd-3", name)))
	r := c.Do("hook", "pre-upgrade", "--cluster", "prod")
	another := strings.TrimSpace(r.Stdout)
	if another == name || !strings.Contains(r.Stderr, name+" is not used: ") {
		t.Errorf("%s is used although etcd-3 has lost its copy, and nobody has noticed yet\n%s", name, r)
	}

	c.Write(100)
	if r := script(t, c, "post-upgrade-failed.sh", "prod", another); r.Code != 0 {
		t.Fatal(r)
	}
	holds(t, c, saved)
	nothingLeft(t, c)
}

// The scripts in deploy/hooks, with the real requorum.
func TestHookScripts(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	if r := script(t, c, "kubeadm-upgrade.sh", "apply", "v1.31.5"); r.Code != 0 {
		t.Fatal(r)
	}
	c.Write(50)
	if r := script(t, c, "post-upgrade-failed.sh", "prod"); r.Code != 0 {
		t.Fatal(r)
	}
	holds(t, c, saved)

	r := script(t, c, "grpcurl.sh", c.Address, "prod")
	name := strings.TrimSpace(r.Stdout)
	if r.Code != 0 || show(t, c, name).GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE {
		t.Fatal(r)
	}
	if r := script(t, c, "grpcurl.sh", c.Address, "nope"); r.Code == 0 || r.Stdout != "" {
		t.Errorf("a cluster that does not exist\n%s", r)
	}
}

// script runs one of deploy/hooks. kubectl and kubeadm are not the real ones.
func script(t *testing.T, c *harness.Cluster, name string, args ...string) harness.Result {
	t.Helper()
	plain, _ := harness.Binaries(t)
	dir := filepath.Join(c.Dir, "..", "commands")
	must(t, os.MkdirAll(dir, 0o700))
	for command, target := range map[string]string{"requorum": plain, "kubectl": "/bin/false", "kubeadm": "/bin/true"} {
		link(t, target, filepath.Join(dir, command))
	}
	if name == "grpcurl.sh" {
		link(t, grpcurl(t), filepath.Join(dir, "grpcurl"))
	}
	return c.Run("env", append([]string{
		"PATH=" + dir + ":" + os.Getenv("PATH"), "REQUORUM_CONFIG=" + c.AdminConfig(), "REQUORUM_DIR=" + filepath.Dir(c.AdminConfig()),
		"REQUORUM_CLUSTER=prod", "REQUORUM_STATE=" + dir, "bash", filepath.Join("..", "deploy", "hooks", name),
	}, args...)...)
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	must(t, os.Symlink(target, path))
}
