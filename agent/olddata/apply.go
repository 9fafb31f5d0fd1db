package olddata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/wait"
	"go.etcd.io/etcd/server/v3/auth"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3alarm"
	"go.etcd.io/etcd/server/v3/etcdserver/apply"
	"go.etcd.io/etcd/server/v3/etcdserver/cindex"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/requorum/requorum/internal/logging"
)

// Main is the process that replays: it applies what the log in args[2] holds beyond the database args[1] to that
// database, and returns its exit code.
func Main(args []string, stderr io.Writer) int {
	if len(args) != 3 {
		fmt.Fprintf(stderr, "usage: %s DB WAL-DIRECTORY\n", Command)
		return 2
	}
	// It holds etcd's index of all keys. Where memory is short, it is to end before the etcd that serves.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0o600); err != nil {
		fmt.Fprintln(stderr, err)
	}
	log := hclog.New(&hclog.LoggerOptions{Name: Command, Output: stderr, Level: hclog.Warn})
	if err := applyLog(context.Background(), args[1], args[2], logging.Zap(log)); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// machine is etcd's state machine on a database, without a server around it: no peers, no clients, no leader, so
// that no lease ends.
type machine struct {
	log    *zap.Logger
	be     backend.Backend
	index  cindex.ConsistentIndexer
	kv     mvcc.WatchableKV
	lessor lease.Lessor
	auth   auth.AuthStore
	apply  apply.UberApplier
	wait   wait.Wait
}

func applyLog(ctx context.Context, db, log string, lg *zap.Logger) (err error) {
	m, err := openMachine(db, lg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	return eachEntry(ctx, log, m.index.ConsistentIndex(), m.enter)
}

// openMachine puts the state machine together in the order in which etcd's NewServer does: leases before keys,
// which attach to them.
func openMachine(db string, lg *zap.Logger) (*machine, error) {
	if _, err := os.Stat(db); err != nil { // etcd would make an empty one
		return nil, err
	}
	m := &machine{log: lg, index: cindex.NewConsistentIndex(nil), wait: wait.New()}
	cfg := backend.DefaultBackendConfig(lg)
	cfg.Path, cfg.Hooks = db, storage.NewBackendHooks(lg, m.index)
	m.be = backend.New(cfg)
	m.index.SetBackend(m.be)
	m.index.ConsistentIndex() // reads it
	cluster := membership.NewCluster(lg)
	m.lessor = lease.NewLessor(lg, m.be, cluster, lease.LessorConfig{MinLeaseTTL: 1, CheckpointPersist: true})
	m.kv = mvcc.New(lg, m.be, m.lessor, mvcc.StoreConfig{})
	tokens, err := auth.NewTokenProvider(lg, "simple", func(uint64) <-chan struct{} { return nil }, time.Minute)
	if err != nil {
		return nil, err
	}
	m.auth = auth.NewAuthStore(lg, schema.NewAuthBackend(lg, m.be), tokens, 0)
	alarms, err := v3alarm.NewAlarmStore(lg, schema.NewAlarmBackend(lg, m.be))
	if err != nil {
		return nil, err
	}
	m.apply = apply.NewUberApplier(apply.ApplierOptions{
		Logger: lg, KV: m.kv, AlarmStore: alarms, AuthStore: m.auth, Lessor: m.lessor, Cluster: cluster, RaftStatus: nobody{},
		SnapshotServer: nobody{}, ConsistentIndex: m.index, TxnModeWriteWithSharedBuffer: true, Backend: m.be,
		QuotaBackendBytesCfg: -1, // a write beyond the quota is applied all the same, and raises an alarm through the log
		WarningApplyDuration: time.Hour,
	})
	return m, nil
}

func (m *machine) close() error {
	m.be.ForceCommit()
	err := m.kv.Close()
	m.lessor.Stop()
	return errors.Join(err, m.auth.Close(), m.be.Close())
}

// enter applies an entry as etcd's applyEntryNormal does. Changes of the membership are left out: the members of a
// restored cluster never come from its snapshot.
func (m *machine) enter(e *raftpb.Entry) error {
	m.index.SetConsistentApplyingIndex(e.GetIndex(), e.GetTerm())
	changes, err := changesData(e)
	if err != nil {
		return fmt.Errorf("entry %d of the log: %w", e.GetIndex(), err)
	}
	if changes {
		apply.Apply(m.log, e, m.apply, m.wait, membership.ApplyBoth)
	}
	if m.index.ConsistentIndex() < e.GetIndex() {
		m.index.SetConsistentIndex(e.GetIndex(), e.GetTerm())
	}
	return nil
}

// changeNothing are requests that leave keys, leases, alarms and users as they are. A checkpoint only notes how
// long a lease still lives.
var changeNothing = map[protoreflect.Name]bool{
	"cluster_version_set": true, "cluster_member_attr_set": true, "downgrade_info_set": true, "downgrade_version_test": true,
	"authenticate": true, "range": true, "auth_status": true, "auth_user_get": true, "auth_user_list": true,
	"auth_role_get": true, "auth_role_list": true, "lease_checkpoint": true,
}

// changesData tells whether an entry changes keys, leases, alarms or users. A request that this version of etcd
// does not know is an error: what it changed would be missing.
func changesData(e *raftpb.Entry) (changes bool, err error) {
	if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
		return false, nil
	}
	if isBareV2(e.GetData()) {
		return false, nil
	}
	var r pb.InternalRaftRequest
	if err := proto.Unmarshal(e.GetData(), &r); err != nil {
		return false, err
	}
	known := false
	r.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if field.Kind() == protoreflect.MessageKind && field.Name() != "header" {
			known, changes = true, changes || !changeNothing[field.Name()]
		}
		return true
	})
	if !known && !isV2(r.ProtoReflect().GetUnknown()) {
		return false, errors.New("it is of a kind that this version of etcd does not know; replay it with a newer requorum")
	}
	return changes, nil
}

// isV2 tells whether a request is one of etcd's old API, by which members up to etcd 3.5 tell their names; etcd's
// field 2 until 3.5.
func isV2(unknown protoreflect.RawFields) bool {
	const fieldV2 = 2
	for len(unknown) > 0 {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 || number == fieldV2 {
			return n >= 0
		}
		unknown = unknown[n:]
	}
	return false
}

// isBareV2 tells whether an entry is a request of etcd's old API and not wrapped in anything, which is how members up to
// etcd 3.4 tell their names and their cluster's version. Its field 2 is the method. In what etcd has proposed since, that
// field was a message, which does not read like this. To take one for the other would be to put an empty key.
func isBareV2(data []byte) bool {
	const fieldMethod = 2
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return false
		}
		data = data[n:]
		if number == fieldMethod && kind == protowire.BytesType {
			method, _ := protowire.ConsumeBytes(data)
			return slices.Contains([]string{"PUT", "POST", "DELETE", "GET", "QGET", "HEAD", "SYNC"}, string(method))
		}
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return false
		}
		data = data[n:]
	}
	return false
}

// nobody is the server that is not there.
type nobody struct{}

func (nobody) MemberID() types.ID     { return 0 }
func (nobody) Leader() types.ID       { return 0 }
func (nobody) CommittedIndex() uint64 { return 0 }
func (nobody) AppliedIndex() uint64   { return 0 }
func (nobody) Term() uint64           { return 0 }
func (nobody) ForceSnapshot()         {}
