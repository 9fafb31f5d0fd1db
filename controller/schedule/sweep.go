package schedule

import (
	"context"
	"errors"
	"slices"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/retention"
	"github.com/requorum/requorum/internal/timetable"
)

const (
	// sweepEvery is how often is looked for what has to go, besides when something has changed.
	sweepEvery = time.Minute
	// awayEvery is how often is looked whether a node that was away is back.
	awayEvery = 5 * time.Second
	// What was refused or failed is tried again after so long, and then after twice as long each time.
	firstAgain, longestAgain = time.Minute, time.Hour
	// The same for what is stored in a remote: one that was out of reach may be back soon.
	firstStore, longestStore = 10 * time.Second, 10 * time.Minute
)

// Judge says what becomes of the snapshots of a cluster, by the schedules as they are. Where schedule is not empty,
// only its snapshots are told of, judged by override if that is not nil.
func (s *Scheduler) Judge(cluster, schedule string, override *requorumv1.Retention) ([]retention.Verdict, error) {
	if err := timetable.CheckRetention(override, ""); err != nil {
		return nil, &InvalidError{err.Error()}
	}
	if _, err := s.Catalog.Cluster(cluster); err != nil {
		return nil, err
	}
	snapshots, policies, err := s.facts(cluster)
	if err != nil {
		return nil, err
	}
	if schedule == "" {
		if override != nil {
			return nil, &InvalidError{"say which schedule's snapshots the retention is for (--schedule)"}
		}
		return judge(snapshots, policies), nil
	}
	if override != nil {
		policy := policies[schedule]
		policy.Retention, policy.Zone, policy.Paused = override, zoneOf(policy), false
		policies[schedule] = policy
	} else if _, known := policies[schedule]; !known {
		return nil, &NotFoundError{Name: schedule}
	}
	verdicts := judge(snapshots, policies)
	return slices.DeleteFunc(verdicts, func(v retention.Verdict) bool { return v.Snapshot.GetSchedule() != schedule }), nil
}

// judge says what becomes of the copies on the nodes, and then of those in remotes.
func judge(snapshots []*requorumv1.Snapshot, policies map[string]retention.Policy) []retention.Verdict {
	now := time.Now()
	return slices.Concat(retention.Judge(snapshots, policies, now), retention.JudgeRemotes(snapshots, policies, now))
}

func zoneOf(p retention.Policy) *time.Location {
	if p.Zone == nil {
		return time.UTC
	}
	return p.Zone
}

// facts returns what retention goes by.
func (s *Scheduler) facts(cluster string) ([]*requorumv1.Snapshot, map[string]retention.Policy, error) {
	records, err := s.records()
	if err != nil {
		return nil, nil, err
	}
	policies := make(map[string]retention.Policy)
	for _, rec := range records {
		sched := rec.GetSchedule()
		if sched.GetCluster() != cluster {
			continue
		}
		table, err := timetable.New(sched)
		if err != nil {
			return nil, nil, err
		}
		policies[sched.GetName()] = retention.Policy{
			Retention: sched.GetLocalStorage(), Zone: table.Zone(), Paused: sched.GetPaused(),
			Remote: sched.GetRemoteStorage().GetRemote(), Stored: sched.GetRemoteStorage().GetRetention(),
		}
	}
	snapshots, err := s.present(cluster)
	return snapshots, policies, err
}

// present returns a cluster's snapshots with the copies of the nodes that it has today: one on a node that was removed is
// out of reach.
func (s *Scheduler) present(cluster string) ([]*requorumv1.Snapshot, error) {
	nodes, err := s.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, err
	}
	snapshots, err := s.Catalog.Snapshots(cluster)
	for _, snap := range snapshots {
		snap.Copies = slices.DeleteFunc(snap.GetCopies(), func(c *requorumv1.Copy) bool { return !slices.Contains(nodes, c.GetNode()) })
	}
	return snapshots, err
}

// sweepAgain removes what has to go from a cluster, whenever it may be time to. It returns when ctx has ended.
func (s *Scheduler) sweepAgain(ctx context.Context, cluster string, woken <-chan struct{}) error {
	sweep := &sweep{Scheduler: s, cluster: cluster, again: make(map[string]attempt), stores: make(map[string]attempt)}
	for {
		if err := sweep.all(ctx); err != nil {
			return err
		}
		if err := sweep.store(ctx); err != nil {
			return err
		}
		snapshots, policies, err := s.facts(cluster)
		if err != nil {
			return err
		}
		long := sweepEvery
		if sweep.waiting != "" {
			long = awayEvery
		}
		for _, again := range sweep.stores {
			long = min(long, max(time.Until(again.at), 10*time.Millisecond))
		}
		if next := retention.Next(snapshots, policies, time.Now()); !next.IsZero() {
			long = min(long, max(time.Until(next.Round(0)), 10*time.Millisecond))
		}
		if !wait(ctx, woken, long) {
			return nil
		}
	}
}

// attempt is when a removal that went wrong is tried again.
type attempt struct {
	at   time.Time
	long time.Duration
}

// sweep removes what has to go from one cluster.
type sweep struct {
	*Scheduler
	cluster string
	again   map[string]attempt // by snapshot and remote
	stores  map[string]attempt // the same of what is to be stored
	waiting string             // node that was last said to be away
}

// all removes one snapshot after the other, the oldest first, until nothing has to go.
func (w *sweep) all(ctx context.Context) error {
	for ctx.Err() == nil {
		snapshots, policies, err := w.facts(w.cluster)
		if err != nil {
			return err
		}
		verdicts := judge(snapshots, policies)
		next := w.next(verdicts)
		if next == nil || w.away() {
			return nil
		}
		if err := w.remove(ctx, next, Removal(next, verdicts)); err != nil {
			return err
		}
	}
	return nil
}

// Removal is how one of the verdicts on a cluster's snapshots is carried out: only in its place, as long as the snapshot
// stays in another. A copy in a remote that is nobody's to judge stays.
func Removal(v *retention.Verdict, verdicts []retention.Verdict) *requorumv1.DeleteSnapshotRequest {
	req := &requorumv1.DeleteSnapshotRequest{Cluster: v.Snapshot.GetCluster(), Name: v.Snapshot.GetName()}
	if v.Snapshot.GetSchedule() == "" {
		return req // it goes from everywhere when its own time is over
	}
	goes := make(map[string]bool) // remotes
	onNodes := len(v.Snapshot.GetCopies()) > 0
	for _, other := range verdicts {
		if !other.Remove || other.Snapshot.GetName() != v.Snapshot.GetName() {
			continue
		}
		if other.Remote == "" {
			onNodes = false
		} else {
			goes[other.Remote] = true
		}
	}
	inRemote := slices.ContainsFunc(v.Snapshot.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
		return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD && !goes[c.GetRemote()]
	})
	switch {
	case !onNodes && !inRemote:
	case v.Remote == "":
		req.KeepRemotes = inRemote
	default:
		req.OnlyRemote = v.Remote
	}
	return req
}

// store stores what is not yet in the remote of its schedule, the oldest first.
func (w *sweep) store(ctx context.Context) error {
	for ctx.Err() == nil {
		snapshots, policies, err := w.facts(w.cluster)
		if err != nil {
			return err
		}
		lacking := retention.Unstored(snapshots, policies, time.Now())
		w.forgetStored(lacking)
		next := dueFor(lacking, w.stores)
		if next == nil {
			return nil
		}
		if err := w.storeOne(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// forgetStored forgets the failures of what is not lacking any more.
func (w *sweep) forgetStored(lacking []retention.Verdict) {
	for key := range w.stores {
		if !slices.ContainsFunc(lacking, func(v retention.Verdict) bool { return keyOf(&v) == key }) {
			delete(w.stores, key)
		}
	}
}

func (w *sweep) storeOne(ctx context.Context, v *retention.Verdict) error {
	name := v.Snapshot.GetName()
	op, err := w.Snapshots.Upload(&requorumv1.UploadSnapshotRequest{Cluster: w.cluster, Name: name, Remote: v.Remote}, "schedule "+v.Snapshot.GetSchedule())
	var (
		busy *operation.BusyError
		gone *catalog.NotFoundError
	)
	switch {
	case errors.As(err, &busy):
		_, err := w.follow(ctx, busy.Running)
		return ignoreForgotten(err)
	case errors.As(err, &gone):
		return nil
	case errors.Is(err, operation.ErrNotDriving):
		wait(ctx, nil, notDriving)
		return nil
	case err != nil: // the remote is not configured any more, say
		w.stores[keyOf(v)] = later(w.stores[keyOf(v)], firstStore, longestStore)
		w.Log.Warn("snapshot cannot be stored", "cluster", w.cluster, "snapshot", name, "remote", v.Remote, "error", err)
		return nil
	}
	op, err = w.follow(ctx, op.GetId())
	if err != nil || op == nil {
		return ignoreForgotten(err)
	}
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return nil
	}
	again := later(w.stores[keyOf(v)], firstStore, longestStore)
	w.stores[keyOf(v)] = again
	w.Log.Warn("snapshot was not stored", "cluster", w.cluster, "snapshot", name, "remote", v.Remote, "reason", why(op), "again_in", again.long)
	return nil
}

// keyOf names a snapshot in one place.
func keyOf(v *retention.Verdict) string { return v.Remote + "/" + v.Snapshot.GetName() }

// later is the next attempt at what has failed again.
func later(before attempt, first, longest time.Duration) attempt {
	long := min(longest, max(first, 2*before.long))
	return attempt{at: time.Now().Add(long), long: long}
}

// dueFor returns the oldest that is to be tried now, nil if there is none.
func dueFor(verdicts []retention.Verdict, tried map[string]attempt) *retention.Verdict {
	for i := range slices.Backward(verdicts) {
		if again := tried[keyOf(&verdicts[i])]; !again.at.After(time.Now()) {
			return &verdicts[i]
		}
	}
	return nil
}

// next returns the oldest snapshot that has to go and may be tried, nil if there is none.
func (w *sweep) next(verdicts []retention.Verdict) *retention.Verdict {
	return dueFor(slices.DeleteFunc(slices.Clone(verdicts), func(v retention.Verdict) bool { return !v.Remove }), w.again)
}

// away tells whether a node is not connected. A removal would be refused: the node may hold a copy.
func (w *sweep) away() bool {
	nodes, err := w.Catalog.NodeNames(w.cluster)
	if err != nil {
		return false // the removal reads the same records and reports the error
	}
	for _, node := range nodes {
		if w.Fleet.Info(dispatch.Key{Cluster: w.cluster, Node: node}).Connected {
			continue
		}
		if w.waiting != node {
			w.Log.Info("nothing is removed until the node is connected", "cluster", w.cluster, "node", node)
			w.waiting = node
		}
		return true
	}
	w.waiting = ""
	return false
}

// remove removes one snapshot by an operation, and waits for its end.
func (w *sweep) remove(ctx context.Context, v *retention.Verdict, req *requorumv1.DeleteSnapshotRequest) error {
	name := v.Snapshot.GetName()
	op, err := w.Snapshots.Delete(req, "retention")
	var (
		busy *operation.BusyError
		gone *catalog.NotFoundError
	)
	switch {
	case errors.As(err, &busy):
		_, err := w.follow(ctx, busy.Running)
		return ignoreForgotten(err)
	case errors.As(err, &gone):
		return nil
	case errors.Is(err, operation.ErrNotDriving):
		wait(ctx, nil, notDriving)
		return nil
	case err != nil:
		return err
	}
	w.Log.Info("removing snapshot", "cluster", w.cluster, "snapshot", name, "reason", v.Reason, "operation", op.GetId())
	op, err = w.follow(ctx, op.GetId())
	if err != nil || op == nil {
		return ignoreForgotten(err)
	}
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		delete(w.again, keyOf(v))
		return nil
	}
	again := later(w.again[keyOf(v)], firstAgain, longestAgain)
	w.again[keyOf(v)] = again
	w.Log.Warn("snapshot was not removed", "cluster", w.cluster, "snapshot", name, "remote", v.Remote, "reason", why(op), "again_in", again.long)
	return nil
}

func ignoreForgotten(err error) error {
	var gone *operation.NotFoundError
	if errors.As(err, &gone) {
		return nil // it has ended long ago
	}
	return err
}
