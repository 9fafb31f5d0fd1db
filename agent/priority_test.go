package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/task"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// printPriority makes the test binary print the priority of its session within tasks, and end.
const printPriority = "REQUORUM_TEST_PRIORITY"

func TestPriorityOfTasks(t *testing.T) {
	if os.Getenv(printPriority) != "" {
		printPriorities(t)
		return
	}
	mine, err := os.ReadFile(autogroup)
	if err != nil {
		t.Logf("this kernel has no autogroups: %v", err)
	}
	differs := "none nice 0\nlist nice 0\nsave nice 5\nlist nice 5\nhash nice 5\n"
	if os.Geteuid() == 0 { // the kernel takes the next change of others after a tenth of a second
		differs += "stop nice 0\n"
	}
	for _, own := range []bool{true, false} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), printPriority+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: own}
		out, runErr := cmd.CombinedOutput()
		if runErr != nil {
			t.Fatalf("%v\n%s", runErr, out)
		}
		want := differs
		if !own {
			_, nice, _ := strings.Cut(strings.TrimSpace(string(mine)), " ")
			want = strings.NewReplacer("nice 5", nice, "nice 0", nice).Replace(differs)
		}
		if err == nil && !strings.Contains(string(out), want) {
			t.Errorf("own session %v:\n%s, expected\n%s", own, out, want)
		}
	}
}

func printPriorities(t *testing.T) {
	p := priority{log: hclog.NewNullLogger()}
	show := func(during string) {
		now, _ := os.ReadFile(autogroup)
		_, nice, _ := strings.Cut(strings.TrimSpace(string(now)), " ")
		fmt.Fprintln(os.Stdout, during, nice)
	}
	show("none")
	for _, of := range []struct {
		name string
		task *agentv1.Task
	}{
		{"list", &agentv1.Task{Spec: &agentv1.Task_ListCopies{}}},
		{"save", &agentv1.Task{Spec: &agentv1.Task_SaveCopy{}}},
		{"list", &agentv1.Task{Spec: &agentv1.Task_ListCopies{}}},
		{"hash", &agentv1.Task{Spec: &agentv1.Task_HashCopy{}}},
		{"stop", &agentv1.Task{Spec: &agentv1.Task_Stop{}}},
	} {
		handle := p.of(func(context.Context, *agentv1.Task, *task.Progress) (*agentv1.TaskResult, error) {
			show(of.name)
			return nil, nil
		})
		if _, err := handle(t.Context(), of.task, nil); err != nil {
			t.Fatal(err)
		}
	}
}
