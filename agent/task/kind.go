package task

import (
	"strings"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/fault"
)

var specs = new(agentv1.Task).ProtoReflect().Descriptor().Oneofs().ByName("spec")

// Kind names what a task does, as "save_copy"; empty for a task that this agent does not know.
func Kind(task *agentv1.Task) string {
	field := task.ProtoReflect().WhichOneof(specs)
	if field == nil {
		return ""
	}
	return string(field.Name())
}

// _ makes a test able to fail every kind of task.
var _ = declarePoints()

// declarePoints declares the fault points of every kind of task.
func declarePoints() (declared bool) {
	if !fault.Enabled {
		return false
	}
	for i := range specs.Fields().Len() {
		kind := string(specs.Fields().Get(i).Name())
		fault.Declare(pointDeliver(kind), "the task comes in; \"twice\" makes it come in again")
		fault.Declare(pointBefore(kind), "the task is journaled, and nothing has been done")
		fault.Declare(pointAfter(kind), "the task is done, which is not journaled yet")
		fault.Declare(pointReport(kind), "the answer is about to be sent; an error loses it together with the session")
		if !atOnce[kind] {
			fault.Declare(pointMiddle(kind), "the task has shown its first progress")
		}
	}
	return true
}

// atOnce are the kinds of tasks that show no progress: they have no middle.
var atOnce = map[string]bool{
	"inspect_node": true, "list_copies": true, "drop_copy": true, "write_manifest": true, "unstage": true,
	"drop_remote": true, "list_remote": true,
}

// Points lists the fault points at which a task can be made to fail in any case, such as "agent/save-copy/before".
func Points() []string {
	var names []string
	for i := range specs.Fields().Len() {
		kind := string(specs.Fields().Get(i).Name())
		names = append(names, pointBefore(kind), pointAfter(kind))
	}
	return names
}

func pointDeliver(kind string) string { return pointOf(kind) + "/deliver" }
func pointBefore(kind string) string  { return pointOf(kind) + "/before" }
func pointMiddle(kind string) string  { return pointOf(kind) + "/middle" }
func pointAfter(kind string) string   { return pointOf(kind) + "/after" }
func pointReport(kind string) string  { return pointOf(kind) + "/report" }

func pointOf(kind string) string { return "agent/" + strings.ReplaceAll(kind, "_", "-") }
