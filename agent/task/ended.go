package task

import (
	"fmt"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// refuseEnded refuses to touch the data or etcd for a restore that is past its point of no return. A controller
// whose data came back from an older copy may take such a restore up again; swapping the old data back
// would then lose every write since.
func (n *Node) refuseEnded(task *agentv1.Task) error {
	id := touches(task)
	ended, err := n.Journal.Finished(id)
	if err != nil || !ended {
		return err
	}
	return &Refused{
		Message: fmt.Sprintf("restore %s has ended on this node", id),
		Advice:  "this controller's data is from an older copy; see requorum controller --epoch-at-least",
	}
}

// touches returns the restore for which a task changes data or stops or starts etcd. Opening and
// finishing are not among that: they undo nothing and may be asked for again.
func touches(task *agentv1.Task) (restoreID string) {
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_Stage:
		return spec.Stage.GetRestoreId()
	case *agentv1.Task_Unstage:
		return spec.Unstage.GetRestoreId()
	case *agentv1.Task_Stop:
		return spec.Stop.GetRestoreId()
	case *agentv1.Task_Swap:
		return spec.Swap.GetRestoreId()
	case *agentv1.Task_RestoreFiles:
		return spec.RestoreFiles.GetRestoreId()
	case *agentv1.Task_SwapBack:
		return spec.SwapBack.GetRestoreId()
	case *agentv1.Task_Start:
		if spec.Start.GetJoinCluster() == "" { // learners join an open cluster
			return spec.Start.GetRestoreId()
		}
	}
	return ""
}
