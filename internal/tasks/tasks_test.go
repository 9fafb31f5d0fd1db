package tasks_test

import (
	"slices"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/internal/tasks"
)

// Every kind of task is on this list or changes something. A new kind counts as one that does, which is
// the safe side: it is journaled and done once.
func TestQuestion(t *testing.T) {
	want := []string{"inspect_node", "hash_kv", "inspect_copy", "hash_copy", "push_copy", "verify", "list_copies", "serve_copy", "inspect_old", "list_remote", "compare_files"}
	var got []string
	fields := new(agentv1.Task).ProtoReflect().Descriptor().Oneofs().ByName("spec").Fields()
	for i := range fields.Len() {
		task := new(agentv1.Task)
		task.ProtoReflect().Set(fields.Get(i), task.ProtoReflect().NewField(fields.Get(i)))
		if tasks.Question(task) {
			got = append(got, string(fields.Get(i).Name()))
		}
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("questions are %v, want %v", got, want)
	}
	if tasks.Question(new(agentv1.Task)) {
		t.Error("a task without a spec is a question")
	}
}
