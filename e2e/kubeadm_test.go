package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/kubelettest"
)

// The control plane of one host, as kubeadm sets it up, is saved, changed and restored: Kubernetes then has just the objects of the
// snapshot, all of its parts work, and its manifests are what they were. make test-kubeadm says what is needed.
func TestKubeadm(t *testing.T) {
	kubelettest.NeedReal(t)
	if !kubelettest.OnOwnHost(t) {
		return
	}
	k := &kube{Kubeadm: kubelettest.StartKubeadm(t, filepath.Join(os.Getenv("REQUORUM_ETCDS"), "etcd-3.6")), T: t}
	k.until("the API server is not ready", func() error { _, err := k.Kubectl(t, "", "get", "--raw", "/readyz"); return err })
	k.works("first")
	c := harness.Start(t, harness.Options{Members: 1, Patience: 4 * time.Minute, Configure: k.use})
	manifests := k.manifests()
	if len(manifests) != 4 {
		t.Fatalf("kubeadm wrote %d manifests", len(manifests))
	}

	k.create("configmap", "kept", "--from-literal=version=1")
	k.create("configmap", "deleted-later")
	save(t, c, "before")
	want := k.objects()
	k.must("patch", "configmap", "kept", "--type=merge", `--patch={"data":{"version":"2"}}`)
	k.must("delete", "configmap", "deleted-later")
	k.create("namespace", "made-later")

	before := k.Containers(t)
	written := k.writeOn()
	op := restore(t, c, "before")
	after := k.Containers(t)
	k.until("the API server does not serve again", func() error { _, err := k.Kubectl(t, "", "get", "--raw", "/readyz"); return err })
	k.create("configmap", "made-after") // what still writes gets through, too
	k.must("delete", "configmap", "made-after")
	acknowledged := written()

	for _, step := range []string{"stop", "swap", "start", "verify", "open"} {
		took := span(t, op, step)
		t.Logf("%s took %s", step, took.ended.Sub(took.began))
	}
	k.stoppedAndStarted(op, before, after)
	k.gated(op, acknowledged)
	if now := k.objects(); !maps.Equal(now, want) {
		t.Errorf("after the restore there is %v\nwant %v", now, want)
	}
	if version := k.must("get", "configmap", "kept", "--output=jsonpath={.data.version}"); version != "1" {
		t.Errorf("the object that was changed has version %q", version)
	}
	if now := k.manifests(); !maps.Equal(now, manifests) {
		t.Errorf("the manifests are\n%v\nand were\n%v", now, manifests)
	}
	if held, err := filepath.Glob(kubelettest.KubeadmDir + "/requorum-held/*.yaml*"); err != nil || len(held) > 0 {
		t.Errorf("left behind: %v, %v", held, err)
	}
	k.works("second")
	k.upgrades(c)
}

// upgrades has the wrapper of deploy/hooks run the real kubeadm and the real kubectl: what kubeadm refuses is passed on, a plan is made, and an
// upgrade is rehearsed.
func (k *kube) upgrades(c *harness.Cluster) {
	k.Helper()
	k.Kubeadm.Kubeadm(k.T, "init", "phase", "upload-config", "all", "--config="+k.Config)
	state := k.TempDir()
	upgrade := func(args ...string) harness.Result {
		return c.Run("env", append([]string{
			"PATH=" + strings.Join([]string{os.Getenv(kubelettest.Binaries), filepath.Dir(os.Getenv("REQUORUM_BIN")), os.Getenv("PATH")}, ":"),
			"KUBECONFIG=" + kubelettest.KubeadmDir + "/super-admin.conf", "REQUORUM_CONFIG=" + c.AdminConfig(), "REQUORUM_CLUSTER=" + harness.Name, "REQUORUM_STATE=" + state, "REQUORUM_MAX_AGE=1s",
			"bash", filepath.Join(hooksDir, "kubeadm-upgrade.sh"),
		}, args...)...)
	}
	for _, args := range [][]string{
		{"plan", kubelettest.ComponentVersion, "--ignore-preflight-errors=all"},
		{"apply", kubelettest.ComponentVersion, "--dry-run", "--yes", "--ignore-preflight-errors=all"},
	} {
		if r := upgrade(args...); r.Code != 0 {
			k.Fatal(r)
		}
	}
	name, err := os.ReadFile(filepath.Join(state, harness.Name+".pre-upgrade"))
	must(k.T, err)
	s := show(k.T, c, strings.TrimSpace(string(name)))
	if s.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE || s.GetManifest().GetLabels()["kubernetes-version"] != kubelettest.ComponentVersion {
		k.Errorf("not the snapshot of an upgrade from %s: %v", kubelettest.ComponentVersion, s)
	}
	if r := upgrade("apply", "v1.2.3", "--yes"); r.Code == 0 || !strings.Contains(r.Stderr, "to bring the data back") {
		k.Errorf("an upgrade that kubeadm refuses\n%s", r)
	}
}

// kube is a host with a control plane.
type kube struct {
	*kubelettest.Kubeadm
	*testing.T
}

// use makes the agent find etcd where kubeadm runs it.
func (k *kube) use(_ string, a *agent.Config) {
	a.Runtime.Process = nil
	a.Runtime.StaticPod = &agent.StaticPod{
		Manifest: k.live("etcd.yaml"), ControlPlane: staticpod.DefaultControlPlane(), CRIEndpoint: k.Endpoint, KubeletUnit: staticpod.NoKubelet,
	}
	pki := kubelettest.KubeadmDir + "/pki/etcd/"
	a.Etcd.Cert, a.Etcd.Key = pki+"healthcheck-client.crt", pki+"healthcheck-client.key"
}

func (k *kube) live(name string) string { return filepath.Join(k.Dir, name) }

func (k *kube) until(what string, ready func() error) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 3*time.Minute)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for err := ready(); err != nil; err = ready() {
		select {
		case <-again.C:
		case <-ctx.Done():
			k.Fatalf("%s: %v", what, err)
		}
	}
}

func (k *kube) must(args ...string) string {
	k.Helper()
	out, err := k.Kubectl(k.T, "", args...)
	must(k.T, err)
	return out
}

func (k *kube) create(args ...string) {
	k.Helper()
	k.must(append([]string{"create"}, args...)...)
}

// manifests returns all that the kubelet runs.
func (k *kube) manifests() map[string]string {
	k.Helper()
	paths, err := filepath.Glob(k.live("*.yaml"))
	must(k.T, err)
	all := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(k.T, err)
		all[path] = string(text)
	}
	return all
}

// objects returns the UIDs of what nobody but the test makes: an object that was deleted and made again is another one.
func (k *kube) objects() map[string]string {
	k.Helper()
	var list struct {
		Items []struct {
			Kind     string
			Metadata struct{ Namespace, Name, UID string }
		}
	}
	must(k.T, json.Unmarshal([]byte(k.must("get", "configmaps,namespaces,deployments", "--all-namespaces", "--output=json")), &list))
	all := map[string]string{}
	for _, o := range list.Items {
		if name := o.Metadata.Name; !strings.HasPrefix(name, writtenPrefix) {
			all[o.Kind+" "+o.Metadata.Namespace+"/"+name] = o.Metadata.UID
		}
	}
	return all
}

const deployment = `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": %[1]q, "namespace": "default"}, "spec": {"replicas": 2,
  "selector": {"matchLabels": {"app": %[1]q}}, "template": {"metadata": {"labels": {"app": %[1]q}},
    "spec": {"hostNetwork": true, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10", "imagePullPolicy": "Never"}]}}}}`

// works makes sure that every part of the control plane does its work: the API server takes a Deployment, the controller manager makes its
// pods, the scheduler gives them a node, and the kubelet runs them.
func (k *kube) works(name string) {
	k.Helper()
	k.until("the API server takes no deployment", func() error {
		_, err := k.Kubectl(k.T, fmt.Sprintf(deployment, name), "apply", "--server-side", "--filename=-")
		return err
	})
	k.until("pods of a new deployment do not run", func() error {
		phases, err := k.Kubectl(k.T, "", "get", "pods", "--selector=app="+name, "--output=jsonpath={range .items[*]}{.spec.nodeName} {.status.phase},{end}")
		if err == nil && phases != strings.Repeat(kubelettest.NodeName+" Running,", 2) {
			err = fmt.Errorf("they are %q", phases)
		}
		return err
	})
}

// writtenPrefix begins the names of what is written while the cluster is restored.
const writtenPrefix = "written-"

// writeOn writes one object after the other until it is told to stop, and then returns when which was acknowledged.
func (k *kube) writeOn() (stop func() map[int]time.Time) {
	ctx, cancel := context.WithCancel(k.Context())
	acknowledged := map[int]time.Time{}
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := k.Kubectl(k.T, "", "create", "configmap", writtenPrefix+strconv.Itoa(i), "--request-timeout=2s"); err == nil {
				acknowledged[i] = time.Now()
			}
		}
	})
	return func() map[int]time.Time {
		cancel()
		done.Wait()
		return acknowledged
	}
}

// gated makes sure that nothing was written from when the control plane was stopped until the cluster was opened, and that nothing is there that
// was acknowledged before, and all that was since.
func (k *kube) gated(op *requorumv1.Operation, acknowledged map[int]time.Time) {
	k.Helper()
	stopped, opened := span(k.T, op, "stop"), span(k.T, op, "open")
	names := strings.Fields(k.must("get", "configmaps", "--output=jsonpath={.items[*].metadata.name}"))
	var earlier, since int
	for i, at := range acknowledged {
		there := slices.Contains(names, writtenPrefix+strconv.Itoa(i))
		switch {
		case at.After(stopped.ended) && at.Before(opened.began):
			k.Errorf("%d was written at %s, while the cluster was closed from %s to %s", i, at, stopped.ended, opened.began)
		case at.Before(stopped.ended):
			earlier++
			if there {
				k.Errorf("%d was written before the restore, and is there", i)
			}
		default:
			since++
			if !there {
				k.Errorf("%d was written after the restore, and is not there", i)
			}
		}
	}
	k.Logf("%d objects were written before the control plane stopped, %d after the cluster was opened", earlier, since)
	if earlier == 0 || since == 0 {
		k.Error("nothing was written before, or nothing after")
	}
}

type timespan struct{ began, ended time.Time }

func span(t *testing.T, op *requorumv1.Operation, step string) timespan {
	t.Helper()
	for _, s := range op.GetSteps() {
		if s.GetName() == step {
			return timespan{s.GetStarted().AsTime(), s.GetEnded().AsTime()}
		}
	}
	t.Fatalf("no step %s", step)
	return timespan{}
}

// stoppedAndStarted makes sure that every part runs in a new container, that etcd's was made once the old data was away, and the others'
// once it was verified.
func (k *kube) stoppedAndStarted(op *requorumv1.Operation, before, after map[string]*criv1.Container) {
	k.Helper()
	verified := span(k.T, op, "verify").ended
	for _, part := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		was, is := before[part], after[part]
		if was == nil || is == nil || was.GetId() == is.GetId() {
			k.Errorf("%s was not stopped and started: its container was %v and is %v", part, was, is)
			continue
		}
		made := time.Unix(0, is.GetCreatedAt())
		if made.Before(verified) != (part == "etcd") || made.Before(span(k.T, op, "swap").ended) {
			k.Errorf("%s was started too early or too late, at %s: the cluster was verified at %s", part, made, verified)
		}
	}
}
