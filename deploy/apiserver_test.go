package deploy_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/kubelettest"
	"github.com/requorum/requorum/internal/loopback"
)

// apiServer is a real kube-apiserver with an etcd of its own, and nothing else of Kubernetes.
type apiServer struct {
	*testing.T
	url, token string
	dir        string
	ended      chan struct{}
}

// startAPIServer starts one, which ends with the test.
func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	kubelettest.NeedBinaries(t)
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	etcd := etcdtest.Start(t, etcdtest.Options{Members: 1})
	certificate, key := etcdtest.NewCA(t).Issue(t, "service-accounts")
	s := &apiServer{T: t, url: fmt.Sprintf("https://127.0.0.1:%d", ports[0]), token: "admin-of-the-test", dir: t.TempDir(), ended: make(chan struct{})}
	s.write("tokens.csv", s.token+",admin,admin,system:masters\n")
	log, err := os.Create(filepath.Join(s.dir, "kube-apiserver.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(kubelettest.Binary("kube-apiserver"), "--etcd-servers="+etcd.Endpoints[0],
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[0]), "--cert-dir="+s.dir,
		"--token-auth-file="+filepath.Join(s.dir, "tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+certificate, "--service-account-signing-key-file="+key,
		"--endpoint-reconciler-type=none")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // how it ends does not matter
		close(s.ended)
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-s.ended
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s", text[max(0, len(text)-2000):])
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	s.until("the API server is not ready", func() error { _, err := s.kubectl("", "get", "--raw", "/readyz"); return err })
	return s
}

func (s *apiServer) write(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

// until tries again and again, for two minutes.
func (s *apiServer) until(what string, ready func() error) {
	s.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	end := time.After(2 * time.Minute)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-s.ended:
			s.Fatalf("%s, for it has ended: %v", what, err)
		case <-end:
			s.Fatalf("%s: %v", what, err)
		}
	}
}

// kubectl runs the real kubectl. A warning is an error.
func (s *apiServer) kubectl(stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.Context(), kubelettest.Binary("kubectl"), append([]string{
		"--kubeconfig=/dev/null", "--server=" + s.url, "--token=" + s.token, "--insecure-skip-tls-verify", "--cache-dir=" + s.dir, "--warnings-as-errors",
	}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	if stderr.Len() > 0 {
		return "", fmt.Errorf("kubectl %s says: %s", strings.Join(args, " "), &stderr)
	}
	return stdout.String(), nil
}

// apply stores objects, with nothing in them that the server does not know.
func (s *apiServer) apply(text string, flags ...string) error {
	_, err := s.kubectl(text, append([]string{"apply", "--server-side", "--validate=strict", "-f", "-"}, flags...)...)
	return err
}

func (s *apiServer) mustApply(text string, flags ...string) {
	s.Helper()
	if err := s.apply(text, flags...); err != nil {
		s.Fatal(err)
	}
}

func (s *apiServer) must(args ...string) string {
	s.Helper()
	out, err := s.kubectl("", args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// namespace makes one in which pods can be stored: nobody else makes the account that they get. What its pods may do that the level
// does not allow is warned of, also if a manifest has the namespace: it is another manager's label.
func (s *apiServer) namespace(name, level string) {
	s.Helper()
	s.mustApply(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q, "labels": {"pod-security.kubernetes.io/warn": %q}}}`, name, level), "--field-manager=test")
	s.mustApply(fmt.Sprintf(`{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": %q}}`, name))
}

func manifest(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What is to be applied to a cluster is taken by a real API server: no field that it does not know, no value that it refuses, nothing
// that it warns of, and for what runs without rights, no right that Kubernetes' strictest level of pod security forbids.
func TestManifestsAreAccepted(t *testing.T) {
	s := startAPIServer(t)
	controller := manifest(t, "kubernetes/controller.yaml")
	job := strings.ReplaceAll(manifest(t, "hooks/helm-pre-upgrade.yaml"), "{{ .Release.Name }}", "app")

	s.namespace("requorum", "restricted")
	s.mustApply(controller)

	agent := startAPIServer(t) // of the other cluster
	agent.namespace("requorum", "privileged")
	agent.mustApply(manifest(t, "kubernetes/agent.yaml"))
	agent.namespace("apps", "restricted")
	agent.must("-n", "apps", "apply", "--server-side", "--validate=strict", "-f", agent.write("job.yaml", job))
	agent.namespace("kube-backup", "baseline")
	agent.mustApply(manifest(t, "hooks/velero-pre-backup.yaml"))

	agent.mustApply(manifest(t, os.Getenv("REQUORUM_PLAN_CRD")))
	agent.must("wait", "--for=condition=Established", "customresourcedefinition/plans.upgrade.cattle.io")
	agent.namespace("system-upgrade", "privileged")
	plan := manifest(t, "hooks/system-upgrade-controller.yaml")
	agent.until("the Plan is refused", func() error { return agent.apply(plan) }) // what a new kind looks like is published a moment later

	escalates := func(text string) string {
		return strings.Replace(text, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", 1)
	}
	for what, broken := range map[string]struct {
		on         *apiServer
		text, says string
	}{
		"a field that does not exist":   {s, strings.Replace(controller, "readOnlyRootFilesystem:", "readonlyRootFilesystem:", 1), "readonlyRootFilesystem"},
		"a value of another kind":       {s, strings.Replace(controller, "replicas: 1", "replicas: one", 1), "replicas"},
		"labels that are not selected":  {s, strings.Replace(controller, "labels:\n        app.kubernetes.io/name: requorum", "labels:\n        app.kubernetes.io/name: other", 1), "selector"},
		"a Plan's field that is not":    {agent, strings.Replace(plan, "prepare:", "prepared:", 1), "prepared"},
		"a right of the controller":     {s, escalates(controller), "allowPrivilegeEscalation"},
		"a right of the Job, of Helm's": {agent, strings.Replace(escalates(job), "metadata:\n  name: \"app", "metadata:\n  namespace: apps\n  name: \"other", 1), "allowPrivilegeEscalation"},
	} {
		if err := broken.on.apply(broken.text); err == nil || !strings.Contains(err.Error(), broken.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
