package sites

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// layouts are how etcd is run in the scenarios. Both meet the same ones, and share the faults of the steps.
func layouts() []layout { return []layout{units{}, containers{}} }

func TestUnits(t *testing.T)      { scenarios(t, 0) }
func TestContainers(t *testing.T) { scenarios(t, 1) }

// scenarios are what a site goes through, one after the other.
func scenarios(t *testing.T, turn int) {
	t.Parallel()
	s := newSite(t, layouts()[turn])
	s.part("found by the agent", s.detected)
	s.part("save, schedule, restore and a reboot of all", s.asReleased)
	s.useFaults()
	number := seed(t)
	t.Logf("seed %d; REQUORUM_HOSTS_SEED=%d repeats it", number, number)
	middles := inTheMiddle(t, s.faults)
	saved := s.Look()
	for _, k := range strikes(number, turn, s.names()) {
		s.part(k.String(), func() { s.suffers(k, middles, saved) })
	}
	s.part("a clock that is wrong by an hour", func() { s.wrongClock(saved) })
	s.part("a disk that is full", func() { s.fullDisk(saved) })
	s.part("the controller's host is lost in the middle of a restore", func() { s.loseController(number, middles, saved) })
	s.part("a host that missed a restore", func() { s.missed(saved) })
}

func (s *site) names() []string {
	var names []string
	for _, h := range s.hosts() {
		names = append(names, h.Name)
	}
	return names
}

// detected makes sure that nobody has to say how etcd is run.
func (s *site) detected() {
	for _, h := range s.nodes {
		out := h.Run("requorum", "agent", "detect")
		if !strings.Contains(out, s.runtime()+"\n  etcd:") || !strings.Contains(out, h.Name) || !strings.Contains(out, "kube-apiserver") {
			s.t.Errorf("%s: it is not seen how etcd is run:\n%s", h.Name, out)
		}
	}
}

// asReleased is what people do, with the binary of the package.
func (s *site) asReleased() {
	s.Write(100)
	before := s.Look()
	s.Do("snapshot", "save", "--name", base)
	s.scheduled()
	s.Write(50)
	if plan := s.cli("restore", "--snapshot", base, "--plan"); !strings.Contains(plan, "kube-apiserver") {
		s.t.Errorf("the plan does not say that the control plane is stopped:\n%s", plan)
	}
	then := s.Look()
	s.cli("restore", "--snapshot", base, "--yes")
	s.judge(s.Settle(), then, before)

	for _, h := range s.nodes { // the restored cluster comes up by itself
		h.Reboot()
	}
	s.awaitHealthy()
	if diff := s.Look().State.Diff(before.State); diff != "" {
		s.t.Errorf("after a reboot of all: %s", diff)
	}
	for _, h := range s.nodes {
		h.Await("what was stopped runs", func() (bool, error) { err := s.running(h); return err == nil, err })
	}
}

// scheduled lets a schedule take two snapshots, and removes it.
func (s *site) scheduled() {
	file := filepath.Join(s.dir, "schedule.yaml")
	s.must(os.WriteFile(file, []byte("name: often\ncluster: "+harness.Name+"\nevery: 1s\nlocalStorage: {last: 1}\n"), 0o600))
	s.Do("schedule", "apply", "-f", file)
	s.must(s.Until("the schedule does not run", func() bool {
		runs := 0
		for _, op := range s.Operations() {
			if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_SAVE && op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
				runs++
			}
		}
		return runs >= 3 // base is one
	}))
	s.Do("schedule", "rm", "often", "--yes")
	s.Settle()
}

// useFaults gives every host the binary with fault points.
func (s *site) useFaults() {
	s.t.Helper()
	s.faults = faultsBinary(s.t)
	for _, h := range s.hosts() {
		s.makeFaulty(h)
	}
	s.controller.Run("systemctl", "restart", "requorum-controller")
	for _, h := range s.nodes {
		h.Run("systemctl", "restart", "requorum-agent")
	}
	s.JudgeNodes()
}

// faultsBinary is the static binary that REQUORUM_HOSTS_BIN names, or one that is built as make e2e-hosts does.
func faultsBinary(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("REQUORUM_HOSTS_BIN"); given != "" {
		return given
	}
	file := filepath.Join(t.TempDir(), "requorum-hosts")
	cmd := exec.Command("make", "--directory", "../..", "build-hosts", "HOSTS_BIN="+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// suffers restores the cluster while a host suffers a fault, and brings nothing back by hand.
func (s *site) suffers(k strike, middles []string, saved harness.World) {
	s.Write(3)
	before := s.Look()
	s.lack("etcd-3")
	h := s.hold(k, middles)
	h.suffer()
	op := s.Settle()
	s.t.Logf("held at %s on %s; it %s %s", h.point, h.node, harness.Ending(op), op.GetFailure().GetMessage())
	if op.GetId() != h.id {
		s.t.Fatalf("the restore is %s, and the last operation %s", h.id, op.GetId())
	}
	s.judge(op, before, saved)
	s.Do("snapshot", "distribute", base)
	s.Disarm()
}

// lack makes a node lack the snapshot, so that there is something to distribute.
func (s *site) lack(node string) {
	s.host(node).Run("rm", fmt.Sprintf("/var/lib/requorum/agent/snapshots/%s.db", base))
}
