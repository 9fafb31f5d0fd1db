package sites

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/fault"
)

// restore restores the cluster, which must work, and looks at everything.
func (s *site) restore(saved harness.World) {
	s.t.Helper()
	s.Write(3)
	before := s.Look()
	s.begin()
	op := s.Settle()
	if op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		s.t.Fatalf("the restore: %s", harness.Briefly(op))
	}
	s.judge(op, before, saved)
}

// wrongClock saves and restores while the clock of one host is an hour ahead, then behind, also for an agent that starts then.
func (s *site) wrongClock(saved harness.World) {
	const wrong = "etcd-2"
	for i, skew := range []time.Duration{time.Hour, -time.Hour, 0} {
		s.turnClock(wrong, skew)
		name := fmt.Sprintf("by-a-wrong-clock-%d", i)
		s.Do("snapshot", "save", "--name", name)
		if latest := s.Do("snapshot", "show", "latest").Stdout; !strings.Contains(latest, name) {
			s.t.Errorf("the latest snapshot is not %s:\n%s", name, latest)
		}
		s.restore(saved)
		s.host(wrong).Run("systemctl", "restart", "requorum-agent")
		s.JudgeNodes()
	}
	s.Disarm()
}

// turnClock makes the clock of a host wrong for requorum, and returns when its agent goes by it.
func (s *site) turnClock(node string, skew time.Duration) {
	s.t.Helper()
	s.Arm(fault.ClockName, node, skew.String())
	trace := filepath.Join(s.armed(), fault.FileName(fault.ClockName, node)+fault.FiredSuffix)
	s.host(node).Await("its clock is turned", func() (bool, error) {
		turned, err := fault.ReadFirings(trace)
		if errors.Is(err, fs.ErrNotExist) {
			return skew == 0, nil
		}
		return len(turned) > 0 && turned[len(turned)-1].Action == skew.String(), err
	})
}

const (
	vault    = "/var/lib/requorum/agent/snapshots"
	diskSize = 256 << 20 // a copy leaves 64 MiB free
)

// fullDisk fills the disk that holds one node's snapshots. A save and a restore that need it are given up and change nothing;
// once there is room again, both work.
func (s *site) fullDisk(saved harness.World) {
	const full = "etcd-3"
	h := s.host(full)
	h.Run("sh", "-c", fmt.Sprintf("systemctl stop requorum-agent && mv %[1]s %[1]s.disk && mkdir -m 0700 %[1]s && mount -t tmpfs -o size=%[2]d,mode=0700 tmpfs %[1]s && "+
		"cp -a %[1]s.disk/. %[1]s/ && systemctl start requorum-agent", vault, diskSize))
	s.JudgeNodes()
	s.lack(full)
	h.Run("sh", "-c", "head -c 1G /dev/zero >"+vault+"/ballast || true")
	before := s.Look()
	if r := s.CLI("snapshot", "save", "--name", "no-room"); r.Code == 0 || !strings.Contains(r.Stderr, full) {
		s.t.Errorf("a save to a full disk does not name the node\n%s", r)
	}
	s.begin()
	op := s.Settle()
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED || op.GetFailure().GetNode() != full {
		s.t.Errorf("a restore with a full disk on %s: %s", full, harness.Briefly(op))
	}
	h.Run("sh", "-c", "rm -f "+vault+"/ballast")
	s.judge(op, before, saved)
	s.Do("snapshot", "distribute", base)
	s.Do("snapshot", "save", "--name", "room-again")
	s.restore(saved)
	h.Run("sh", "-c", fmt.Sprintf("systemctl stop requorum-agent && rm -rf %[1]s.disk && cp -a %[1]s %[1]s.disk && umount %[1]s && rmdir %[1]s && mv %[1]s.disk %[1]s && "+
		"systemctl start requorum-agent", vault))
	s.JudgeNodes()
}

// loseController takes the controller's host away for good in the middle of a step, and sets up another one with its data.
func (s *site) loseController(seed uint64, middles []string, saved harness.World) {
	plan := harness.Plans()["restore"]
	for i := range 2 { // before the pivot and after it, more or less
		step := plan[(int(seed%7)+7*i)%len(plan)].Name
		s.t.Log("lost in", step)
		s.Write(3)
		before := s.Look()
		h := s.hold(strike{step: step, victim: controllerHost}, middles)
		s.controller.Lose()
		h.release()
		s.controller.Replace()
		s.install(s.controller)
		s.startController()
		op := s.Settle()
		s.t.Logf("held at %s; it %s %s", h.point, harness.Ending(op), op.GetFailure().GetMessage())
		if op.GetId() != h.id {
			s.t.Fatalf("the restore is %s, and the last operation %s", h.id, op.GetId())
		}
		s.judge(op, before, saved)
	}
	s.Disarm()
}

// missed restores the cluster while a host is off. It comes back with old data, which starts at once; its agent stops it
// for good.
func (s *site) missed(saved harness.World) {
	off, rest := s.nodes[2], []string{"etcd-1", "etcd-2"}
	s.Write(3)
	off.PowerOff()
	s.cli("restore", "--snapshot", base, "--nodes", strings.Join(rest, ","), "--yes")
	off.PowerOn()
	kept := func() (bool, error) { err := s.kept(off); return err == nil, err }
	off.Await("its etcd is kept stopped", kept)
	before, err := s.begun(off)
	s.must(err)
	off.Reboot()
	off.Await("its etcd is kept stopped after a reboot", kept)
	since, err := s.begun(off)
	s.must(err)
	if since = strings.TrimSpace(since); since != "" && since != strings.TrimSpace(before) {
		s.t.Errorf("the old data was started after the reboot, at %s", since)
	}
	if diff := s.Now(rest...).Diff(saved.State); diff != "" {
		s.t.Errorf("the others hold something else: %s", diff)
	}
	if status := s.cli("cluster", "status"); !strings.Contains(status, "fenced") {
		s.t.Errorf("nobody is told that a host missed a restore:\n%s", status)
	}
}
