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

// points are where a test can make an agent fail: before and after every kind of task.
var points = declare()

func declare() []string {
	var names []string
	for i := range specs.Fields().Len() {
		kind := string(specs.Fields().Get(i).Name())
		names = append(names, fault.Declare(pointBefore(kind)), fault.Declare(pointAfter(kind)))
	}
	return names
}

// Points lists the fault points of this package, such as "agent/save-copy/before".
func Points() []string { return points }

func pointBefore(kind string) string { return pointOf(kind) + "/before" }
func pointAfter(kind string) string  { return pointOf(kind) + "/after" }

func pointOf(kind string) string { return "agent/" + strings.ReplaceAll(kind, "_", "-") }
