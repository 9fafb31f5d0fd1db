package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/kubelettest"
	"github.com/requorum/requorum/internal/loopback"
)

func TestMain(m *testing.M) {
	kubelettest.Main()
	os.Exit(m.Run())
}

// Where kubelets run etcd and the control plane, a restore takes their manifests away and gives them back. Each node has a kubelet
// of its own.
func TestStaticPodCluster(t *testing.T) {
	t.Parallel()
	p := &pods{t: t, kubelets: map[string]kubelettest.Kubelet{}, manifests: map[string]string{}}
	var standIns []*kubelettest.StandIn
	p.start = func(etcd kubelettest.Program) kubelettest.Kubelet {
		k := kubelettest.StartStandIn(t, etcd)
		standIns = append(standIns, k)
		return k.Kubelet
	}
	c := harness.Start(t, harness.Options{Configure: p.use})
	t.Cleanup(func() { // before the harness looks for what still runs
		for _, k := range standIns {
			k.Stop()
		}
	})
	p.restores(c)
}

// TestRealKubelets is TestStaticPodCluster with real kubelets. make test-kubelet says what is needed.
func TestRealKubelets(t *testing.T) {
	kubelettest.NeedReal(t)
	p := &pods{t: t, kubelets: map[string]kubelettest.Kubelet{}, manifests: map[string]string{}}
	p.start = func(etcd kubelettest.Program) kubelettest.Kubelet { return kubelettest.StartReal(t, etcd).Kubelet }
	p.restores(harness.Start(t, harness.Options{Configure: p.use}))
}

// pods are the static pods of every node.
type pods struct {
	t         *testing.T
	start     func(etcd kubelettest.Program) kubelettest.Kubelet
	kubelets  map[string]kubelettest.Kubelet // by node
	manifests map[string]string              // by path
}

// use makes the agent run etcd as a static pod instead of by itself.
func (p *pods) use(node string, a *agent.Config) {
	p.t.Helper()
	etcd := a.Runtime.Process.Command
	flag := func(name string) string {
		for _, arg := range etcd {
			if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				return value
			}
		}
		p.t.Fatalf("etcd has no --%s", name)
		return ""
	}
	k := p.start(kubelettest.Program{Path: etcd[0]})
	p.kubelets[node] = k
	p.install(p.live(node, "etcd.yaml"), kubelettest.EtcdManifest(etcd[1:], flag("data-dir"), flag("advertise-client-urls"), os.Geteuid(), os.Getegid()))
	parts := staticpod.DefaultControlPlane()
	ports, err := loopback.Ports(len(parts))
	must(p.t, err)
	for i, part := range parts {
		p.install(p.live(node, part), kubelettest.ComponentManifest(strings.TrimSuffix(part, ".yaml"), ports[i]))
	}
	a.Runtime.Process = nil
	a.Runtime.StaticPod = &agent.StaticPod{Manifest: p.live(node, "etcd.yaml"), ControlPlane: parts, CRIEndpoint: k.Endpoint, KubeletUnit: staticpod.NoKubelet}
}

// install puts a finished manifest where the kubelet sees it at once.
func (p *pods) install(path, text string) {
	p.t.Helper()
	made := filepath.Join(filepath.Dir(filepath.Dir(path)), "made.yaml")
	must(p.t, os.WriteFile(made, []byte(text), 0o600))
	must(p.t, os.Rename(made, path))
	p.manifests[path] = text
}

func (p *pods) live(node, name string) string { return filepath.Join(p.kubelets[node].Dir, name) }

func (p *pods) held(node, name string) string {
	return filepath.Join(filepath.Dir(p.kubelets[node].Dir), "requorum-held", name)
}

// restores saves and restores, also with an agent that is killed when it has stopped its control plane, and its etcd.
func (p *pods) restores(c *harness.Cluster) {
	t := p.t
	t.Helper()
	c.Write(200)
	save(t, c, "before")
	saved := c.Now()
	c.Write(100)
	says(t, c.Do("restore", "--snapshot", "before", "--plan"), "kube-apiserver.yaml", "kube-scheduler.yaml")
	p.inOrder(restore(t, c, "before"))
	holds(t, c, saved)
	p.asBefore(c)

	for _, name := range []string{"kube-apiserver.yaml", "etcd.yaml"} {
		c.Write(100)
		written := c.Now()
		detached(t, c, "before")
		within(t, name+" is not taken away", func() error { _, err := os.Stat(p.held("etcd-2", name)); return err })
		kill(t, c.Node("etcd-2").Agent)
		c.StartAgain("etcd-2")
		want := written
		if c.Settle().GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			want = saved
		}
		holds(t, c, want)
		p.asBefore(c)
	}
}

// inOrder makes sure that etcd's manifests went back before the cluster was verified, and those of the control plane after it. A
// file's last change is its rename.
func (p *pods) inOrder(op *requorumv1.Operation) {
	p.t.Helper()
	var verified time.Time
	for _, step := range op.GetSteps() {
		if step.GetName() == "verify" {
			verified = step.GetEnded().AsTime()
		}
	}
	for path := range p.manifests {
		var stat unix.Stat_t
		must(p.t, unix.Stat(path, &stat))
		given, etcd := time.Unix(stat.Ctim.Unix()), filepath.Base(path) == "etcd.yaml"
		if given.Before(verified) != etcd {
			p.t.Errorf("%s was given back at %s, and the cluster was verified at %s", path, given, verified)
		}
	}
}

// asBefore fails unless every manifest is where it was, as it was, and nothing else of them is left.
func (p *pods) asBefore(c *harness.Cluster) {
	p.t.Helper()
	for path, text := range p.manifests {
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			p.t.Errorf("%s is not what it was: %v\n%s", path, err, now)
		}
	}
	for _, node := range c.NodeNames() {
		for _, left := range []string{"*.yaml", "*.aside", "*.superseded-*"} {
			if found, err := filepath.Glob(p.held(node, left)); err != nil || len(found) > 0 {
				p.t.Errorf("left behind: %v, %v", found, err)
			}
		}
	}
	if left := besidesEtcd(c.LeftBehind()); len(left) > 0 {
		p.t.Errorf("left behind: %v", left)
	}
}
