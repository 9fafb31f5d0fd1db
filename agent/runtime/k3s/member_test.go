package k3s

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// secured is etcd's configuration as k3s writes it when a member with data starts.
const secured = `advertise-client-urls: https://10.0.0.11:2379
client-transport-security:
  cert-file: /var/lib/rancher/k3s/server/tls/etcd/server-client.crt
  client-cert-auth: true
  key-file: /var/lib/rancher/k3s/server/tls/etcd/server-client.key
  trusted-ca-file: /var/lib/rancher/k3s/server/tls/etcd/server-ca.crt
data-dir: /moved/since
election-timeout: 5000
heartbeat-interval: 500
listen-client-http-urls: https://127.0.0.1:2382
listen-client-urls: https://127.0.0.1:2379,https://10.0.0.11:2379
listen-metrics-urls: http://127.0.0.1:2381
listen-peer-urls: https://127.0.0.1:2380,https://10.0.0.11:2380
log-outputs:
- stderr
logger: zap
name: server-1-0a1b2c3d
peer-transport-security:
  cert-file: /var/lib/rancher/k3s/server/tls/etcd/peer-server-client.crt
  client-cert-auth: true
  key-file: /var/lib/rancher/k3s/server/tls/etcd/peer-server-client.key
  trusted-ca-file: /var/lib/rancher/k3s/server/tls/etcd/peer-ca.crt
quota-backend-bytes: 4294967296
snapshot-count: 10000
socket-options: {}
`

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// etcdOf writes etcd's files below a k3s data directory, and returns their directory.
func etcdOf(t *testing.T, root, config string) string {
	t.Helper()
	dir := filepath.Join(root, "server/db/etcd")
	write(t, filepath.Join(dir, "config"), config)
	write(t, filepath.Join(dir, "name"), "server-1-0a1b2c3d")
	return dir
}

func TestMemberIsReadAsK3sHasConfiguredIt(t *testing.T) {
	root := t.TempDir()
	dir := etcdOf(t, root, secured)
	got, err := k3s.Read(systemd.Command{Args: []string{"server", "--data-dir=" + root}})
	if err != nil {
		t.Fatal(err)
	}
	const tls = "/var/lib/rancher/k3s/server/tls/etcd/"
	want := runtime.Member{
		Name: "server-1-0a1b2c3d", DataDir: dir,
		ListenClientURLs: []string{"https://127.0.0.1:2379", "https://10.0.0.11:2379"}, AdvertiseClientURLs: []string{"https://10.0.0.11:2379"},
		ListenPeerURLs: []string{"https://127.0.0.1:2380", "https://10.0.0.11:2380"}, AdvertisePeerURLs: []string{"https://10.0.0.11:2380"},
		ListenOtherURLs: []string{"http://127.0.0.1:2381", "https://127.0.0.1:2382"}, QuotaBytes: 4 << 30,
		ClientCertAuth: true, TrustedCAFile: tls + "server-ca.crt", CertFile: tls + "server-client.crt", KeyFile: tls + "server-client.key",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c := clientOf(got); c.CAFile != want.TrustedCAFile || c.CertFile != want.CertFile || c.KeyFile != want.KeyFile || !slices.Equal(c.Endpoints, want.ListenClientURLs) {
		t.Errorf("the member is asked by %+v", c)
	}
}

func TestPeerURLsOfAMemberThatWasNeverRestarted(t *testing.T) {
	dir := etcdOf(t, t.TempDir(), secured+"initial-advertise-peer-urls: https://203.0.113.1:2380\n")
	m, err := k3s.readMember(dir)
	if err != nil || !slices.Equal(m.AdvertisePeerURLs, []string{"https://203.0.113.1:2380"}) {
		t.Errorf("%v, %v", m.AdvertisePeerURLs, err)
	}
}

func TestWhatHasNoMemberIsRefused(t *testing.T) {
	root := t.TempDir()
	for name, args := range map[string][]string{"an agent": {"agent", "--data-dir", root}, "nothing": nil} {
		if _, err := k3s.Read(systemd.Command{Args: args}); !errors.Is(err, ErrNotServer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	server := systemd.Command{Args: []string{"server", "--data-dir", root}}
	if _, err := k3s.Read(server); !errors.Is(err, ErrNoEtcd) || !strings.Contains(err.Error(), "server/db/etcd/config") {
		t.Errorf("without etcd: %v", err)
	}

	dir := etcdOf(t, root, strings.ReplaceAll(secured, ",https://10.0.0.11:2380", ""))
	if _, err := k3s.Read(server); err == nil || !strings.Contains(err.Error(), "restart k3s") {
		t.Errorf("peers are on the loopback interface only: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "name")); err != nil {
		t.Fatal(err)
	}
	if _, err := k3s.Read(server); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoEtcd) {
		t.Errorf("without a name: %v", err)
	}
}

func TestDataDirIsWhereK3sIsTold(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	write(t, config, "data-dir: /from/config\nnode-label: [a=b]\n")
	dropIns := filepath.Join(dir, "over.yaml")
	write(t, dropIns, "data-dir: /never\n")
	write(t, filepath.Join(dropIns+".d", "10.yaml"), "data-dir: /never\n")
	write(t, filepath.Join(dropIns+".d", "20.yml"), "data-dir: /from/drop-in\n")
	write(t, filepath.Join(dropIns+".d", "30.yaml"), "token: secret\n")
	write(t, filepath.Join(dropIns+".d", "40.txt"), "data-dir: /never\n")
	for name, test := range map[string]struct {
		args, env []string
		want      string
	}{
		"a flag":                         {[]string{"--data-dir", "/a", "--tls-san", "x"}, nil, "/a"},
		"the last flag":                  {[]string{"--data-dir=/never", "-d", "/b"}, []string{"K3S_DATA_DIR=/never"}, "/b"},
		"a flag over the file":           {[]string{"--config=" + config, "-d=/c"}, nil, "/c"},
		"a relative path":                {[]string{"-d", "k3s"}, nil, "/srv/k3s"},
		"the file":                       {[]string{"--config", config}, []string{"K3S_DATA_DIR=/never"}, "/from/config"},
		"the file that a variable names": {[]string{"-c", config}, []string{"K3S_CONFIG_FILE=" + dropIns}, "/from/drop-in"},
		"a variable":                     {[]string{"--config=" + filepath.Join(dropIns+".d", "30.yaml")}, []string{"K3S_DATA_DIR=/e"}, "/e"},
	} {
		if got, err := k3s.dataDir(systemd.Command{Args: test.args, Env: test.env, Dir: "/srv"}); err != nil || got != test.want {
			t.Errorf("%s: %q, %v; expected %q", name, got, err, test.want)
		}
	}
	if _, err := k3s.dataDir(systemd.Command{Args: []string{"--config=" + filepath.Join(dir, "lacks")}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is named and not there: %v", err)
	}
	if _, err := os.Stat(k3s.Config); errors.Is(err, fs.ErrNotExist) {
		if got, err := k3s.dataDir(systemd.Command{}); err != nil || got != k3s.DataDir {
			t.Errorf("told nothing: %q, %v", got, err)
		}
	}
}
