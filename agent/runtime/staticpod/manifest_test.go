package staticpod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cri"
)

func kubeadm(t *testing.T, changes ...string) *pod {
	t.Helper()
	text, err := os.ReadFile("testdata/etcd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(changes...).Replace(string(text))
	if len(changes) > 0 && changed == string(text) {
		t.Fatalf("nothing to change: %v", changes)
	}
	p, err := parse("etcd.yaml", []byte(changed))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func kubeadmMember() runtime.Member {
	return runtime.Member{
		Name: "cp-1", DataDir: "/data/etcd", Version: "3.5.15", QuotaBytes: 8 << 30,
		ListenClientURLs: []string{"https://127.0.0.1:2379", "https://10.0.0.11:2379"}, AdvertiseClientURLs: []string{"https://10.0.0.11:2379"},
		ListenPeerURLs: []string{"https://10.0.0.11:2380"}, AdvertisePeerURLs: []string{"https://10.0.0.11:2380"}, ListenOtherURLs: []string{"http://127.0.0.1:2381"},
		ClientCertAuth: true, TrustedCAFile: "/etc/kubernetes/pki/etcd/ca.crt", CertFile: "/etc/kubernetes/pki/etcd/server.crt", KeyFile: "/etc/kubernetes/pki/etcd/server.key",
	}
}

func TestManifestOfKubeadmIsRead(t *testing.T) {
	const dataMount = "    - mountPath: /var/lib/etcd\n      name: etcd-data\n"
	for name, c := range map[string]struct {
		changes []string
		version string
		want    func(*runtime.Member)
	}{
		"as it is":              {want: func(*runtime.Member) {}},
		"a mount within one":    {[]string{dataMount, "    - {mountPath: /var/lib, name: etcd-certs}\n" + dataMount}, "", func(*runtime.Member) {}},
		"a directory below":     {[]string{"--data-dir=/var/lib/etcd", "--data-dir=/var/lib/etcd/data"}, "", func(m *runtime.Member) { m.DataDir = "/data/etcd/data" }},
		"a sub-path":            {[]string{dataMount, dataMount + "      subPath: one\n"}, "", func(m *runtime.Member) { m.DataDir = "/data/etcd/one" }},
		"a WAL of its own":      {[]string{"--name=cp-1", "--name=cp-1\n    - --wal-dir=/var/lib/etcd/w"}, "", func(m *runtime.Member) { m.WALDir = "/data/etcd/w" }},
		"the pod's user":        {[]string{"  securityContext:\n", "  securityContext:\n    runAsUser: 901\n    runAsGroup: 902\n"}, "", func(m *runtime.Member) { m.UID, m.GID = 901, 902 }},
		"the container's user":  {[]string{"    resources:\n", "    securityContext: {runAsUser: 903, runAsGroup: 904}\n    resources:\n", "  securityContext:\n", "  securityContext:\n    runAsUser: 901\n"}, "", func(m *runtime.Member) { m.UID, m.GID = 903, 904 }},
		"a registry's port":     {[]string{"registry.k8s.io/etcd:3.5.15-0", "mirror:5000/k8s/etcd:v3.6.5-0@sha256:0a"}, "", func(m *runtime.Member) { m.Version = "3.6.5" }},
		"a version by itself":   {[]string{"etcd:3.5.15-0", "etcd:latest"}, "3.6.1", func(m *runtime.Member) { m.Version = "3.6.1" }},
		"args":                  {[]string{"    - --name=cp-1\n", "", "    image:", "    args: [--name=cp-1]\n    image:"}, "", func(*runtime.Member) {}},
		"variables":             {[]string{"--name=cp-1", "--name=$(A)-$$(A)-$(B)", "    image:", "    env: [{name: A, value: x}, {name: ETCD_QUOTA_BACKEND_BYTES, value: '1'}]\n    image:"}, "", func(m *runtime.Member) { m.Name = "x-$(A)-$(B)" }},
		"a variable is weaker":  {[]string{"    - --name=cp-1\n", "", "    image:", "    env: [{name: ETCD_NAME, value: v}]\n    image:"}, "", func(m *runtime.Member) { m.Name = "v" }},
		"etcd by its full path": {[]string{"    - etcd\n", "    - /usr/local/bin/etcd\n"}, "", func(*runtime.Member) {}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := kubeadm(t, c.changes...).member(c.version)
			if err != nil {
				t.Fatal(err)
			}
			want := kubeadmMember()
			c.want(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConfigurationFileIsReadFromTheHost(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etcd.conf"), []byte("name: of-the-file\ndata-dir: /var/lib/etcd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := kubeadm(t, "--name=cp-1", "--config-file=/conf/etcd.conf", "  volumes:\n", "  volumes:\n  - {name: conf, hostPath: {path: "+dir+"}}\n",
		"    volumeMounts:\n", "    volumeMounts:\n    - {name: conf, mountPath: /conf}\n").member("")
	if err != nil || m.Name != "of-the-file" || m.DataDir != "/data/etcd" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestManifestIsRefusedWithWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		changes []string
		says    string
	}{
		"a shell":                {[]string{"    - etcd\n", "    - /bin/sh\n"}, "exec runtime"},
		"a network of its own":   {[]string{"hostNetwork: true", "hostNetwork: false"}, "hostNetwork"},
		"data in no volume":      {[]string{"mountPath: /var/lib/etcd", "mountPath: /var/lib/etcd2"}, "/var/lib/etcd of container etcd is not on a hostPath"},
		"data in another volume": {[]string{"  - hostPath:\n      path: /data/etcd\n      type: DirectoryOrCreate\n", "  - emptyDir: {}\n"}, "hostPath"},
		"no version":             {[]string{"etcd:3.5.15-0", "etcd:latest"}, "runtime.staticpod.version"},
		"a variable from afar":   {[]string{"    image:", "    env: [{name: ETCD_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]\n    image:"}, "ETCD_NAME"},
		"many from afar":         {[]string{"    image:", "    envFrom: [{secretRef: {name: s}}]\n    image:"}, "envFrom"},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := kubeadm(t, c.changes...).member(""); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
	for _, text := range []string{"", "kind: [", "kind: Pod\nmetadata: {name: etcd}", "spec: {containers: [{name: etcd}]}"} {
		if _, err := parse("etcd.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "etcd.yaml") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A joining member's manifest has other flags and is otherwise the same pod.
func TestManifestThatJoins(t *testing.T) {
	text, err := kubeadm(t, "--quota-backend-bytes=8589934592", "--experimental=$(A)$$", "    image:", "    env: [{name: A, value: $$x}, {name: ETCD_INITIAL_CLUSTER_STATE, value: new}]\n    image:").joining("a=https://a:2380,cp-1=https://10.0.0.11:2380")
	if err != nil {
		t.Fatal(err)
	}
	p, err := parse("joining", text)
	if err != nil {
		t.Fatal(err)
	}
	args, env, err := p.etcd().commandLine()
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, want := range []string{"--initial-cluster=a=https://a:2380,cp-1=https://10.0.0.11:2380", "--initial-cluster-state=existing", "--name=cp-1", "--experimental=$x$"} {
		if strings.Count(line, want) != 1 {
			t.Errorf("%q is not once in %s", want, line)
		}
	}
	if strings.Contains(line, "cluster=cp-1=") || strings.Join(env, " ") != "A=$x" {
		t.Errorf("%s with %v", line, env)
	}
	m, err := p.member("")
	want := kubeadmMember()
	want.QuotaBytes = 0
	if diff := cmp.Diff(want, m); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if !strings.Contains(string(text), "priorityClassName: system-node-critical") {
		t.Error("the rest of the manifest is gone")
	}
}

func TestContainerRuntimeKnowsAPodByItsManifest(t *testing.T) {
	want := cri.Pod{Name: "etcd", Namespace: "kube-system", Containers: []string{"etcd"}}
	if diff := cmp.Diff(want, kubeadm(t).named()); diff != "" {
		t.Error(diff)
	}
}

func TestProbeIsAskedWhereTheKubeletAsks(t *testing.T) {
	c := container{Name: "etcd", Ports: []port{{Name: "probe-port", Number: 2381}}}
	for want, g := range map[string]httpGet{
		"http://127.0.0.1:2381/livez":  {Port: "2381", Path: "/livez"},
		"https://10.0.0.1:2381/readyz": {Port: "probe-port", Path: "readyz", Host: "10.0.0.1", Scheme: "HTTPS"},
	} {
		if got, err := c.url(&g); err != nil || got != want {
			t.Errorf("%s, %v; expected %s", got, err, want)
		}
	}
	if _, err := c.url(&httpGet{Port: "none"}); err == nil {
		t.Error("a port that there is not")
	}
}

func TestEndpointIsTheKubelets(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing":      {want: ""},
		"no endpoint":  {files: map[string]string{"config.yaml": "kind: KubeletConfiguration\n"}, want: ""},
		"a file":       {files: map[string]string{"config.yaml": "containerRuntimeEndpoint: unix:///run/crio/crio.sock\n"}, want: "unix:///run/crio/crio.sock"},
		"this node's":  {files: map[string]string{"config.yaml": "containerRuntimeEndpoint: /a\n", "instance-config.yaml": "containerRuntimeEndpoint: /b\n"}, want: "unix:///b"},
		"a flag":       {files: map[string]string{"config.yaml": "containerRuntimeEndpoint: /a\n", "kubeadm-flags.env": `KUBELET_KUBEADM_ARGS="--x=y --container-runtime-endpoint=unix:///c --z"` + "\n"}, want: "unix:///c"},
		"other flags":  {files: map[string]string{"kubeadm-flags.env": `KUBELET_KUBEADM_ARGS="--x=y"`, "config.yaml": "containerRuntimeEndpoint: /a\n"}, want: "unix:///a"},
		"quoted alone": {files: map[string]string{"kubeadm-flags.env": `KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=/run/c.sock"`}, want: "unix:///run/c.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := toldKubelet(dir); err != nil || got != c.want {
				t.Errorf("%q, %v; expected %q", got, err, c.want)
			}
		})
	}
}
