package schedule

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noNodes are nodes that no step of these plans asks.
type noNodes struct{}

func (noNodes) Do(context.Context, string, string, *agentv1.Task, func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	return nil, errors.New("no node is asked here")
}

// desk is a controller's scheduler and engine in a bubble of synctest, whose clock begins at midnight of 2000-01-01 UTC.
type desk struct {
	*testing.T
	*Scheduler
	db     store.Store
	engine *operation.Engine
	epoch  uint64
	stop   func() error

	mu       sync.Mutex
	takes    time.Duration // how long a save takes
	fails    error         // why a save fails; nil if it does not
	refuses  error         // why a save is refused; nil if it is not
	offline  map[string]bool
	removed  []string // names, in order
	unproved error    // why a drill fails; nil if it does not
	down     error    // why nothing can be stored; nil if it can
	lost     error    // of the answer to the next removal in a remote; nil if it is not
}

func (d *desk) AskNode(context.Context, string, string, *agentv1.Task) (*agentv1.TaskResult, error) {
	return nil, errors.New("nobody asks")
}

func (d *desk) Info(key dispatch.Key) dispatch.Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	return dispatch.Info{Connected: !d.offline[key.Node]}
}

func (d *desk) Gather(context.Context, string, []string) {}

// atDesk runs a test with clusters prod and test of one node each.
func atDesk(t *testing.T, test func(*desk)) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{T: t, db: db, takes: time.Second, offline: map[string]bool{}}
		d.enrol("prod", "test")
		d.start(db)
		test(d)
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	})
}

func (d *desk) enrol(clusters ...string) {
	d.Helper()
	err := d.db.Update(func(tx store.Tx) error {
		for _, c := range clusters {
			if err := store.Save(tx, store.Nodes, c+"/a", &journalv1.NodeRecord{Cluster: c, Name: "a"}); err != nil {
				return err
			}
			if err := catalog.UpdateCluster(tx, c, func(*journalv1.ClusterRecord) {}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
}

// start starts a controller on what is in db.
func (d *desk) start(db store.Store) {
	d.epoch++
	quiet := hclog.NewNullLogger()
	records := catalog.New(db)
	jobs := &snapshot.Jobs{Catalog: records, Fleet: d, Log: quiet}
	d.engine = operation.NewEngine(db, noNodes{}, d.epoch, map[requorumv1.OperationKind]operation.Builder{
		requorumv1.OperationKind_OPERATION_KIND_SAVE:    d.saving,
		requorumv1.OperationKind_OPERATION_KIND_UPLOAD:  d.storing,
		requorumv1.OperationKind_OPERATION_KIND_DELETE:  d.deleting,
		requorumv1.OperationKind_OPERATION_KIND_VERIFY:  d.verifying,
		requorumv1.OperationKind_OPERATION_KIND_RESTORE: d.restoring,
	}, quiet)
	jobs.Engine = d.engine
	remotes, err := remote.New([]remote.Config{{Name: "off-site", Kind: "dir", Dir: remote.Dir{Path: "/mnt/backups"}}})
	if err != nil {
		d.Fatal(err)
	}
	jobs.Remotes = remotes
	d.Scheduler = &Scheduler{Store: db, Catalog: records, Engine: d.engine, Snapshots: jobs, Fleet: d, Remotes: remotes, Log: quiet}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	scheduler, engine := d.Scheduler, d.engine
	go func() { ended <- scheduler.Run(ctx) }()
	go func() { ended <- engine.Run(ctx) }()
	d.stop = func() error {
		cancel()
		return errors.Join(<-ended, <-ended)
	}
	synctest.Wait()
}

func phase(steps ...operation.Step) operation.Plan {
	for i := range steps {
		steps[i].Phase = requorumv1.Phase_PHASE_STARTED
	}
	return steps
}

// setFails says why saves fail from now on; nil if they do not.
func (d *desk) setFails(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails = err
}

func (d *desk) saving(run *operation.Run) operation.Job {
	check := operation.Step{Name: "check", Check: true, Do: func(context.Context, *operation.Run) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.refuses
	}}
	return operation.Job{Plan: phase(check, operation.Step{
		Name: "save", Do: func(ctx context.Context, run *operation.Run) error {
			d.mu.Lock()
			takes, fails := d.takes, d.fails
			d.mu.Unlock()
			if err := rest(ctx, takes); err != nil || fails != nil {
				return errors.Join(err, fails)
			}
			return catalog.New(d.Store).Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
				s.State = requorumv1.SnapshotState_SNAPSHOT_STATE_READY
				s.Manifest = &requorumv1.Manifest{Name: s.GetName(), Created: timestamppb.Now()}
				s.Copies = []*requorumv1.Copy{{Node: "a", State: requorumv1.CopyState_COPY_STATE_GOOD}}
			})
		},
		Undo: func(context.Context, *operation.Run, string) error { return nil },
	}), End: func(tx store.Tx, rec *journalv1.OperationRecord) error {
		op := rec.GetOperation()
		if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			return nil
		}
		return catalog.Remove(tx, op.GetCluster(), op.GetSnapshot())
	}}
}

func (d *desk) deleting(run *operation.Run) operation.Job {
	fromRemote := operation.Step{Name: "remove-remote", Do: func(_ context.Context, run *operation.Run) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		lost := d.lost
		if lost == nil || run.Snapshot().GetKeepRemotes() {
			return nil
		}
		d.lost = nil
		return errors.Join(lost, catalog.New(d.Store).Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
			s.Remotes[0].State = requorumv1.CopyState_COPY_STATE_MISSING
		}))
	}}
	return operation.Job{Plan: phase(fromRemote, operation.Step{Name: "remove", Pivot: true, Do: func(_ context.Context, run *operation.Run) error {
		name, job := run.Operation().GetSnapshot(), run.Snapshot()
		switch {
		case job.GetKeepRemotes():
			d.note(name + " from the nodes")
			return catalog.New(d.Store).Update(run.Cluster(), name, func(s *requorumv1.Snapshot) { s.Copies = nil })
		case job.GetOnlyRemote() != "":
			d.note(name + " from " + job.GetOnlyRemote())
			return catalog.New(d.Store).Update(run.Cluster(), name, func(s *requorumv1.Snapshot) { s.Remotes = nil })
		}
		d.note(name)
		return d.Store.Update(func(tx store.Tx) error { return catalog.Remove(tx, run.Cluster(), run.Operation().GetSnapshot()) })
	}})}
}

func (d *desk) note(removed string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removed = append(d.removed, removed)
}

// storing stores a snapshot in its remote, unless that is down.
func (d *desk) storing(*operation.Run) operation.Job {
	return operation.Job{Plan: phase(operation.Step{Name: "upload", Do: func(_ context.Context, run *operation.Run) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.down != nil {
			return d.down
		}
		return catalog.New(d.Store).Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
			s.Remotes = []*requorumv1.RemoteCopy{{Remote: run.Snapshot().GetRemote(), State: requorumv1.CopyState_COPY_STATE_GOOD}}
		})
	}})}
}

// verifying takes a minute.
func (d *desk) verifying(*operation.Run) operation.Job {
	return operation.Job{Plan: phase(operation.Step{Name: "drill", Do: func(ctx context.Context, _ *operation.Run) error {
		d.mu.Lock()
		fails := d.unproved
		d.mu.Unlock()
		return errors.Join(rest(ctx, time.Minute), fails)
	}})}
}

// restoring takes an hour.
func (d *desk) restoring(*operation.Run) operation.Job {
	return operation.Job{Plan: phase(operation.Step{Name: "stage", Do: func(ctx context.Context, _ *operation.Run) error { return rest(ctx, time.Hour) }})}
}

func rest(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// restore begins a restore of a cluster.
func (d *desk) restore(cluster string) *requorumv1.Operation {
	d.Helper()
	op, err := d.engine.Start(&journalv1.OperationRecord{Operation: &requorumv1.Operation{
		Kind: requorumv1.OperationKind_OPERATION_KIND_RESTORE, Cluster: cluster, Nodes: []string{"a"},
	}}, nil)
	if err != nil {
		d.Fatal(err)
	}
	return op
}

// pass lets time pass, until everything that happens in it has happened.
func (d *desk) pass(long time.Duration) {
	d.Helper()
	_ = rest(context.Background(), long)
	synctest.Wait()
}

func (d *desk) apply(s *requorumv1.Schedule) requorumv1.ApplyOutcome {
	d.Helper()
	if s.Name == "" {
		s.Name = "nightly"
	}
	if s.Cluster == "" {
		s.Cluster = "prod"
	}
	_, outcome, err := d.Apply(s, "alice")
	if err != nil {
		d.Fatal(err)
	}
	synctest.Wait()
	return outcome
}

// history tells of the runs, the oldest first, by the time of day at which they were due and began.
func (d *desk) history() string {
	d.Helper()
	runs, err := d.Runs("", "", 1000)
	if err != nil {
		d.Fatal(err)
	}
	var lines []string
	for i := len(runs) - 1; i >= 0; i-- {
		r := runs[i]
		line := clock(r.GetDue()) + " " + strings.ToLower(strings.TrimPrefix(r.GetResult().String(), "RUN_RESULT_"))
		if r.GetBegan() != nil && !r.GetBegan().AsTime().Equal(r.GetDue().AsTime()) {
			line += " at " + clock(r.GetBegan())
		}
		if r.GetMissed() > 0 {
			line += fmt.Sprintf(" for %d more", r.GetMissed())
		}
		if r.GetRetry() > 0 {
			line += fmt.Sprintf(", retry %d", r.GetRetry())
		}
		if r.GetAgain() != nil {
			line += ", again " + clock(r.GetAgain())
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func clock(t *timestamppb.Timestamp) string { return t.AsTime().Format("15:04:05") }

func (d *desk) expect(want ...string) {
	d.Helper()
	if got := d.history(); got != strings.Join(want, "\n") {
		d.Errorf("the runs are\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// gone lists what was removed, in order.
func (d *desk) gone() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.removed)
}

// ready returns the READY snapshots of a cluster, newest first.
func (d *desk) ready(cluster string) []*requorumv1.Snapshot {
	d.Helper()
	all, err := d.Catalog.Snapshots(cluster)
	if err != nil {
		d.Fatal(err)
	}
	var good []*requorumv1.Snapshot
	for _, s := range all {
		if catalog.Good(s) {
			good = append(good, s)
		}
	}
	return good
}
