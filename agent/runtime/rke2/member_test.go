package rke2

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// etcdConfig is etcd's configuration as RKE2 writes it when a member with data starts.
const etcdConfig = `advertise-client-urls: https://10.0.0.11:2379
data-dir: /moved/since
listen-client-urls: https://127.0.0.1:2379,https://10.0.0.11:2379
listen-peer-urls: https://127.0.0.1:2380,https://10.0.0.11:2380
name: server-1-0a1b2c3d
`

func TestMemberIsReadWhereRKE2IsToldToKeepIt(t *testing.T) {
	root := filepath.Join(t.TempDir(), "rke2")
	write(t, root+"/server/db/etcd/config", etcdConfig)
	write(t, root+"/server/db/etcd/name", "server-1-0a1b2c3d")
	config := filepath.Join(t.TempDir(), "config.yaml")
	write(t, config, "data-dir: "+root+"\n")
	for name, c := range map[string]systemd.Command{
		"a flag":     {Args: []string{"server", "--data-dir=" + root}},
		"a file":     {Args: []string{"server"}, Env: []string{"RKE2_CONFIG_FILE=" + config, "K3S_CONFIG_FILE=/never"}},
		"a variable": {Args: []string{"server"}, Env: []string{"RKE2_DATA_DIR=" + root, "K3S_DATA_DIR=/never"}},
	} {
		m, err := distribution.Read(c)
		if err != nil || m.Name != "server-1-0a1b2c3d" || m.DataDir != root+"/server/db/etcd" || strings.Join(m.AdvertisePeerURLs, ",") != "https://10.0.0.11:2380" {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if got := rootOf(m); got != root {
			t.Errorf("%s: RKE2's data directory is %s, expected %s", name, got, root)
		}
	}
	if _, err := distribution.Read(systemd.Command{Args: []string{"agent", "--data-dir=" + root}}); !errors.Is(err, k3s.ErrNotServer) {
		t.Errorf("an agent: %v", err)
	}
	if _, err := distribution.Read(systemd.Command{Args: []string{"server", "--data-dir=/none"}}); !errors.Is(err, k3s.ErrNoEtcd) || !strings.Contains(err.Error(), "start rke2") {
		t.Errorf("without etcd: %v", err)
	}
}

func TestVersionIsThatOfTheImage(t *testing.T) {
	root := t.TempDir()
	m := runtime.Member{DataDir: filepath.Join(root, k3s.EtcdDir)}
	manifest := filepath.Join(root, "agent/pod-manifests/etcd.yaml")
	if got, err := version(m); err != nil || got != "" {
		t.Errorf("without a manifest: %q, %v", got, err)
	}
	for image, want := range map[string]string{
		"index.docker.io/rancher/hardened-etcd:v3.5.26-k3s1-build20260126": "3.5.26",
		"registry:5000/etcd:latest":                                        "",
	} {
		write(t, manifest, "spec:\n  containers:\n  - image: "+image+"\n    name: etcd\n")
		if got, err := version(m); err != nil || got != want {
			t.Errorf("%s: %q, %v; expected %q", image, got, err, want)
		}
	}
	write(t, manifest, "spec: [\n")
	if _, err := version(m); err == nil || !strings.Contains(err.Error(), manifest) {
		t.Errorf("not YAML: %v", err)
	}
}

func TestEndpointIsASocket(t *testing.T) {
	if _, err := New(Options{Endpoint: "10.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), DefaultEndpoint) {
		t.Errorf("%v", err)
	}
}
