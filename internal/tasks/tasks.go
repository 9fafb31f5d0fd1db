// Package tasks holds what controller and agent must agree on about tasks.
package tasks

import agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

// Question tells whether a task changes nothing on the node: it looks, or serves for as long as it runs.
// The controller gives each question an ID of its own, because an old answer is of no use; the agent
// neither journals questions nor lets one wait for another task.
func Question(task *agentv1.Task) bool {
	switch task.GetSpec().(type) {
	case *agentv1.Task_InspectNode, *agentv1.Task_HashKv, *agentv1.Task_InspectCopy, *agentv1.Task_HashCopy,
		*agentv1.Task_Verify, *agentv1.Task_ListCopies, *agentv1.Task_PushCopy, *agentv1.Task_ServeCopy,
		*agentv1.Task_InspectOld, *agentv1.Task_ListRemote, *agentv1.Task_CompareFiles:
		return true
	}
	return false
}
