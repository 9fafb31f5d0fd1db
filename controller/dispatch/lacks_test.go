package dispatch

import (
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// For every kind of result there is a task that has failed without it, so that nobody works with what is not there.
func TestWhateverIsToFindSomethingIsNotDoneWithoutIt(t *testing.T) {
	asked := map[string]*agentv1.Task{
		"node":     {Spec: &agentv1.Task_InspectNode{}},
		"hash_kv":  {Spec: &agentv1.Task_HashKv{}},
		"copy":     {Spec: &agentv1.Task_SaveCopy{}},
		"manifest": {Spec: &agentv1.Task_InspectCopy{}},
		"hashed":   {Spec: &agentv1.Task_HashCopy{}},
		"staged":   {Spec: &agentv1.Task_Stage{}},
		"verified": {Spec: &agentv1.Task_Verify{}},
		"swapped":  {Spec: &agentv1.Task_Swap{}},
		"old":      {Spec: &agentv1.Task_InspectOld{}},
		"stored":   {Spec: &agentv1.Task_UploadCopy{}},
		"remote":   {Spec: &agentv1.Task_ListRemote{}},
		"drilled":  {Spec: &agentv1.Task_DrillCopy{}},
		"bundle":   {Spec: &agentv1.Task_PackFiles{}},
		"compared": {Spec: &agentv1.Task_CompareFiles{}},
	}
	optional := map[string]bool{"fetched": true, "copies": true} // nothing to list is an answer
	results := new(agentv1.TaskResult).ProtoReflect().Descriptor().Oneofs().ByName("result").Fields()
	for i := range results.Len() {
		name := string(results.Get(i).Name())
		if task := asked[name]; !optional[name] && (task == nil || !lacks(task, nil)) {
			t.Errorf("a task that is to find %q is done without it", name)
		}
	}
	for _, task := range []*agentv1.Task{{Spec: &agentv1.Task_ImportCopy{}}, {Spec: &agentv1.Task_SaveOld{}}} {
		if !lacks(task, nil) {
			t.Errorf("%T is done without a copy", task.GetSpec())
		}
	}
}
