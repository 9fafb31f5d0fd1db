package restore

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store/bolt"
)

// answers are nodes that answer every task in their own way. One that is not named never does.
type answers map[string]error

func (a answers) Do(ctx context.Context, _, node string, _ *agentv1.Task, _ func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	if err, known := a[node]; known {
		return &agentv1.TaskResult{}, err
	}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// asStep calls f as the only step of a restore on these nodes, and returns what it returned.
func asStep(t *testing.T, nodes operation.Nodes, job *journalv1.RestoreJob, f func(context.Context, *operation.Run) error) (result error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	const kind = requorumv1.OperationKind_OPERATION_KIND_RESTORE
	ended := make(chan struct{})
	step := operation.Step{Name: "step", Do: func(ctx context.Context, run *operation.Run) error {
		result = f(ctx, run)
		close(ended)
		return nil
	}}
	engine := operation.NewEngine(db, nodes, 1, map[requorumv1.OperationKind]operation.Builder{
		kind: func(*operation.Run) operation.Job { return operation.Job{Plan: operation.Plan{step}} },
	}, hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := engine.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	start(t, engine, job)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it waits for ever")
	}
	cancel()
	running.Wait()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	return result
}

// start starts a restore once the engine drives any.
func start(t *testing.T, engine *operation.Engine, job *journalv1.RestoreJob) {
	t.Helper()
	for {
		_, err := engine.Start(&journalv1.OperationRecord{
			Operation: &requorumv1.Operation{Kind: requorumv1.OperationKind_OPERATION_KIND_RESTORE, Cluster: "prod"},
			State:     &journalv1.OperationRecord_Restore{Restore: job},
		}, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, operation.ErrNotDriving) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
}

func TestTheGateIsLiftedByWhichMemberEverCan(t *testing.T) {
	job := &journalv1.RestoreJob{Nodes: []*journalv1.RestoreNode{{Node: "a"}, {Node: "b"}, {Node: "d"}}}
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		nodes answers
		want  []error
	}{
		"all can":                           {answers{"a": nil, "b": nil, "d": nil}, nil},
		"one does not answer":               {answers{"b": nil, "d": nil}, nil},
		"one can, one fails, one is silent": {answers{"b": refused, "d": nil}, nil},
		"none can":                          {answers{"a": refused, "b": refused, "d": refused}, []error{refused}},
		"who was removed does not count":    {answers{"a": dispatch.ErrRemoved, "b": refused, "d": dispatch.ErrRemoved}, []error{refused}},
	} {
		t.Run(name, func(t *testing.T) {
			err := asStep(t, tc.nodes, job, func(ctx context.Context, run *operation.Run) error {
				return askVoters(ctx, run, run.Restore(), &agentv1.Verify{LiftGate: true})
			})
			if (err == nil) != (tc.want == nil) || slices.ContainsFunc(tc.want, func(w error) bool { return !errors.Is(err, w) }) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
