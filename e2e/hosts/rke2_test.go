package hosts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent/runtime/k3s/k3stest"
	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/hosttest"
)

const rke2Unit = "rke2-server.service"

// startRKE2 runs the stand-in for RKE2 on every node, each a server of one cluster.
func (s *site) startRKE2() {
	s.t.Helper()
	var cluster, endpoints []string
	for _, h := range s.nodes {
		cluster = append(cluster, fmt.Sprintf("%s-0a1b2c3d=http://%s:2380", h.Name, h.Address))
		endpoints = append(endpoints, fmt.Sprintf("http://%s:2379", h.Address))
	}
	for i, h := range s.nodes {
		h.Run("ln", "-s", h.InstallFrom("../../agent/runtime/rke2"), "/usr/local/bin/rke2")
		server := k3stest.Server{DataDir: "/var/lib/rancher/rke2", Etcd: k3stest.Etcd{
			Clients: "http://127.0.0.1:2379," + endpoints[i], Peers: fmt.Sprintf("http://%s:2380", h.Address), Cluster: strings.Join(cluster, ","),
		}}
		run(h, rke2Unit, server.Unit("/usr/local/bin/rke2"))
	}
	s.connect(endpoints...)
	for _, h := range s.nodes {
		h.Await("the control plane runs", func() (bool, error) { return containersOf(h)["kube-proxy"] != "", nil })
	}
}

// containersOf returns the processes of the containers that run on a host, by the component.
func containersOf(h *hosttest.Host) map[string]string {
	out := h.Run("sh", "-c", `cd /run/k3s/containerd/tasks && for pid in *.pid; do id=${pid%.pid}
		[ -e "$id.exit" ] || echo $(sed -n 's/.*"metadata": *{ *"name": *"\([a-z-]*\)".*/\1/p' "$id.config") $(cat "$pid"); done; true`)
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 2 {
			found[fields[0]] = fields[1]
		}
	}
	return found
}

// refuse is what keeps RKE2 from starting on restored data: old data lies beside it.
const refuse = "[Service]\nExecStartPre=/bin/sh -c '! test -e /var/lib/rancher/rke2/server/db/etcd.quarantine-*'\n"

func TestRestoreOfRKE2Servers(t *testing.T) {
	s := newSite(t, (*site).startRKE2)
	s.put("in the snapshot")
	s.cli("snapshot", "save", "--name", "before")
	s.put("after it")
	before := map[string]map[string]string{}
	for _, h := range s.nodes {
		before[h.Name] = containersOf(h)
	}

	last := s.nodes[2]
	last.Write("/etc/systemd/system/"+rke2Unit+".d/refuse.conf", refuse)
	last.Run("systemctl", "daemon-reload")
	if out, err := s.try("restore", "--snapshot", "before", "--yes"); err == nil || !strings.Contains(out+err.Error(), "everything is as it was") {
		t.Errorf("a restore that RKE2 does not start after: %v\n%s", err, out)
	}
	s.awaitHealthy()
	s.expect("after it")
	s.expectServers(before)

	last.Run("rm", "-r", "/etc/systemd/system/"+rke2Unit+".d")
	last.Run("systemctl", "daemon-reload")
	s.cli("restore", "--snapshot", "before", "--yes")
	s.expect("in the snapshot")
	s.expectServers(before)
}

// expectServers fails unless every component runs on every node, what writes to etcd anew and what does not as before, and
// nothing keeps RKE2 stopped.
func (s *site) expectServers(before map[string]map[string]string) {
	s.t.Helper()
	for _, h := range s.nodes {
		h.Await("the control plane runs", func() (bool, error) { return containersOf(h)["kube-controller-manager"] != "", nil })
		now := containersOf(h)
		if now["kube-proxy"] != before[h.Name]["kube-proxy"] || now["kube-apiserver"] == before[h.Name]["kube-apiserver"] || now["etcd"] == "" {
			s.t.Errorf("%s: containers %v, before the restore %v", h.Name, now, before[h.Name])
		}
		h.Run("systemctl", "is-active", rke2Unit)
		operator.ExpectNothingLeft(s.t, h)
	}
}
