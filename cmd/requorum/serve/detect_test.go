package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

var reports = []detect.Report{
	{Kind: "docker", Found: detect.Found{Looked: []string{"there is no Docker engine"}}},
	{Kind: "k3s", Err: errors.New("permission denied")},
	{Kind: "systemd", Found: detect.Found{Candidates: []detect.Candidate{{
		Place: "etcd.service", Config: map[string]any{"unit": "etcd.service"}, ControlPlane: []string{"kube-apiserver.service"},
		Member: runtime.Member{
			Name: "m1", Version: "3.6.7", Running: true, DataDir: "/var/lib/etcd", UID: 990, GID: 991,
			AdvertiseClientURLs: []string{"https://10.0.0.1:2379"}, AdvertisePeerURLs: []string{"https://10.0.0.1:2380"},
		},
		Missing: []string{"/pki/ca.crt is not there"},
	}}}},
}

func TestWhatIsDetectedIsShown(t *testing.T) {
	var out bytes.Buffer
	if err := showReports(&out, output.Table, reports); err != nil {
		t.Fatal(err)
	}
	const want = `docker
  there is no Docker engine
k3s
  ! permission denied
systemd
  etcd:           etcd.service
  member:         m1
  version:        3.6.7
  running:        yes
  data:           /var/lib/etcd
  owner:          990:991
  clients:        https://10.0.0.1:2379
  peers:          https://10.0.0.1:2380
  control plane:  kube-apiserver.service
  ! missing:      /pki/ca.crt is not there
  to choose it in the agent's configuration:
    runtime:
        systemd:
            unit: etcd.service
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestProgramsSeeTheSameAsPeople(t *testing.T) {
	for format, unmarshal := range map[output.Format]func([]byte, any) error{output.JSON: json.Unmarshal, output.YAML: yaml.Unmarshal} {
		var out bytes.Buffer
		if err := showReports(&out, format, reports); err != nil {
			t.Fatal(err)
		}
		var got []struct {
			Runtime    string
			Error      string
			Looked     []string
			Candidates []struct {
				Place  string
				Config map[string]string
				Member struct {
					Name    string
					DataDir string `json:"data_dir" yaml:"data_dir"`
					Running bool
				}
				Missing []string
			}
		}
		if err := unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		c := got[2].Candidates[0]
		if got[0].Looked[0] != "there is no Docker engine" || got[1].Error != "permission denied" || c.Place != "etcd.service" || c.Config["unit"] != "etcd.service" ||
			c.Member.Name != "m1" || c.Member.DataDir != "/var/lib/etcd" || !c.Member.Running || len(c.Missing) != 1 {
			t.Errorf("%s: %s", format, out.String())
		}
	}
}
