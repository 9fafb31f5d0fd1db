package operation_test

import (
	"context"
	"testing"
	"testing/synctest"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
)

// A node that is not needed any more, because another one was faster, has not failed.
func TestNodeThatIsNotNeededHasNotFailed(t *testing.T) {
	for name, c := range map[string]struct {
		cause error
		want  requorumv1.StepState
	}{
		"another has done it": {operation.ErrNotNeeded, requorumv1.StepState_STEP_STATE_DONE},
		"another has failed":  {nil, requorumv1.StepState_STEP_STATE_FAILED},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, operation.Step{Name: "open", Do: func(ctx context.Context, run *operation.Run) error {
					asking, stop := context.WithCancelCause(ctx)
					stop(c.cause)
					if _, err := run.Ask(asking, "b", &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{}}}); err == nil {
						t.Error("b has answered")
					}
					return nil
				}})
				defer w.stop()
				tasks := w.wait(w.begin()).GetSteps()[0].GetTasks()
				if len(tasks) != 1 || tasks[0].GetState() != c.want {
					t.Errorf("shown as %v, want %v", tasks, c.want)
				}
			})
		})
	}
}
