package etcdconf_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

func TestReadFollowsEtcdsPrecedence(t *testing.T) {
	files := map[string]string{"/etc/etcd.yaml": `
name: from-file
data-dir: /file/data
wal-dir: /file/wal
listen-client-urls: https://10.0.0.1:2379,https://127.0.0.1:2379
listen-peer-urls: https://10.0.0.1:2380
initial-advertise-peer-urls: https://10.0.0.1:2380
listen-metrics-urls: http://127.0.0.1:2381
quota-backend-bytes: 8589934592
client-transport-security:
  cert-file: server.crt
  key-file: /pki/server.key
  trusted-ca-file: /pki/ca.crt
  client-cert-auth: true
snapshot-count: 10000
log-outputs: [stderr]
`}
	for name, test := range map[string]struct {
		args, env []string
		want      runtime.Member
	}{
		"defaults": {want: runtime.Member{
			Name: "default", DataDir: "/srv/default.etcd",
			AdvertiseClientURLs: []string{"http://localhost:2379"}, ListenClientURLs: []string{"http://localhost:2379"},
			AdvertisePeerURLs: []string{"http://localhost:2380"}, ListenPeerURLs: []string{"http://localhost:2380"},
		}},
		"every way to write a flag": {
			args: []string{"--name=m1", "-data-dir", "/d", "--enable-pprof", "--quota-backend-bytes", "-1", "-wal-dir=/w", "--client-cert-auth", "--cert-file", "c.pem", "--name", "m2"},
			want: runtime.Member{
				Name: "m2", DataDir: "/d", WALDir: "/w", QuotaBytes: -1, ClientCertAuth: true, CertFile: "/srv/c.pem",
				AdvertiseClientURLs: []string{"http://localhost:2379"}, ListenClientURLs: []string{"http://localhost:2379"},
				AdvertisePeerURLs: []string{"http://localhost:2380"}, ListenPeerURLs: []string{"http://localhost:2380"},
			},
		},
		"flags win over variables, empty variables are not set": {
			args: []string{"--name=flag", "--listen-client-urls", "http://a:1,http://b:2"},
			env:  []string{"ETCD_NAME=env", "ETCD_DATA_DIR=rel", "ETCD_LISTEN_PEER_URLS=", "ETCD_TRUSTED_CA_FILE=/ca", "ETCD_AUTO_TLS=true", "PATH=/bin"},
			want: runtime.Member{
				Name: "flag", DataDir: "/srv/rel", ClientCertAuth: true, TrustedCAFile: "/ca", ClientAutoTLS: true,
				ListenClientURLs:  []string{"http://a:1", "http://b:2"}, // and no default to advertise
				AdvertisePeerURLs: []string{"http://localhost:2380"}, ListenPeerURLs: []string{"http://localhost:2380"},
			},
		},
		"a file excludes flags and variables": {
			args: []string{"--name=flag", "--config-file", "/etc/etcd.yaml", "--data-dir=/flag"},
			env:  []string{"ETCD_QUOTA_BACKEND_BYTES=1"},
			want: fromFile,
		},
		"a file named by a variable": {env: []string{"ETCD_CONFIG_FILE=/etc/etcd.yaml", "ETCD_NAME=env"}, want: fromFile},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := etcdconf.Read(etcdconf.Source{Args: test.args, Env: test.env, Dir: "/srv", ReadFile: func(path string) ([]byte, error) {
				if files[path] == "" {
					return nil, fs.ErrNotExist
				}
				return []byte(files[path]), nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var fromFile = runtime.Member{
	Name: "from-file", DataDir: "/file/data", WALDir: "/file/wal",
	ListenClientURLs:    []string{"https://10.0.0.1:2379", "https://127.0.0.1:2379"},
	AdvertiseClientURLs: []string{"http://localhost:2379"},
	ListenPeerURLs:      []string{"https://10.0.0.1:2380"},
	AdvertisePeerURLs:   []string{"https://10.0.0.1:2380"},
	ListenOtherURLs:     []string{"http://127.0.0.1:2381"},
	QuotaBytes:          8 << 30,
	ClientCertAuth:      true, TrustedCAFile: "/pki/ca.crt", CertFile: "/srv/server.crt", KeyFile: "/pki/server.key",
}

func TestReadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"what is no flag":           {[]string{"--name=a", "stray"}, `"stray" is not a flag`},
		"a quota in words":          {[]string{"--quota-backend-bytes=8GiB"}, "not a number"},
		"a listen address":          {[]string{"--listen-client-urls=//"}, "not a URL"},
		"a missing file":            {[]string{"--config-file=/no/such/file"}, "no such file"},
		"a boolean that is neither": {[]string{"--client-cert-auth=yes"}, "neither true nor false"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := etcdconf.Read(etcdconf.Source{Args: test.args})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("error %v does not say %q", err, test.says)
			}
		})
	}
}

func TestJoiningReplacesWhatSaysHowToBegin(t *testing.T) {
	args, env, err := etcdconf.Joining(
		[]string{"--name", "m3", "--initial-cluster", "m3=http://c:2380", "-initial-cluster-state=new", "--force-new-cluster", "--data-dir=/d"},
		[]string{"ETCD_INITIAL_CLUSTER_STATE=new", "ETCD_INITIAL_CLUSTER_TOKEN=t", "HOME=/root"},
		"m1=http://a:2380,m3=http://c:2380")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"--name", "m3", "--data-dir=/d", "--initial-cluster=m1=http://a:2380,m3=http://c:2380", "--initial-cluster-state=existing"}; !slices.Equal(args, want) {
		t.Errorf("arguments %q, expected %q", args, want)
	}
	if want := []string{"ETCD_INITIAL_CLUSTER_TOKEN=t", "HOME=/root"}; !slices.Equal(env, want) {
		t.Errorf("environment %q, expected %q", env, want)
	}
}

func TestJoiningIsNotPossibleWithAConfigurationFile(t *testing.T) {
	for _, test := range []struct{ args, env []string }{
		{args: []string{"--config-file=/etc/etcd.yaml"}},
		{env: []string{"ETCD_CONFIG_FILE=/etc/etcd.yaml"}},
	} {
		if _, _, err := etcdconf.Joining(test.args, test.env, "a=http://a:2380"); !errors.Is(err, etcdconf.ErrConfigFile) {
			t.Errorf("%q %q: %v", test.args, test.env, err)
		}
	}
}
