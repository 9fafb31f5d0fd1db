//go:build faultinject

package agent

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/task"
)

// Simulated is a node that a test simulates: what an agent works with there.
type Simulated struct {
	Name    string // also where its neighbours reach it
	Journal *journal.Journal
	Node    *task.Node
	Dial    func() grpc.ClientConnInterface // a new connection to the controller
	Log     hclog.Logger
}

// Simulate runs an agent on a simulated node until ctx ends. Session, runner and fence are those of Run; what
// serves neighbours and gets certificates is left out.
func Simulate(ctx context.Context, s Simulated) error {
	a := &agent{cfg: Config{Node: s.Name}, log: s.Log, journal: s.Journal, runtime: s.Node.Runtime, node: s.Node, fence: make(chan struct{}, 1)}
	a.cfg.Transfer.Advertise = s.Name
	a.dial = func() (clientConn, <-chan struct{}, error) { return simulatedConn{s.Dial()}, nil, nil }
	group, ctx := errgroup.WithContext(ctx)
	a.runner = task.NewRunner(ctx, a.journal, a.node.Do, a.log)
	group.Go(func() error { return a.keepSession(ctx) })
	group.Go(func() error { return a.clean(ctx) })
	group.Go(func() error { return a.observe(ctx) })
	group.Go(func() error { return a.keepFenced(ctx) })
	err := group.Wait()
	a.runner.Wait()
	return err
}

// simulatedConn ends with the calls that are made on it.
type simulatedConn struct{ grpc.ClientConnInterface }

func (simulatedConn) Close() error { return nil }
