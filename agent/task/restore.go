package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// DefaultRuntimeWait is how long stopping or starting etcd, or the control plane, may take.
const DefaultRuntimeWait = 2 * time.Minute

const (
	defaultStartWait = 2 * time.Minute
	waitPerGiB       = time.Minute
	verifyEvery      = 50 * time.Millisecond
)

func (n *Node) dirs(ctx context.Context, restoreID string) (Dirs, runtime.Member, error) {
	conf, err := n.Runtime.Inspect(ctx)
	if err != nil {
		return nil, conf, err
	}
	d, err := n.disk().Open(conf, restoreID)
	return d, conf, err
}

// stage restores the copy into the staging directory and computes what the member will answer that is
// started on it. The old etcd serves on.
func (n *Node) stage(ctx context.Context, spec *agentv1.Stage, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.openFiles(spec); err != nil {
		return nil, err
	}
	if spec.GetLearner() { // it gets its data from the cluster
		return n.stageFrom(ctx, spec, "", p)
	}
	var result *agentv1.TaskResult
	err := n.withPlain(ctx, spec.GetManifest(), spec.GetIdentity(), p, func(path string) (err error) {
		result, err = n.stageFrom(ctx, spec, path, p)
		return err
	})
	return result, err
}

// stageFrom restores the file at path.
func (n *Node) stageFrom(ctx context.Context, spec *agentv1.Stage, path string, p *Progress) (*agentv1.TaskResult, error) {
	d, conf, err := n.dirs(ctx, spec.GetRestoreId())
	if err != nil {
		return nil, err
	}
	staged, err := d.Stage(ctx, datadir.StageSpec{SnapshotPath: path, Task: spec, UID: conf.UID, GID: conf.GID, EtcdVersion: conf.Version, Log: n.Log}, p.Bytes)
	if err != nil {
		return nil, err
	}
	if !spec.GetLearner() {
		n.dropCache(path)
		p.Detail("comparing")
		if err := n.hashStaged(ctx, d.StagedDB(), spec.GetManifest(), staged, p); err != nil {
			return nil, err
		}
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Staged{Staged: staged}}, nil
}

// hashStaged computes what the member must answer that is started on the staged database.
func (n *Node) hashStaged(ctx context.Context, db string, m *requorumv1.Manifest, staged *agentv1.Staged, p *Progress) error {
	hash, started, err := n.disk().Hashes(ctx, db, m.GetRevision(), m.GetCompactRevision(), p.read)
	if err != nil {
		return err
	}
	staged.HashKv = hash
	staged.Revision, staged.StartedHashKv, staged.StartedCompactRevision = started.Revision, started.Hash, started.CompactRevision
	return nil
}

func (n *Node) unstage(ctx context.Context, restoreID string) error {
	err := n.dropOpened(restoreID) // whatever becomes of the rest
	d, _, unknown := n.dirs(ctx, restoreID)
	if unknown != nil {
		return errors.Join(err, unknown)
	}
	return errors.Join(err, d.Unstage(ctx))
}

// stop stops etcd until nothing holds the data directory, or the control plane.
func (n *Node) stop(ctx context.Context, spec *agentv1.Stop, p *Progress) error {
	stop := p.tickWhile(ctx)
	defer stop()
	if !spec.GetControlPlaneOnly() {
		return n.StopEtcd(ctx)
	}
	ctx, cancel := bounded(ctx, n.StopWait, "the control plane did not stop in time")
	defer cancel()
	cp, ok := n.Runtime.(runtime.ControlPlane)
	if !ok {
		return nil
	}
	if err := cp.StopControlPlane(ctx); err != nil {
		return fmt.Errorf("stop the control plane: %w", err)
	}
	return nil
}

// StopEtcd stops etcd until nothing holds the data directory. It gives up after StopWait and then says
// what still holds it.
func (n *Node) StopEtcd(ctx context.Context) error {
	ctx, cancel := bounded(ctx, n.StopWait, "etcd did not stop in time")
	defer cancel()
	return n.Runtime.Stop(ctx)
}

func bounded(ctx context.Context, wait time.Duration, late string) (context.Context, context.CancelFunc) {
	if wait == 0 {
		wait = DefaultRuntimeWait
	}
	return context.WithTimeoutCause(ctx, wait, errors.New(late))
}

func (n *Node) swap(ctx context.Context, restoreID string, p *Progress) (*agentv1.TaskResult, error) {
	d, err := n.stoppedDirs(ctx, restoreID)
	if err != nil {
		return nil, err
	}
	swapped, err := d.Swap(ctx)
	if err != nil {
		return nil, err
	}
	p.Tick()
	if swapped.QuarantineFiles, err = n.oldFiles(restoreID); err != nil {
		return nil, err
	}
	// Before etcd starts: from now on an older generation is no reason to keep it stopped.
	note := &journal.Restored{RestoreID: restoreID, ClusterGeneration: n.clusterGeneration.Load()}
	if err := n.Journal.SetRestored(note); err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Swapped{Swapped: swapped}}, nil
}

func (n *Node) swapBack(ctx context.Context, restoreID string, p *Progress) error {
	d, err := n.stoppedDirs(ctx, restoreID)
	if err != nil {
		return err
	}
	if err := n.Journal.SetRestored(nil); err != nil {
		return err
	}
	p.Tick()
	return d.SwapBack(ctx)
}

// stoppedDirs makes sure, before anything is renamed, that nothing holds the data directory.
func (n *Node) stoppedDirs(ctx context.Context, restoreID string) (Dirs, error) {
	d, conf, err := n.dirs(ctx, restoreID)
	if err != nil {
		return nil, err
	}
	if err := n.disk().Free(ctx, conf); err != nil {
		return nil, fmt.Errorf("the data directory is in use: %w", err)
	}
	return d, nil
}

func (n *Node) start(ctx context.Context, spec *agentv1.Start, p *Progress) error {
	if err := n.startEtcd(ctx, spec.GetJoinCluster(), p); err != nil {
		return err
	}
	if !spec.GetControlPlane() {
		return nil
	}
	return n.startControlPlane(ctx, p)
}

func (n *Node) startEtcd(ctx context.Context, joinCluster string, p *Progress) error {
	stop := p.tickWhile(ctx)
	defer stop()
	ctx, cancel := bounded(ctx, n.LaunchWait, "etcd did not start in time")
	defer cancel()
	if joinCluster == "" {
		return n.Runtime.Start(ctx)
	}
	l, ok := n.Runtime.(runtime.LearnerStarter)
	if !ok {
		return &Refused{
			Message: fmt.Sprintf("the runtime %s cannot start a member that joins a cluster", n.Runtime.Name()),
			Advice:  "start the member by hand with --initial-cluster-state=existing",
		}
	}
	return l.StartJoining(ctx, joinCluster)
}

func (n *Node) startControlPlane(ctx context.Context, p *Progress) error {
	cp, ok := n.Runtime.(runtime.ControlPlane)
	if !ok {
		return nil
	}
	stop := p.tickWhile(ctx)
	defer stop()
	ctx, cancel := bounded(ctx, n.LaunchWait, "the control plane did not start in time")
	defer cancel()
	if err := cp.StartControlPlane(ctx); err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	return nil
}

// open starts the control plane, and notes before that whether there is a way back.
func (n *Node) open(ctx context.Context, spec *agentv1.Open, p *Progress) error {
	if spec.GetPastPivot() {
		if err := n.Journal.SetFinished(spec.GetRestoreId()); err != nil {
			return err
		}
	}
	return n.startControlPlane(ctx, p)
}

// verify checks the started member until everything is as it has to be. It gives up when the process
// has died, when something is wrong that time does not mend, or when the member takes too long.
func (n *Node) verify(ctx context.Context, spec *agentv1.Verify, p *Progress) (*agentv1.TaskResult, error) {
	conf, err := n.Runtime.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.startWait(conf), errors.New("the member took too long to serve"))
	defer cancel()
	ticker := time.NewTicker(verifyEvery)
	defer ticker.Stop()
	var reason error // the last one that does not only say that time was up
	for {
		verified, err := n.verifyOnce(ctx, spec)
		if err == nil {
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Verified{Verified: verified}}, nil
		}
		if reason == nil || ctx.Err() == nil {
			reason = err
		}
		if !is[*member.NotReadyError](err) && ctx.Err() == nil {
			return nil, err
		}
		p.Tick()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), reason)
		case <-ticker.C:
		}
	}
}

func (n *Node) verifyOnce(ctx context.Context, spec *agentv1.Verify) (*agentv1.Verified, error) {
	// Where there is no way back any more, only what is now counts: etcd may have been killed, and runs again.
	goesOn := spec.GetLiftGate() || len(spec.GetAddLearners()) > 0
	if l, ok := n.Runtime.(runtime.Liveness); ok && !goesOn {
		if err := l.Alive(ctx); err != nil {
			return nil, err
		}
	}
	m, err := n.Member(ctx)
	if err != nil {
		return nil, err
	}
	return m.Verify(ctx, spec)
}

// startWait is how long a member may take to serve: opening the database and rebuilding the index take
// time in proportion to its size.
func (n *Node) startWait(conf runtime.Member) time.Duration {
	wait := n.StartWait
	if wait == 0 {
		wait = defaultStartWait
	}
	return wait + time.Duration(float64(waitPerGiB)*float64(n.disk().Size(conf))/(1<<30))
}

// finish notes where the old data is and until when it is kept, and that the node's data is of the new
// generation.
func (n *Node) finish(ctx context.Context, spec *agentv1.Finish, p *Progress) error {
	d, _, err := n.dirs(ctx, spec.GetRestoreId())
	if err != nil {
		return err
	}
	// First of all: from now on nothing that undoes the restore may be done any more.
	if err := n.Journal.SetFinished(spec.GetRestoreId()); err != nil {
		return err
	}
	p.Tick()
	if err := errors.Join(d.Unstage(ctx), n.dropOpened(spec.GetRestoreId())); err != nil {
		return err
	}
	has, err := d.HasQuarantine()
	if err != nil {
		return err
	}
	if err := n.noteOld(spec, d, has); err != nil {
		return err
	}
	err = n.Journal.Update(func(s *journalv1.AgentRecord) error {
		if spec.GetGeneration() > s.GetGeneration() { // otherwise it was done, and the node may have missed a later restore
			s.Generation, s.Fenced = spec.GetGeneration(), false
		}
		return nil
	})
	if err != nil {
		return err
	}
	restored, err := n.Journal.Restored()
	if err != nil || restored == nil || restored.RestoreID != spec.GetRestoreId() {
		return err
	}
	return n.Journal.SetRestored(nil)
}

// noteOld notes what is kept of before the restore: old data, if there is any, and files.
func (n *Node) noteOld(spec *agentv1.Finish, d Dirs, data bool) error {
	files, err := n.oldFiles(spec.GetRestoreId())
	if err != nil || !data && len(files) == 0 {
		return err
	}
	rec := &journalv1.QuarantineRecord{RestoreId: spec.GetRestoreId(), Files: len(files) > 0, Expires: spec.GetQuarantineExpires()}
	if data {
		rec.Paths = d.QuarantinePaths()
	}
	return n.Journal.PutQuarantine(rec)
}

// RemoveScratch removes what a task that read old data may have left when the agent died. It is called before tasks
// come in.
func (n *Node) RemoveScratch(ctx context.Context) error {
	all, err := n.Journal.Quarantines()
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range all {
		d, _, err := n.dirs(ctx, rec.GetRestoreId())
		if err == nil {
			err = d.Unstage(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RemoveExpired removes old data whose retention has ended.
func (n *Node) RemoveExpired(ctx context.Context, now time.Time) error {
	all, err := n.Journal.Quarantines()
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range all {
		if rec.GetExpires() == nil || now.Before(rec.GetExpires().AsTime()) {
			continue // without a time, it is for a person to remove
		}
		var failed error
		for _, path := range rec.GetPaths() {
			failed = errors.Join(failed, n.disk().RemoveQuarantine(ctx, path))
		}
		if rec.GetFiles() {
			failed = errors.Join(failed, n.removeOldFiles(ctx, rec.GetRestoreId()))
		}
		if failed == nil {
			n.Log.Info("old data removed: its retention has ended", "restore", rec.GetRestoreId(), "paths", rec.GetPaths())
			failed = n.Journal.DeleteQuarantine(rec.GetRestoreId())
		}
		errs = append(errs, failed)
	}
	return errors.Join(errs...)
}
