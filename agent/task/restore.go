package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/etcdfile"
)

const (
	defaultStartWait = 2 * time.Minute
	waitPerGiB       = time.Minute
	verifyEvery      = 50 * time.Millisecond
)

func (n *Node) dirs(ctx context.Context, restoreID string) (*datadir.Dirs, runtime.Member, error) {
	conf, err := n.Runtime.Inspect(ctx)
	if err != nil {
		return nil, conf, err
	}
	d, err := datadir.Open(conf, restoreID)
	return d, conf, err
}

// stage restores the copy into the staging directory and computes what the member will answer that is
// started on it. The old etcd serves on.
func (n *Node) stage(ctx context.Context, spec *agentv1.Stage, p *Progress) (*agentv1.TaskResult, error) {
	path, err := n.Vault.Path(spec.GetManifest().GetName())
	if err != nil {
		return nil, err
	}
	d, conf, err := n.dirs(ctx, spec.GetRestoreId())
	if err != nil {
		return nil, err
	}
	staged, err := d.Stage(ctx, datadir.StageSpec{SnapshotPath: path, Task: spec, UID: conf.UID, GID: conf.GID, Log: n.Log}, p.Bytes)
	if err != nil {
		return nil, err
	}
	m := spec.GetManifest()
	p.Detail("comparing")
	if staged.HashKv, err = etcdfile.HashKV(ctx, d.StagedDB(), m.GetRevision(), m.GetCompactRevision(), p.read); err != nil {
		return nil, err
	}
	started, err := etcdfile.StartedHash(ctx, d.StagedDB(), p.read)
	if err != nil {
		return nil, err
	}
	staged.Revision, staged.StartedHashKv, staged.StartedCompactRevision = started.Revision, started.Hash, started.CompactRevision
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Staged{Staged: staged}}, nil
}

func (n *Node) unstage(ctx context.Context, restoreID string) error {
	d, _, err := n.dirs(ctx, restoreID)
	if err != nil {
		return err
	}
	return d.Unstage(ctx)
}

// stop stops the control plane, and etcd until nothing holds the data directory.
func (n *Node) stop(ctx context.Context, spec *agentv1.Stop, p *Progress) error {
	stop := p.tickWhile(ctx)
	defer stop()
	if cp, ok := n.Runtime.(runtime.ControlPlane); ok {
		if err := cp.StopControlPlane(ctx); err != nil {
			return fmt.Errorf("stop the control plane: %w", err)
		}
	}
	if spec.GetControlPlaneOnly() {
		return nil
	}
	return n.Runtime.Stop(ctx)
}

func (n *Node) swap(ctx context.Context, restoreID string) (*agentv1.TaskResult, error) {
	d, err := n.stoppedDirs(ctx, restoreID)
	if err != nil {
		return nil, err
	}
	swapped, err := d.Swap(ctx)
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Swapped{Swapped: swapped}}, nil
}

func (n *Node) swapBack(ctx context.Context, restoreID string) error {
	d, err := n.stoppedDirs(ctx, restoreID)
	if err != nil {
		return err
	}
	return d.SwapBack(ctx)
}

// stoppedDirs makes sure, before anything is renamed, that nothing holds the data directory.
func (n *Node) stoppedDirs(ctx context.Context, restoreID string) (*datadir.Dirs, error) {
	d, conf, err := n.dirs(ctx, restoreID)
	if err != nil {
		return nil, err
	}
	if err := datadir.Free(ctx, conf.DataDir, conf.WALDir, nil); err != nil {
		return nil, fmt.Errorf("the data directory is in use: %w", err)
	}
	return d, nil
}

func (n *Node) start(ctx context.Context, spec *agentv1.Start) error {
	if err := n.Runtime.Start(ctx); err != nil {
		return err
	}
	if !spec.GetControlPlane() {
		return nil
	}
	return n.startControlPlane(ctx)
}

func (n *Node) startControlPlane(ctx context.Context) error {
	cp, ok := n.Runtime.(runtime.ControlPlane)
	if !ok {
		return nil
	}
	if err := cp.StartControlPlane(ctx); err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	return nil
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
	for {
		verified, err := n.verifyOnce(ctx, spec)
		if err == nil {
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Verified{Verified: verified}}, nil
		}
		var notReady *member.NotReadyError
		if !errors.As(err, &notReady) {
			return nil, err
		}
		p.Tick()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

func (n *Node) verifyOnce(ctx context.Context, spec *agentv1.Verify) (*agentv1.Verified, error) {
	if l, ok := n.Runtime.(runtime.Liveness); ok {
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
	return wait + time.Duration(float64(waitPerGiB)*float64(dbSize(conf))/(1<<30))
}

// finish notes where the old data is and until when it is kept, and that the node's data is of the new
// generation.
func (n *Node) finish(ctx context.Context, spec *agentv1.Finish) error {
	d, _, err := n.dirs(ctx, spec.GetRestoreId())
	if err != nil {
		return err
	}
	if err := d.Unstage(ctx); err != nil {
		return err
	}
	has, err := d.HasQuarantine()
	if err != nil {
		return err
	}
	if has {
		rec := &journalv1.QuarantineRecord{RestoreId: spec.GetRestoreId(), Paths: d.QuarantinePaths(), Expires: spec.GetQuarantineExpires()}
		if err := n.Journal.PutQuarantine(rec); err != nil {
			return err
		}
	}
	return n.Journal.Update(func(s *journalv1.AgentRecord) { s.Generation, s.Fenced = spec.GetGeneration(), false })
}

// RemoveExpired removes old data whose retention has ended.
func (n *Node) RemoveExpired(ctx context.Context, now time.Time) error {
	all, err := n.Journal.Quarantines()
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range all {
		if now.Before(rec.GetExpires().AsTime()) {
			continue
		}
		var failed error
		for _, path := range rec.GetPaths() {
			failed = errors.Join(failed, datadir.RemoveQuarantine(ctx, path))
		}
		if failed == nil {
			n.Log.Info("old data removed: its retention has ended", "restore", rec.GetRestoreId(), "paths", rec.GetPaths())
			failed = n.Journal.DeleteQuarantine(rec.GetRestoreId())
		}
		errs = append(errs, failed)
	}
	return errors.Join(errs...)
}
