package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/client/pkg/v3/types"
	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/logging"
)

// watchInterval is how often the growing database file is looked at, for progress.
const watchInterval = 200 * time.Millisecond

// ErrSwapped says that the restore's data is live already, so that it cannot be staged again.
var ErrSwapped = errors.New("the restored data of this restore is live already; swap back first")

// StageSpec says what to stage.
type StageSpec struct {
	SnapshotPath string         // the snapshot file; only read; not needed for a learner
	Task         *agentv1.Stage // the member to make of it
	UID, GID     int            // owner of what is staged
	EtcdVersion  string         // of the etcd that is to run on it, as 3.6.5; empty if unknown
	Log          hclog.Logger   // of etcd's restore; may be nil
}

// Stage restores a snapshot into the staging directories, in place of what an earlier try left there,
// while the old etcd may go on serving. tick is told of every progress, in bytes. It returns the
// member's and the cluster's ID; the revision and hashes are left to who reads StagedDB. It may return
// a *NoSpaceError, *CorruptError, *LayoutError or ErrSwapped. When it fails it leaves nothing behind.
func (d *Dirs) Stage(ctx context.Context, spec StageSpec, tick func(done, total int64)) (*agentv1.Staged, error) {
	if err := d.checkStageable(spec.Task); err != nil {
		return nil, err
	}
	if err := d.Unstage(ctx); err != nil {
		return nil, err
	}
	if spec.Log == nil {
		spec.Log = hclog.NewNullLogger()
	}
	staged, err := d.stage(ctx, spec, tick)
	if err == nil {
		err = d.complete()
	}
	if err != nil {
		return nil, errors.Join(err, d.Unstage(context.WithoutCancel(ctx)))
	}
	return staged, nil
}

func (d *Dirs) checkStageable(task *agentv1.Stage) error {
	if task.GetRestoreId() != d.restoreID {
		return fmt.Errorf("stage restore %q in the directories of restore %q", task.GetRestoreId(), d.restoreID)
	}
	for _, s := range d.slots {
		m, err := readMarker(s.quarantine)
		if err != nil {
			return err
		}
		if m != nil {
			return fmt.Errorf("stage beside %s: %w", s.dir, ErrSwapped)
		}
		if s.mount && s.only == nil && task.GetLearner() {
			// A member that joins makes its WAL anew, and etcd empties the WAL directory for that.
			return &LayoutError{Path: s.dir, Reason: "is a mount point used as WAL directory; a learner would empty it, the quarantine inside of it included; give etcd a directory below it as --wal-dir"}
		}
	}
	return nil
}

func (d *Dirs) stage(ctx context.Context, spec StageSpec, tick func(done, total int64)) (*agentv1.Staged, error) {
	if spec.Task.GetLearner() {
		return d.stageLearner(spec)
	}
	info, err := os.Stat(spec.SnapshotPath)
	if err != nil {
		return nil, err
	}
	if err := d.checkSpace(info.Size()); err != nil {
		return nil, err
	}
	m := newMeter(info.Size(), tick)
	if err := verifySnapshot(ctx, spec, m); err != nil {
		return nil, err
	}
	staged, err := identify(spec)
	if err != nil {
		return nil, err
	}
	if err := d.restore(ctx, spec, m); err != nil {
		return nil, err
	}
	if err := d.adapt(staged.GetGate(), spec.EtcdVersion); err != nil {
		return nil, err
	}
	if err := d.checkWAL(spec.Log, staged); err != nil {
		return nil, err
	}
	if err := d.finishFiles(ctx, spec.UID, spec.GID, m); err != nil {
		return nil, err
	}
	m.finish()
	return staged, nil
}

// stageLearner stages a member without data: it gets its data from the cluster that it joins.
func (d *Dirs) stageLearner(spec StageSpec) (*agentv1.Staged, error) {
	for _, s := range d.slots {
		dirs := []string{s.staging}
		for _, e := range s.only {
			dirs = append(dirs, filepath.Join(s.staging, e))
		}
		for _, dir := range dirs {
			if err := durable.MkdirAll(dir, 0o700); err != nil {
				return nil, fmt.Errorf("make staging directory: %w", err)
			}
		}
		if err := d.dress(s, spec.UID, spec.GID); err != nil {
			return nil, err
		}
		if err := durable.SyncTree(s.staging); err != nil {
			return nil, fmt.Errorf("write staged files to disk: %w", err)
		}
	}
	return &agentv1.Staged{}, nil
}

// checkSpace fails with a *NoSpaceError if a file system has too little space.
func (d *Dirs) checkSpace(size int64) error {
	data, wal := NeededBytes(size)
	needs := []struct {
		dir    string
		needed uint64
	}{{d.slots[0].dir, data}}
	if len(d.slots) == 1 {
		needs[0].needed += wal
	} else {
		shared, err := durable.SameFileSystem(d.slots[0].dir, d.slots[1].dir)
		if err != nil {
			return err
		}
		if shared {
			needs[0].needed += wal
		} else {
			needs = append(needs, struct {
				dir    string
				needed uint64
			}{d.slots[1].dir, wal})
		}
	}
	for _, n := range needs {
		free, err := durable.FreeBytes(n.dir)
		if err != nil {
			return err
		}
		if free < n.needed {
			return &NoSpaceError{Path: n.dir, Needed: n.needed, Free: free}
		}
	}
	return nil
}

// identify computes the IDs that etcd will compute from token and peer URLs.
func identify(spec StageSpec) (*agentv1.Staged, error) {
	urls, err := types.NewURLsMap(spec.Task.GetInitialCluster())
	if err != nil {
		return nil, fmt.Errorf("initial cluster: %w", err)
	}
	cluster, err := membership.NewClusterFromURLsMap(restoreLog(spec.Log), spec.Task.GetClusterToken(), urls)
	if err != nil {
		return nil, fmt.Errorf("initial cluster: %w", err)
	}
	member := cluster.MemberByName(spec.Task.GetMemberName())
	if member == nil {
		return nil, fmt.Errorf("member %q is not in the initial cluster %q", spec.Task.GetMemberName(), spec.Task.GetInitialCluster())
	}
	return &agentv1.Staged{MemberId: hexID(uint64(member.ID)), ClusterId: hexID(uint64(cluster.ID())), Gate: gateOf(cluster.MemberIDs())}, nil
}

// restore runs etcd's restore. That takes no context, so when ctx ends it is waited for before anybody
// removes the directory under it.
func (d *Dirs) restore(ctx context.Context, spec StageSpec, m *meter) error {
	data := d.slots[0]
	cfg := etcdsnapshot.RestoreConfig{
		SnapshotPath:        spec.SnapshotPath,
		Name:                spec.Task.GetMemberName(),
		OutputDataDir:       data.staging,
		PeerURLs:            spec.Task.GetPeerUrls(),
		InitialCluster:      spec.Task.GetInitialCluster(),
		InitialClusterToken: spec.Task.GetClusterToken(),
		SkipHashCheck:       true, // verifySnapshot did it, with progress
		RevisionBump:        spec.Task.GetBumpRevision(),
		MarkCompacted:       spec.Task.GetBumpRevision() > 0,
	}
	if len(d.slots) > 1 {
		cfg.OutputWALDir = d.slots[1].staging
	}
	done := make(chan error, 1)
	go func() { done <- runRestore(spec.Log, cfg) }()
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	for {
		select {
		case err := <-done:
			return errors.Join(err, context.Cause(ctx))
		case <-watch.C:
			if info, err := os.Stat(d.StagedDB()); err == nil {
				m.at(phaseRestore, info.Size())
			}
		}
	}
}

// runRestore turns the panics with which etcd's packages answer a broken database into errors.
func runRestore(log hclog.Logger, cfg etcdsnapshot.RestoreConfig) (err error) {
	debug.SetPanicOnFault(true) // bbolt maps the file; a truncated one faults
	defer func() {
		if r := recover(); r != nil {
			err = &CorruptError{Path: cfg.SnapshotPath, Reason: fmt.Sprintf("cannot be restored: %v", r)}
		}
	}()
	if err := etcdsnapshot.NewV3(restoreLog(log)).Restore(cfg); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", cfg.SnapshotPath, err)
	}
	return nil
}

func restoreLog(log hclog.Logger) *zap.Logger {
	return logging.Zap(log).WithOptions(zap.WithFatalHook(zapcore.WriteThenPanic))
}

// complete marks every staging directory as complete.
func (d *Dirs) complete() error {
	for _, s := range d.slots {
		staged, err := s.entries(s.staging)
		if err != nil {
			return err
		}
		if err := durable.WriteJSON(filepath.Join(s.staging, completionName), completion{RestoreID: d.restoreID, Entries: staged}); err != nil {
			return fmt.Errorf("mark staging directory complete: %w", err)
		}
	}
	return nil
}

// finishFiles gives the staged files to etcd's user and makes them durable. Whoever computes their hashes next
// reads the database, so that etcd finds it in the page cache.
func (d *Dirs) finishFiles(ctx context.Context, uid, gid int, m *meter) error {
	for _, s := range d.slots {
		if err := d.dress(s, uid, gid); err != nil {
			return err
		}
	}
	if err := flush(ctx, d.StagedDB(), m); err != nil {
		return fmt.Errorf("write staged database to disk: %w", err)
	}
	for _, s := range d.slots {
		if err := durable.SyncTree(s.staging); err != nil {
			return fmt.Errorf("write staged files to disk: %w", err)
		}
		if err := durable.SyncDir(filepath.Dir(s.staging)); err != nil {
			return err
		}
	}
	return nil
}

// dress gives staged files the owner, mode and SELinux label that live ones have.
func (d *Dirs) dress(s *slot, uid, gid int) error {
	label, err := labelOf(s.dir, s.only)
	if err != nil {
		return err
	}
	return filepath.WalkDir(s.staging, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		if err := own(path, uid, gid, mode); err != nil {
			return err
		}
		return setLabel(path, label)
	})
}

func bytesText(n uint64) string { return humanize.IBytes(n) }
