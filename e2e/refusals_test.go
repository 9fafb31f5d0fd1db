package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/loopback"
	"github.com/requorum/requorum/internal/pki"
)

// What cannot be meant, or cannot be done now, is refused with one error that names the thing and what to do, and
// changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	save(t, c, "good")
	was := stands(t, c)
	for _, part := range []struct {
		name string
		try  func(*testing.T, *harness.Cluster)
	}{
		{"strangers", strangers},
		{"names and flags", badWords},
		{"configuration files", badFiles},
		{"directories in use", usedDirectories},
		{"join tokens", badTokens},
		{"quota", smallQuota},
		{"node offline", offline},
		{"no quorum", withoutQuorum},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.try(t, c)
			was.same(t, c)
			nothingLeft(t, c)
		})
	}
}

// strangers may ask whether the controller lives, and nothing else; an admin sees all there is to call.
func strangers(t *testing.T, c *harness.Cluster) {
	bin, admin := grpcurl(t), filepath.Dir(c.AdminConfig())
	stranger := []string{"-cacert", filepath.Join(admin, "ca.crt")}
	known := append(stranger, "-cert", filepath.Join(admin, "client.crt"), "-key", filepath.Join(admin, "client.key"))
	r := c.Run(bin, append(known, c.Address, "list")...)
	says(t, r, "requorum.v1.ClusterService", "requorum.v1.SnapshotService", "requorum.v1.RestoreService", "requorum.v1.OperationService",
		"requorum.v1.AccessService", "grpc.health.v1.Health")
	says(t, c.Run(bin, append(known, c.Address, "describe", "requorum.v1.RestoreSpec")...), "left_out_destroyed", "allow_version_mismatch")
	health := []string{"-import-path", filepath.Dir(healthProto(t)), "-proto", "health.proto", c.Address, "grpc.health.v1.Health/Check"}
	for _, who := range [][]string{stranger, known} {
		if r := c.Run(bin, append(who, health...)...); r.Code != 0 || !strings.Contains(r.Stdout, `"SERVING"`) {
			t.Errorf("health\n%s", r)
		}
	}
	for _, what := range [][]string{{c.Address, "list"}, {c.Address, "requorum.v1.SnapshotService/SaveSnapshot"}} {
		r := c.Run(bin, append(append(stranger, "-d", `{"cluster": "prod", "name": "strange"}`), what...)...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "this call needs a client certificate") {
			t.Errorf("without a certificate\n%s", r)
		}
	}
}

// healthProto is gRPC's health service for somebody who may not ask by reflection.
func healthProto(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "health.proto")
	must(t, os.WriteFile(path, []byte(`syntax = "proto3";
package grpc.health.v1;
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } ServingStatus status = 1; }
service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }
`), 0o600))
	return path
}

func badWords(t *testing.T, c *harness.Cluster) {
	saveAs := func(name string) []string { return []string{"snapshot", "save", "--name", name} }
	for _, tc := range []struct {
		code    int
		command []string
		says    []string
	}{
		{3, []string{"restore", "--snapshot", "nope", "--yes"}, []string{"nope", "requorum snapshot ls"}},
		{3, []string{"restore", "--snapshot", "nope", "--plan"}, []string{"nope", "requorum snapshot ls"}},
		{3, []string{"snapshot", "check", "nope"}, []string{"nope", "requorum snapshot ls"}},
		{3, []string{"snapshot", "rm", "nope", "--yes"}, []string{"nope", "requorum snapshot ls"}},
		{3, []string{"snapshot", "export", "nope", "--file", filepath.Join(t.TempDir(), "out")}, []string{"nope", "requorum snapshot ls"}},
		{3, saveAs("../escape"), []string{`"../escape"`, "A-Z a-z 0-9 . _ -"}},
		{3, saveAs(".hidden"), []string{`".hidden"`}},
		{3, saveAs("a:b"), []string{`"a:b"`, "A-Z a-z 0-9 . _ -"}},
		{3, saveAs(strings.Repeat("n", 129)), []string{"128"}},
		{3, saveAs("latest"), []string{`"latest"`}},
		{3, saveAs("good"), []string{"good", "another name"}},
		{3, []string{"snapshot", "import", "--node", "etcd-1", "--path", "/etc/hostname", "--name", "good"}, []string{"good", "another name"}},
		{3, []string{"snapshot", "import", "--node", "etcd-9", "--path", "/etc/hostname"}, []string{"etcd-9", "it has etcd-1, etcd-2, etcd-3"}},
		{3, []string{"snapshot", "import", "--node", "etcd-1", "--path", "../etc/hostname"}, []string{"../etc/hostname", "absolute path"}},
		{3, []string{"snapshot", "save", "--cluster", "staging"}, []string{"staging", "requorum cluster ls"}},
		{3, []string{"restore", "--cluster", "staging", "--snapshot", "good", "--yes"}, []string{"staging", "requorum cluster ls"}},
		{3, []string{"cluster", "status", "staging"}, []string{"staging", "requorum cluster ls"}},
		{3, []string{"cluster", "remove-node", harness.Name, "etcd-9"}, []string{"etcd-9"}},
		{3, []string{"snapshot", "rm", "good", "--yes"}, []string{"good is the last good snapshot", "save another one first, or give --force"}},
		{2, []string{"snapshot", "save", "--nam", "x"}, []string{"--nam", "see: requorum snapshot save --help"}},
		{2, []string{"snapshot", "sav"}, []string{`"sav"`, "did you mean save?"}},
		{2, []string{"snapshot", "save", "extra"}, []string{`"extra"`}},
		{2, []string{"restore", "--yes"}, []string{"--snapshot"}},
		{2, []string{"restore", "--snapshot", "good"}, []string{"--plan", "--yes"}}, // nobody can be asked
		{2, []string{"restore", "--snapshot", "good", "--yes", "--bump-revision", "1", "--no-bump"}, []string{"--bump-revision and --no-bump"}},
		{2, []string{"restore", "--snapshot", "good", "--yes", "--quarantine", "3"}, []string{"3", "72h"}},
	} {
		refused(t, c, tc.code, tc.command, tc.says...)
	}
	if found, err := filepath.Glob(filepath.Join(c.Dir, "etcd-*", "agent", "escape*")); err != nil || len(found) > 0 {
		t.Errorf("a name led out of its directory: %v, %v", found, err)
	}
}

func badFiles(t *testing.T, c *harness.Cluster) {
	for _, tc := range []struct {
		role, text string
		says       string
	}{
		{"agent", "controller: 127.0.0.1:1\ntransfer:\n  listne: 127.0.0.1:0\n", ":3: unknown key listne; did you mean listen?"},
		{"agent", "controller: 127.0.0.1:1\nstart_wait: soon\n", `:2: "soon" is not a duration`},
		{"agent", "controller: 127.0.0.1:1\n  node: x\n", ":2: "},
		{"controller", "listen: 127.0.0.1:0\ndata_dri: /tmp\n", ":2: unknown key data_dri; did you mean data_dir?"},
		{"controller", "listen: 127.0.0.1:0\nlisten: 127.0.0.1:0\n", ":2: listen is given twice, first in line 1"},
	} {
		path := filepath.Join(t.TempDir(), tc.role+".yaml")
		must(t, os.WriteFile(path, []byte(tc.text), 0o600))
		refused(t, c, 2, []string{tc.role, "--config", path}, path+tc.says, "see: requorum "+tc.role+" --help")
	}
	refused(t, c, 2, []string{"agent", "--config", "/none/agent.yaml"}, "/none/agent.yaml")
}

func usedDirectories(t *testing.T, c *harness.Cluster) {
	data, err := os.ReadFile(filepath.Join(c.Dir, "controller.yaml"))
	must(t, err)
	second := filepath.Join(t.TempDir(), "controller.yaml")
	must(t, os.WriteFile(second, []byte(strings.Replace(string(data), c.Address, "127.0.0.1:0", 1)), 0o600))
	for _, tc := range []struct {
		command []string
		says    []string
	}{
		{[]string{"controller", "--config", second}, []string{filepath.Join(c.Dir, "controller"), "another controller"}},
		{[]string{"agent", "--config", agentFile(c, "etcd-2")}, []string{c.Node("etcd-2").AgentDir, "another agent uses it; stop that one first"}},
	} {
		r := errorOf(c.CLI(tc.command...))
		if r.Code != 1 {
			t.Errorf("want exit code 1\n%s", r)
		}
		complains(t, r, tc.says...)
	}
	if n := nodes(t, c)["etcd-2"]; !n.GetConnected() || !n.GetMember().GetServing() {
		t.Errorf("the first agent on the directory suffers: %v", n)
	}
}

// badTokens starts agents of a new node, whose etcd must not be needed.
func badTokens(t *testing.T, c *harness.Cluster) {
	good := strings.TrimSpace(c.Do("token", "create", "--cluster", harness.Name).Stdout)
	parsed, err := pki.ParseToken(good)
	must(t, err)
	other := parsed
	other.CAFingerprint = strings.Repeat("ab", 32)
	unknown, err := pki.NewToken(harness.Name, parsed.CAFingerprint)
	must(t, err)
	var short requorumv1.CreateTokenResponse
	c.JSON(&short, "token", "create", "--cluster", harness.Name, "--ttl", "1s")
	elsewhere := strings.TrimSpace(c.Do("token", "create", "--cluster", harness.Name, "--node", "etcd-7").Stdout)
	<-time.After(time.Until(short.GetExpires().AsTime()) + 50*time.Millisecond)
	for _, tc := range []struct {
		name, token string
		code        int
		says        []string
	}{
		{"expired", short.GetToken(), 3, []string{"has expired", "requorum token create --cluster prod"}},
		{"garbage", "let-me-in", 1, []string{"not a join token"}},
		{"cut off", good[:len(good)-5], 1, []string{"not a join token", "cut off"}},
		{"none", "", 1, []string{"there is no join token", "requorum token create"}},
		{"of another CA", other.String(), 1, []string{"does not belong to the CA that the join token names", "make a new token"}},
		{"not known", unknown.String(), 3, []string{"not known", "requorum token create --cluster NAME --node etcd-8"}},
		{"of another node", elsewhere, 3, []string{"for another node", "etcd-7"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := errorOf(c.CLI("agent", "--config", newAgent(t, c, "etcd-8"), "--token", tc.token))
			if r.Code != tc.code {
				t.Errorf("want exit code %d\n%s", tc.code, r)
			}
			complains(t, r, append(tc.says, "etcd-8")...)
			if strings.Contains(r.Stderr, parsed.Secret) || strings.Contains(r.Stderr, "rpc error") {
				t.Errorf("the error tells the secret, or gRPC's words\n%s", r)
			}
		})
	}
	r := errorOf(c.CLI("agent", "--config", newAgent(t, c, "etcd-1"), "--token", good))
	if r.Code != 3 {
		t.Errorf("want exit code 3\n%s", r)
	}
	complains(t, r, "etcd-1", "enrolled already", "--node etcd-1")
	if all := nodes(t, c); len(all) != 3 || !all["etcd-1"].GetConnected() {
		t.Errorf("the nodes are %v", all)
	}
}

// newAgent writes the configuration of an agent that runs nothing.
func newAgent(t *testing.T, c *harness.Cluster, node string) string {
	t.Helper()
	dir := t.TempDir()
	ports, err := loopback.Ports(1)
	must(t, err)
	cfg := agent.DefaultConfig()
	cfg.Controller, cfg.Node, cfg.DataDir = c.Address, node, filepath.Join(dir, "agent")
	cfg.Transfer.Listen = "127.0.0.1:" + strconv.Itoa(ports[0])
	cfg.Runtime.Exec = &agent.Exec{
		Stop: []string{"true"}, Start: []string{"true"}, Status: []string{"sh", "-c", "exit 3"},
		Member: agent.ExecMember{Name: node, DataDir: filepath.Join(dir, "etcd")},
	}
	data, err := yaml.Marshal(cfg)
	must(t, err)
	path := filepath.Join(dir, "agent.yaml")
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

// smallQuota gives the member of one node a quota that the snapshot does not fit.
func smallQuota(t *testing.T, c *harness.Cluster) {
	restartWith := func(change func(*agent.Process)) {
		must(t, c.Process("etcd-2").Stop())
		c.KillEtcd("etcd-2")
		reconfigure(t, c, "etcd-2", func(a *agent.Config) { change(a.Runtime.Process) })
		must(t, c.Process("etcd-2").Start())
		waitNode(t, c, "etcd-2", "serves", func(n *requorumv1.Node) bool { return n.GetConnected() && n.GetMember().GetServing() })
	}
	restartWith(func(p *agent.Process) { p.Command = append(p.Command, "--quota-backend-bytes=16384") })
	for _, last := range []string{"--plan", "--yes"} {
		refused(t, c, 3, []string{"restore", "--snapshot", "good", last}, "quota on etcd-2", "16 KiB", "raise quota-backend-bytes on that node")
	}
	restartWith(func(p *agent.Process) { p.Command = p.Command[:len(p.Command)-1] })
	c.Do("restore", "--snapshot", "good", "--plan")
}

func offline(t *testing.T, c *harness.Cluster) {
	must(t, c.Process("etcd-3").Stop())
	waitNode(t, c, "etcd-3", "is away", func(n *requorumv1.Node) bool { return !n.GetConnected() })
	refused(t, c, 3, []string{"snapshot", "save", "--name", "offline"}, "etcd-3", "not connected", "--allow-degraded", "nothing was stopped or changed")
	for _, last := range []string{"--plan", "--yes"} {
		refused(t, c, 3, []string{"restore", "--snapshot", "good", last}, "etcd-3", "not connected", "--nodes etcd-1,etcd-2", "nothing was stopped or changed")
	}
	refused(t, c, 3, []string{"snapshot", "rm", "good", "--yes"}, "etcd-3", "not connected")
	says(t, c.Do("cluster", "status"), "etcd-3: its agent is not connected")
	must(t, c.Process("etcd-3").Start())
	waitNode(t, c, "etcd-3", "is connected", func(n *requorumv1.Node) bool { return n.GetConnected() })
	save(t, c, "offline") // the name was not used up
	c.Do("snapshot", "rm", "offline", "--yes")
}

// withoutQuorum freezes two members, so that their agents are there and cannot start them anew.
func withoutQuorum(t *testing.T, c *harness.Cluster) {
	for _, node := range []string{"etcd-2", "etcd-3"} {
		pid := etcdOf(t, c, node)
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		defer func() {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
	}
	within(t, "etcd-1 keeps its leader", func() error {
		status, err := c.Client("etcd-1").Status(t.Context(), c.Endpoint("etcd-1"))
		if err == nil && status.Leader != 0 {
			err = fmt.Errorf("it is %x", status.Leader)
		}
		return err
	})
	refused(t, c, 3, []string{"snapshot", "save", "--name", "without-quorum"}, "etcd-1", "sees no leader", "lost its quorum", "requorum restore")
	refused(t, c, 3, []string{"snapshot", "save", "--name", "without-quorum", "--allow-degraded"}, "etcd-1", "lost its quorum")
}

// etcdOf returns the process of a node's etcd.
func etcdOf(t *testing.T, c *harness.Cluster, node string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Node(node).AgentDir, "process", "etcd.pid.json"))
	must(t, err)
	var rec struct{ PID int }
	must(t, json.Unmarshal(data, &rec))
	if rec.PID == 0 {
		t.Fatalf("etcd of %s does not run", node)
	}
	return rec.PID
}
