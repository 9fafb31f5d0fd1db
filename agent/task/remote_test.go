package task

import (
	"errors"
	"testing"

	"github.com/requorum/requorum/agent/remote"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/objectstore"
)

// stubStore is a store of which nothing is asked.
type stubStore struct{ remote.Store }

func (stubStore) Marker() string { return "" }
func (stubStore) Close() error   { return nil }

// Who waits for a remote is told why, until something moves again.
func TestTheProgressTellsWhyARemoteIsTriedAgain(t *testing.T) {
	p := &Progress{runner: &Runner{}, execution: &execution{task: &agentv1.Task{Id: "a"}, report: &agentv1.TaskReport{}}}
	tells := func(want string) {
		t.Helper()
		if got := p.execution.report.GetDetail(); got != want {
			t.Errorf("it tells %q, want %q", got, want)
		}
	}
	var moved func()
	var again func(error)
	n := &Node{Remote: func(_ *agentv1.Remote, activity func(), failed func(error)) (remote.Store, error) {
		moved, again = activity, failed
		return stubStore{}, nil
	}}
	must(t, n.inRemote(nil, p, func(objectstore.Store) error {
		p.Detail("storing")
		moved()
		tells("storing")
		again(errors.New("connection refused"))
		tells("trying again: connection refused")
		moved()
		tells("")
		return nil
	}))
}
