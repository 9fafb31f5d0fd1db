package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// World is what the members hold.
type World struct {
	Cluster uint64 // its ID
	State   State
	Leases  []int64
}

// Look waits until the cluster serves on every node and tells what it holds.
func (c *Cluster) Look() World {
	c.t.Helper()
	id, _, err := c.Serving()
	c.must(err)
	w := World{Cluster: id, State: c.Now()}
	ctx, cancel := c.patient("the leases were not told")
	defer cancel()
	resp, err := c.Client(c.Nodes[0].Name).Leases(ctx)
	if err != nil {
		c.t.Fatalf("leases: %v", err)
	}
	for _, l := range resp.Leases {
		w.Leases = append(w.Leases, int64(l.ID))
	}
	slices.Sort(w.Leases)
	return w
}

// JudgeEnd makes sure that an operation has ended as finished or reverted, or was refused by its first step, and asks for
// nobody.
func (c *Cluster) JudgeEnd(op *requorumv1.Operation) {
	c.t.Helper()
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_SUCCEEDED, requorumv1.OperationState_OPERATION_STATE_REVERTED:
	case requorumv1.OperationState_OPERATION_STATE_REFUSED:
		if first := op.GetSteps()[0].GetName(); op.GetFailure().GetStep() != first {
			c.t.Errorf("refused by step %s, which is no check: %s", op.GetFailure().GetStep(), Briefly(op))
		}
	default:
		c.t.Errorf("the operation ended as neither finished nor reverted: %s", Briefly(op))
	}
	if op.GetAttention() != "" {
		c.t.Errorf("it has ended and still asks for a person: %s", op.GetAttention())
	}
}

// JudgeData makes sure that the members hold what they should after an operation, in another cluster than before if it
// was a restore that finished, and else in the same.
func (c *Cluster) JudgeData(op *requorumv1.Operation, before, now, want World) {
	c.t.Helper()
	if diff := now.State.Diff(want.State); diff != "" {
		c.t.Errorf("the data after %s: %s", Ending(op), diff)
	}
	if !slices.Equal(now.Leases, want.Leases) {
		c.t.Errorf("the leases after %s are %x, want %x", Ending(op), now.Leases, want.Leases)
	}
	restored := op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_RESTORE && op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
	if restored == (now.Cluster == before.Cluster) {
		c.t.Errorf("after %s the cluster ID is %x, before it was %x", Ending(op), now.Cluster, before.Cluster)
	}
}

// JudgeNodes waits until every node is connected and of the cluster's generation.
func (c *Cluster) JudgeNodes() {
	c.t.Helper()
	err := c.until("the nodes do not agree with the controller", func(ctx context.Context) error {
		resp, err := requorumv1.NewClusterServiceClient(c.Conn()).GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: Name})
		for _, n := range resp.GetCluster().GetNodes() {
			if !n.GetConnected() || n.GetFenced() || n.GetGeneration() != resp.GetCluster().GetGeneration() {
				err = errors.Join(err, fmt.Errorf("%s: connected %v, fenced %v, generation %d of %d", n.GetName(), n.GetConnected(), n.GetFenced(), n.GetGeneration(), resp.GetCluster().GetGeneration()))
			}
		}
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
}

// Ending is the state of an operation in a word.
func Ending(op *requorumv1.Operation) string {
	return strings.ToLower(strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_"))
}

// Briefly says of an operation what matters when it hangs.
func Briefly(op *requorumv1.Operation) string {
	var steps []string
	for _, s := range op.GetSteps() {
		if s.GetState() == requorumv1.StepState_STEP_STATE_PENDING {
			continue
		}
		line := s.GetName() + " " + strings.TrimPrefix(s.GetState().String(), "STEP_STATE_")
		for _, t := range s.GetTasks() {
			line += fmt.Sprintf(" [%s %s %s]", t.GetNode(), strings.TrimPrefix(t.GetState().String(), "STEP_STATE_"), t.GetDetail())
		}
		steps = append(steps, line)
	}
	return fmt.Sprintf("%s %s; failure %q; attention %q; %s", op.GetId(), Ending(op), op.GetFailure().GetMessage(), op.GetAttention(), strings.Join(steps, "; "))
}
