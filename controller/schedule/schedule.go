// Package schedule keeps the schedules, begins their runs when they are due, and removes the snapshots whose retention
// is over. Both go through ordinary operations, so that one waits for a restore like anybody else, and a crash at any
// moment is made good by what the store says: a run is recorded in the transaction that accepts its operation.
package schedule

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

// NotFoundError says that there is no such schedule.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no schedule %q; requorum schedule ls shows them", e.Name)
}

// InvalidError refuses a schedule that cannot be meant.
type InvalidError struct{ Message string }

func (e *InvalidError) Error() string { return e.Message }

// Engine is what the scheduler needs of the operation engine.
type Engine interface {
	// Watch calls f with the operation as it is and at each change, until it has ended.
	Watch(ctx context.Context, id string, f func(*requorumv1.Operation) error) error
	Get(id string) (*requorumv1.Operation, error)
}

// Snapshots starts operations.
type Snapshots interface {
	SaveFor(req *requorumv1.SaveSnapshotRequest, by string, purpose snapshot.Purpose) (*requorumv1.Operation, error)
	Delete(req *requorumv1.DeleteSnapshotRequest, by string) (*requorumv1.Operation, error)
	Upload(req *requorumv1.UploadSnapshotRequest, by string) (*requorumv1.Operation, error)
	Verify(req *requorumv1.VerifySnapshotRequest, by string) (*requorumv1.Operation, error)
}

// Fleet tells which nodes are connected.
type Fleet interface {
	Info(key dispatch.Key) dispatch.Info
	Gather(ctx context.Context, cluster string, nodes []string)
}

// Scheduler keeps schedules. Its fields are set before it is used.
type Scheduler struct {
	Store     store.Store
	Catalog   *catalog.Catalog
	Engine    Engine
	Snapshots Snapshots
	Fleet     Fleet
	Remotes   *remote.Remotes
	Log       hclog.Logger

	runners, sweepers workers
}

// Run begins runs and removes snapshots until ctx ends. It fails when the store cannot be read or written.
func (s *Scheduler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.runners.run(ctx, group, s.tend) })
	group.Go(func() error { return s.sweepers.run(ctx, group, s.sweepAgain) })
	group.Go(func() error { return s.findClusters(ctx) })
	group.Go(s.wakeAll)
	return group.Wait()
}

// wakeAll looks after every schedule there is.
func (s *Scheduler) wakeAll() error {
	records, err := s.records()
	for _, rec := range records {
		s.runners.wake(rec.GetSchedule().GetName())
	}
	return err
}

// findClusters looks after clusters that come to be known.
func (s *Scheduler) findClusters(ctx context.Context) error {
	for {
		clusters, err := s.Catalog.Clusters()
		if err != nil {
			return err
		}
		for _, c := range clusters {
			s.sweepers.wake(c.GetName())
		}
		if !wait(ctx, nil, sweepEvery) {
			return nil
		}
	}
}

// workers are goroutines by name, each of which is woken when there may be something to do.
type workers struct {
	mu     sync.Mutex
	awake  map[string]chan struct{} // those that run
	wanted map[string]bool          // those that are to begin
	begin  chan struct{}            // there are wanted ones
}

// wake makes the worker of that name look again. One that does not run begins, at the latest when run is called.
func (w *workers) wake(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepare()
	tell := w.begin
	if woken := w.awake[name]; woken != nil {
		tell = woken
	} else {
		w.wanted[name] = true
	}
	select {
	case tell <- struct{}{}:
	default: // it is about to look
	}
}

func (w *workers) prepare() {
	if w.begin == nil {
		w.awake, w.wanted, w.begin = make(map[string]chan struct{}), make(map[string]bool), make(chan struct{}, 1)
	}
}

// run begins workers as they are wanted, until ctx ends. A worker ends by returning nil, and begins again when it is woken.
func (w *workers) run(ctx context.Context, group *errgroup.Group, work func(context.Context, string, <-chan struct{}) error) error {
	w.mu.Lock()
	w.prepare()
	begin := w.begin
	w.mu.Unlock()
	for {
		for name, woken := range w.take() {
			group.Go(func() error { return w.keep(ctx, name, woken, work) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-begin:
		}
	}
}

// take returns the workers that are wanted, which are taken for awake from now on.
func (w *workers) take() map[string]chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := make(map[string]chan struct{}, len(w.wanted))
	for name := range w.wanted {
		taken[name] = make(chan struct{}, 1)
		w.awake[name] = taken[name]
	}
	clear(w.wanted)
	return taken
}

// keep works until there is nothing more to do.
func (w *workers) keep(ctx context.Context, name string, woken <-chan struct{}, work func(context.Context, string, <-chan struct{}) error) error {
	for {
		if err := work(ctx, name, woken); err != nil || ctx.Err() != nil {
			return err
		}
		if w.leave(name, woken) {
			return nil
		}
	}
}

// leave ends a worker that has nothing more to do, unless it was woken meanwhile.
func (w *workers) leave(name string, woken <-chan struct{}) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-woken:
		return false
	default:
		delete(w.awake, name)
		return true
	}
}
