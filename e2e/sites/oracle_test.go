package sites

import (
	"errors"
	"fmt"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// judge makes sure that a restore has ended one way or the other, that the hosts are as they should be then, and that
// nothing is left. It removes the old data that the restore keeps by right.
func (s *site) judge(op *requorumv1.Operation, before, saved harness.World) {
	s.t.Helper()
	s.JudgeEnd(op)
	want := before
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		want = saved
	}
	s.JudgeData(op, before, s.Look(), want)
	s.JudgeNodes()
	for _, h := range s.nodes {
		h.Await("what was stopped runs", func() (bool, error) { err := s.running(h); return err == nil, err })
	}
	s.judgeOldData(op)
	s.controller.Await("nothing is left", func() (bool, error) { err := s.left(); return err == nil, err })
	s.tidy(op)
}

// judgeOldData makes sure that old data is where the operation says.
func (s *site) judgeOldData(op *requorumv1.Operation) {
	s.t.Helper()
	if kept, want := len(op.GetQuarantines()), op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED; want != (kept > 0) {
		s.t.Errorf("after %s old data is kept on %d nodes", harness.Ending(op), kept)
	}
	for _, q := range op.GetQuarantines() {
		s.host(q.GetNode()).Run(append([]string{"ls", "-d"}, q.GetPaths()...)...)
	}
}

// left returns an error if a host has something that should not be there.
func (s *site) left() error {
	var errs []error
	for _, h := range s.nodes {
		out, err := on(h, "find", "/var/lib/requorum/agent", "/var/lib", "-maxdepth", "3", "-not", "-path", "/var/lib/docker/*", "-not", "-path", "/var/lib/containerd/*")
		errs = append(errs, err)
		if left := s.Excess(strings.Fields(out)); len(left) > 0 {
			errs = append(errs, fmt.Errorf("left behind on %s: %v", h.Name, left))
		}
	}
	return errors.Join(errs...)
}

// tidy removes what a restore leaves by right, so that the next one begins as it did.
func (s *site) tidy(op *requorumv1.Operation) {
	s.t.Helper()
	for _, q := range op.GetQuarantines() {
		s.host(q.GetNode()).Run(append([]string{"rm", "-r"}, q.GetPaths()...)...)
	}
}
