// Package drill proves that a snapshot can be restored, on a node whose member goes on serving: the file is restored
// into a scratch directory as a restore would do it, an etcd is started on it, and everything is read back.
//
// The etcd is this binary by the name of etcd, in a process that ends with the agent. It is a cluster of one member
// with a fresh token, and listens on Unix sockets in the scratch directory, which is 0700: nothing can reach it from
// outside, and nobody else on the node. Of the snapshot's data only two things are changed, both beside the keys: writes
// are refused, as in a restore until it is open, and authentication is off, since nobody knows that day's passwords.
package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/etcdfile"
)

const (
	memberName = "drill"
	restoreID  = "drill"
	leastFree  = 256 << 20 // what a drill leaves free at the least
	lockWait   = 10 * time.Second
)

// Driller does drills in a scratch directory, one at a time.
type Driller struct {
	Dir       string        // the scratch directory; what is in it is removed
	StartWait time.Duration // how long etcd may take to serve, besides 1 min per GiB; 2 min if 0
	Log       hclog.Logger
}

// Space tells how many bytes a drill of a file of that size needs, with what it leaves free, and how many are free. A
// live etcd may be on the same disk, and may need as much again meanwhile.
func (d *Driller) Space(size int64) (needed, free uint64, err error) {
	data, wal := datadir.NeededBytes(size)
	free, err = durable.FreeBytes(d.Dir)
	return data + wal + max(leastFree, uint64(size)), free, err
}

// Clean removes what a drill has left that did not come to its end. It is called before drills are asked for.
func (d *Driller) Clean() error {
	if err := durable.RemoveAll(d.Dir); err != nil {
		return fmt.Errorf("remove what a drill has left: %w", err)
	}
	return nil
}

// Progress is told how a drill gets on.
type Progress interface {
	Bytes(done, total int64)
	Detail(text string)
	Tick()
}

// Run drills the snapshot in the file at path. It fails with a *datadir.CorruptError if the file cannot be restored or
// does not hold what the manifest says, and with a *datadir.NoSpaceError before it writes anything if it would leave
// too little space. Whatever happens, nothing is left.
func (d *Driller) Run(ctx context.Context, path string, spec *agentv1.DrillCopy, p Progress) (_ *agentv1.Drilled, err error) {
	needed, free, err := d.Space(spec.GetManifest().GetSize())
	if err != nil {
		return nil, err
	}
	if free < needed {
		return nil, &datadir.NoSpaceError{Path: d.Dir, Needed: needed, Free: free}
	}
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Clean()) }()
	found := &agentv1.Drilled{}
	began := time.Now()
	p.Detail("restoring")
	s, err := d.stage(ctx, path, spec, p)
	if err != nil {
		return nil, err
	}
	found.StagedIn = durationpb.New(time.Since(began))
	return found, d.serve(ctx, s, spec.GetManifest(), p, found)
}

// begin makes the scratch directory, which is not there already: in a directory for everybody it could be another's.
func (d *Driller) begin() error {
	if err := errors.Join(d.Clean(), durable.MkdirAll(filepath.Dir(d.Dir), 0o700)); err != nil {
		return err
	}
	return os.Mkdir(d.Dir, 0o700)
}

// staged is what was restored, and what it must answer.
type staged struct {
	*agentv1.Staged
	dataDir string
	size    int64
}

// stage restores the file as a restore does, and computes what a member that is started on it has to answer.
func (d *Driller) stage(ctx context.Context, path string, spec *agentv1.DrillCopy, p Progress) (*staged, error) {
	m := spec.GetManifest()
	dirs, err := datadir.Open(runtime.Member{DataDir: filepath.Join(d.Dir, "etcd"), UID: os.Getuid(), GID: os.Getgid()}, restoreID)
	if err != nil {
		return nil, err
	}
	got, err := dirs.Stage(ctx, datadir.StageSpec{
		SnapshotPath: path, UID: os.Getuid(), GID: os.Getgid(), Log: d.Log,
		Task: &agentv1.Stage{
			RestoreId: restoreID, Manifest: m, MemberName: memberName, PeerUrls: []string{peerURL}, InitialCluster: memberName + "=" + peerURL,
			ClusterToken: rand.Text(), BumpRevision: spec.GetBumpRevision(), SkipHashCheck: !m.GetHasTrailer(),
		},
	}, p.Bytes)
	if err != nil {
		return nil, err
	}
	p.Detail("comparing")
	hash, started, err := etcdfile.Hashes(ctx, dirs.StagedDB(), m.GetRevision(), m.GetCompactRevision(), func(int64) { p.Tick() })
	if err != nil {
		return nil, err
	}
	if hash != m.GetHashKv() {
		return nil, corrupt(m, "restored has HashKV %d at revision %d, the manifest says %d", hash, m.GetRevision(), m.GetHashKv())
	}
	got.Revision, got.StartedHashKv, got.StartedCompactRevision = started.Revision, started.Hash, started.CompactRevision
	// The staging directory is a data directory by itself: <dir>/member/snap/db.
	s := &staged{Staged: got, dataDir: filepath.Dir(filepath.Dir(filepath.Dir(dirs.StagedDB()))), size: m.GetSize()}
	return s, authOff(dirs.StagedDB())
}

// authOff lets the drill read what needs a password of the snapshot's day. The users stay in the database.
func authOff(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}) // as etcd opens it
	if err != nil {
		return fmt.Errorf("open the restored database: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		auth := tx.Bucket(schema.Auth.Name())
		if auth == nil {
			return nil
		}
		return auth.Put(schema.AuthEnabledKeyName, []byte{0})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("turn authentication off in the restored database: %w", err)
	}
	return nil
}

// corrupt says that a snapshot does not hold what its manifest says.
func corrupt(m *requorumv1.Manifest, format string, args ...any) error {
	return &datadir.CorruptError{Path: m.GetName(), Reason: fmt.Sprintf(format, args...)}
}

// wait is how long etcd may take to serve: opening the database and rebuilding the index take time in proportion to
// its size.
func (d *Driller) wait(size int64) time.Duration {
	wait := d.StartWait
	if wait == 0 {
		wait = 2 * time.Minute
	}
	return wait + time.Duration(float64(time.Minute)*float64(size)/(1<<30))
}

func took(p Progress, what string, began time.Time) *durationpb.Duration {
	d := time.Since(began)
	p.Detail(what + " took " + humanize.FtoaWithDigits(d.Seconds(), 1) + " s")
	return durationpb.New(d)
}
