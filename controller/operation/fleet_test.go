package operation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// fleet stands for the nodes. A SaveCopy task applies the effect that it names, a DropCopy task takes it
// away; every other task is a question. Like agents, nodes look at what is there and answer a task that
// they have done with what they answered then.
type fleet struct {
	mu     sync.Mutex
	nodes  map[string]*fakeNode
	events []string                                                      // "do stage a", "undo stage a", in the order in which they took effect
	ids    []string                                                      // of every task that came, in order
	tasks  []*agentv1.Task                                               // the same, in full
	before func(ctx context.Context, node string, t *agentv1.Task) error // may fail a task before it has its effect
	after  func(ctx context.Context, node string, t *agentv1.Task) error // may fail a task that has had its effect
}

type fakeNode struct {
	effects  map[string]bool
	answered map[string]bool // IDs of tasks that succeeded
}

func newFleet(names ...string) *fleet {
	f := &fleet{nodes: make(map[string]*fakeNode)}
	for _, name := range names {
		f.nodes[name] = &fakeNode{effects: make(map[string]bool), answered: make(map[string]bool)}
	}
	return f
}

func (f *fleet) Do(ctx context.Context, _, node string, t *agentv1.Task, report func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	f.note(t)
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if f.before != nil {
		if err := f.before(ctx, node, t); err != nil {
			return nil, err
		}
	}
	report(&agentv1.TaskReport{TaskId: t.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING, DoneBytes: 1, TotalBytes: 2, Ticks: 1})
	if err := f.apply(node, t); err != nil {
		return nil, err
	}
	if f.after != nil {
		if err := f.after(ctx, node, t); err != nil {
			return nil, err
		}
	}
	return &agentv1.TaskResult{}, nil
}

func (f *fleet) note(t *agentv1.Task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids = append(f.ids, t.GetId())
	f.tasks = append(f.tasks, t)
}

func (f *fleet) apply(node string, t *agentv1.Task) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node]
	if n == nil {
		return fmt.Errorf("there is no node %q", node)
	}
	if n.answered[t.GetId()] {
		return nil
	}
	n.answered[t.GetId()] = true
	switch effect := t.GetSaveCopy().GetName(); {
	case effect != "" && !n.effects[effect]:
		n.effects[effect] = true
		f.events = append(f.events, "do "+effect+" "+node)
	case n.effects[t.GetDropCopy().GetName()]:
		delete(n.effects, t.GetDropCopy().GetName())
		f.events = append(f.events, "undo "+t.GetDropCopy().GetName()+" "+node)
	}
	return nil
}

// left lists the effects that are there, as "a:stage b:stage".
func (f *fleet) left() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for name, n := range f.nodes {
		for effect := range n.effects {
			all = append(all, name+":"+effect)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// on lists what took effect on one node, in order.
func (f *fleet) on(node string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, e := range f.events {
		if what, found := strings.CutSuffix(e, " "+node); found {
			all = append(all, what)
		}
	}
	return all
}

// isDo tells whether a task is a step's effect on a node, isUndo whether it is the way back.
func isDo(t *agentv1.Task, step string) bool   { return t.GetSaveCopy().GetName() == step }
func isUndo(t *agentv1.Task, step string) bool { return t.GetDropCopy().GetName() == step }

var errNode = errors.New("disk on fire")
