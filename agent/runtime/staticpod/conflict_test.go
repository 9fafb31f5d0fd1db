package staticpod_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/internal/etcdtest"
)

// stopped is a node whose etcd ran and was stopped.
func stopped(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.install(n.live)
	must(t, n.open().Start(t.Context()))
	must(t, n.open().Stop(t.Context()))
	return n
}

// superseded returns the manifests that were put out of use.
func (n *node) superseded() []string {
	n.t.Helper()
	found, err := filepath.Glob(n.held("etcd.yaml.superseded-*"))
	must(n.t, err)
	return found
}

func TestManifestOfSomebodyElse(t *testing.T) {
	newer := func(n *node) string { return n.etcdManifest("--snapshot-count=5000") }
	for name, c := range map[string]struct {
		text       func(*node) string
		act        func(context.Context, *staticpod.Runtime) error
		says       string // why act fails, if it does
		live, held bool   // where the manifest is in the end
		old        int    // how many were superseded
	}{
		"stays when etcd is started":        {text: newer, act: start, live: true, old: 1},
		"is kept when etcd is stopped":      {text: newer, act: stop, held: true, old: 1},
		"that is the same is the same":      {text: func(n *node) string { return n.manifests["etcd.yaml"] }, act: start, live: true},
		"that is the same is kept once":     {text: func(n *node) string { return n.manifests["etcd.yaml"] }, act: stop, held: true},
		"is not used with other data":       {text: elsewhere, act: start, says: "elsewhere", live: true},
		"is kept with other data, too":      {text: elsewhere, act: stop, held: true, old: 1},
		"is not used with an unknown image": {text: func(n *node) string { return strings.Replace(newer(n), "3.7.3-0", "latest", 1) }, act: start, says: "runtime.staticpod.version", live: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := stopped(t)
			text := c.text(n)
			n.write(n.live("etcd.yaml"), text)
			err := c.act(t.Context(), n.open())
			if c.says == "" {
				must(t, err)
			} else if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
			for path, there := range map[string]bool{n.live("etcd.yaml"): c.live, n.held("etcd.yaml"): c.held} {
				if err := n.unchanged(path, text); there && err != nil {
					t.Error(err)
				} else if !there && err == nil {
					t.Errorf("it is in %s too", path)
				}
			}
			old := n.superseded()
			if len(old) != c.old {
				t.Fatalf("superseded: %v", old)
			}
			for _, path := range old {
				if err := n.unchanged(path, n.manifests["etcd.yaml"]); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func start(ctx context.Context, r *staticpod.Runtime) error { return r.Start(ctx) }
func stop(ctx context.Context, r *staticpod.Runtime) error  { return r.Stop(ctx) }

// elsewhere is a manifest with another data directory.
func elsewhere(n *node) string {
	return strings.Replace(n.etcdManifest(), "path: "+n.etcd.Member.DataDir, "path: "+filepath.Join(n.t.TempDir(), "elsewhere"), 1)
}

var errLookedOn = errors.New("it was looked at for long enough")

// lookingOn returns a context that ends while the pods are looked at for the fifth time.
func (n *node) lookingOn() context.Context {
	ctx, cancel := context.WithCancelCause(n.t.Context())
	n.t.Cleanup(func() { cancel(nil) })
	n.kubelet.AtLook(5, func() { cancel(errLookedOn) })
	return ctx
}

func TestEtcdStopsWithoutTheKubelet(t *testing.T) {
	n := newNode(t)
	n.install(n.live)
	must(t, n.open().Start(t.Context()))
	n.kubelet.SetDead(true)
	o := n.options()
	o.Grace = 50 * time.Millisecond
	r, err := staticpod.New(o)
	must(t, err)
	must(t, r.Stop(t.Context()))
	n.expectState(true)

	if err := r.Start(n.lookingOn()); !errors.Is(err, errLookedOn) || !strings.Contains(err.Error(), "the kubelet does not start") {
		t.Errorf("nothing starts etcd, and it says %v", err)
	}
	n.kubelet.SetDead(false)
	must(t, r.Start(t.Context()))
	n.expectState(false)
}

// An etcd that the kubelet started again is not the one that was started.
func TestRestartedEtcdIsNotAlive(t *testing.T) {
	n := newNode(t)
	n.install(n.live)
	must(t, n.open().Start(t.Context()))
	must(t, n.open().Alive(t.Context()))
	n.kubelet.KillAll()
	eventually(t, func() bool {
		err := n.open().Alive(t.Context())
		return err != nil && strings.Contains(err.Error(), "the kubelet has started it again")
	})
	must(t, n.open().Start(t.Context())) // whoever starts it now asks about this one
	must(t, n.open().Alive(t.Context()))
	must(t, n.open().Stop(t.Context()))
}

// A kubelet that has not missed a manifest yet may start what has ended again.
func TestStopWaitsForTheKubelet(t *testing.T) {
	n := newNode(t)
	n.install(n.live)
	must(t, n.open().Start(t.Context()))
	n.kubelet.SetDead(true)
	n.kubelet.KillAll()
	eventually(t, func() bool {
		m, err := n.open().Inspect(t.Context())
		must(t, err)
		return !m.Running
	})
	if err := n.open().Stop(n.lookingOn()); !errors.Is(err, errLookedOn) || !strings.Contains(err.Error(), "sandboxes") {
		t.Errorf("etcd counts as stopped: %v", err)
	}
	n.kubelet.SetDead(false)
	must(t, n.open().Stop(t.Context()))
	n.expectState(true)
}

func TestControlPlaneIsWaitedFor(t *testing.T) {
	n := newNode(t)
	n.addControlPlane()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int32
	ill := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 2 { // the answer before was taken in
			cancel()
		}
		http.Error(w, "no leader", http.StatusServiceUnavailable)
	}))
	defer ill.Close()
	healthy := n.manifests["kube-scheduler.yaml"]
	n.manifests["kube-scheduler.yaml"] = strings.Replace(healthy, `"port": "probe-port"`, `"port": `+ill.URL[strings.LastIndex(ill.URL, ":")+1:], 1)
	n.install(n.live)
	r := n.open()
	restarted := false
	r.SetRestartKubelet(func(context.Context) error { restarted = true; return nil })
	must(t, r.StopControlPlane(t.Context()))
	err := r.StartControlPlane(ctx)
	if err == nil || !strings.Contains(err.Error(), "kube-scheduler does not become healthy") || !strings.Contains(err.Error(), "no leader") || restarted {
		t.Errorf("%v, kubelet restarted: %v", err, restarted)
	}
	// What is owed is owed by the next agent too.
	n.write(n.live("kube-scheduler.yaml"), healthy)
	r = n.open()
	failed := errors.New("no kubelet")
	r.SetRestartKubelet(func(context.Context) error { return failed })
	if err := r.StartControlPlane(t.Context()); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	r.SetRestartKubelet(func(context.Context) error { restarted = true; return nil })
	must(t, r.StartControlPlane(t.Context()))
	if !restarted {
		t.Error("the kubelet was not restarted")
	}
}

func TestALearnerJoins(t *testing.T) {
	first := etcdtest.Start(t, etcdtest.Options{})
	n := newNode(t)
	for i, arg := range n.etcd.Command {
		n.etcd.Command[i] = strings.NewReplacer("--name=m1", "--name=learner", "--initial-cluster=m1=", "--initial-cluster=learner=").Replace(arg)
	}
	n.manifests["etcd.yaml"] = n.etcdManifest()
	peers := n.etcd.Member.AdvertisePeerURLs
	n.install(n.live)
	r := n.open()
	must(t, r.Stop(t.Context()))
	must(t, os.RemoveAll(n.etcd.Member.DataDir))
	client := first.Client(t)
	if _, err := client.MemberAddAsLearner(t.Context(), peers); err != nil {
		t.Fatal(err)
	}
	cluster := first.InitialCluster() + ",learner=" + peers[0]
	must(t, r.StartJoining(t.Context(), cluster))
	must(t, r.StartJoining(t.Context(), cluster)) // as a task does that is resumed
	eventually(t, func() bool {
		must(t, r.Alive(t.Context()))
		list, err := client.MemberList(t.Context())
		must(t, err)
		for _, m := range list.Members {
			if m.IsLearner && m.Name == "learner" {
				return true
			}
		}
		return false
	})
	if err := n.unchanged(n.held("etcd.yaml"), n.manifests["etcd.yaml"]); err != nil {
		t.Error(err)
	}
	must(t, n.open().Stop(t.Context()))
	n.expectState(true)
	must(t, n.open().StartJoining(t.Context(), cluster))
	must(t, n.open().Start(t.Context()))
	n.expectState(false)
	if old := n.superseded(); len(old) > 0 {
		t.Errorf("its own manifest was taken for somebody else's: %v", old)
	}
}

func TestJoiningIsRefusedWithAConfigurationFile(t *testing.T) {
	n := newNode(t)
	n.manifests["etcd.yaml"] = n.etcdManifest("--config-file=/var/lib/etcd/conf")
	n.install(n.live)
	if err := n.open().StartJoining(t.Context(), "a=http://a:2380"); !errors.Is(err, etcdconf.ErrConfigFile) {
		t.Errorf("%v", err)
	}
	n.expectIn("etcd.yaml", n.live, n.held)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatal("it does not come true")
		}
	}
}

func (n *node) detector() staticpod.Detector {
	return staticpod.Detector{Dir: n.dir, Endpoint: n.endpoint, Kubelet: staticpod.NoKubelet}
}

func TestDetector(t *testing.T) {
	n := newNode(t)
	n.addControlPlane()
	found, err := n.detector().Detect(t.Context())
	if err != nil || len(found.Candidates) != 0 || len(found.Looked) != 1 {
		t.Errorf("without manifests: %+v, %v", found, err)
	}
	n.install(n.live)
	must(t, n.open().Start(t.Context()))
	n.expectDetected(true)
	must(t, n.open().Stop(t.Context()))
	n.expectDetected(false)
	must(t, n.open().Start(t.Context()))

	d := n.detector()
	d.Endpoint = "unix:///none.sock"
	d.Kubelet = "none-such.service"
	found, err = d.Detect(t.Context())
	must(t, err)
	missing := strings.Join(found.Candidates[0].Missing, "; ")
	for _, want := range []string{"cri_endpoint", "kubelet_unit"} {
		if !strings.Contains(missing, want) {
			t.Errorf("%q does not say %q", missing, want)
		}
	}

	must(t, n.open().Stop(t.Context()))
	must(t, os.RemoveAll(filepath.Dir(n.held(""))+"/requorum-held"))
	n.write(n.live("etcd.yaml"), strings.Replace(n.manifests["etcd.yaml"], "    - etcd\n", "    - sh\n", 1))
	found, err = n.detector().Detect(t.Context())
	if err != nil || len(found.Candidates) != 0 || !strings.Contains(strings.Join(found.Looked, " "), "exec runtime") {
		t.Errorf("with a shell: %+v, %v", found, err)
	}
}

func (n *node) expectDetected(running bool) {
	n.t.Helper()
	found, err := n.detector().Detect(n.t.Context())
	must(n.t, err)
	if len(found.Candidates) != 1 {
		n.t.Fatalf("%+v", found)
	}
	c := found.Candidates[0]
	if os.Geteuid() == 0 && len(c.Missing) > 0 {
		n.t.Errorf("missing: %v", c.Missing)
	}
	if c.Place != n.live("etcd.yaml") || c.Config["manifest"] != c.Place || len(c.ControlPlane) != 3 || c.Member.Running != running || c.Member.Version != "3.7.3" {
		n.t.Errorf("%+v", c)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []staticpod.Options{
		{Manifest: "etcd.yaml"},
		{HeldDir: "held"},
		{HeldDir: "/etc/kubernetes/manifests/held"},
		{HeldDir: "/etc/kubernetes/manifests"},
		{ControlPlane: []string{"../kube-apiserver.yaml"}},
		{ControlPlane: []string{"etcd.yaml"}},
		{Endpoint: "/run/containerd/containerd.sock"},
	} {
		if _, err := staticpod.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
