package task

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
)

const (
	statusTimeout = 5 * time.Second // for one status request to the local member
	tickEvery     = time.Second
)

// Describe tells the member's configuration, and its state where it serves.
func (n *Node) Describe(ctx context.Context) (*requorumv1.Member, runtime.Member, error) {
	conf, err := n.Runtime.Inspect(ctx)
	if err != nil {
		return &requorumv1.Member{Error: err.Error()}, conf, err
	}
	return n.status(ctx, conf), conf, nil
}

func (n *Node) status(ctx context.Context, conf runtime.Member) *requorumv1.Member {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	state := &requorumv1.Member{Error: "etcd does not run"}
	if conf.Wanted {
		state.Error += "; its log on this node says why"
	}
	if conf.Running {
		if m, err := n.Member(ctx); err != nil {
			state.Error = err.Error()
		} else {
			state = m.Status(ctx)
		}
	}
	state.Name, state.DataDir, state.WalDir = conf.Name, conf.DataDir, conf.WALDir
	if len(state.GetPeerUrls()) == 0 {
		state.PeerUrls = conf.AdvertisePeerURLs
	}
	if len(state.GetClientUrls()) == 0 {
		state.ClientUrls = conf.AdvertiseClientURLs
	}
	if state.GetQuotaBytes() == 0 {
		state.QuotaBytes = conf.QuotaBytes
	}
	return state
}

// inspect tells everything that a restore of this node depends on.
func (n *Node) inspect(ctx context.Context, spec *agentv1.InspectNode) (*agentv1.TaskResult, error) {
	member, conf, err := n.Describe(ctx)
	f := &agentv1.NodeFacts{Member: member, Running: conf.Running || conf.Wanted, EtcdVersion: conf.Version, Uid: uint32(conf.UID), Gid: uint32(conf.GID)}
	state, stateErr := n.Journal.State()
	if stateErr != nil {
		return nil, stateErr
	}
	f.Generation, f.Fenced = state.GetGeneration(), state.GetFenced()
	if f.VaultFreeBytes, stateErr = n.Vault.FreeBytes(); stateErr != nil {
		return nil, stateErr
	}
	n.inspectScratch(spec.GetSnapshotSize(), f)
	if err == nil {
		err = n.inspectDirs(conf, spec.GetSnapshotSize(), f)
	}
	if err != nil {
		f.Problem = err.Error()
	}
	_, f.CanJoinLearner = n.Runtime.(runtime.LearnerStarter)
	if cp, ok := n.Runtime.(runtime.ControlPlane); ok {
		f.Stops = cp.ControlPlane()
	}
	f.Stops = append(f.Stops, "etcd")
	n.inspectFiles(f)
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Node{Node: f}}, nil
}

// inspectScratch adds whether there is space for a drill. Nothing else depends on that.
func (n *Node) inspectScratch(size int64, f *agentv1.NodeFacts) {
	if size == 0 || n.Drill == nil {
		return
	}
	needed, free, err := n.Drill.Space(size)
	if err != nil {
		n.Log.Warn("it cannot be told how much space there is for a drill", "error", err)
		return
	}
	f.ScratchNeededBytes, f.ScratchFreeBytes = needed, free
}

// inspectDirs adds what is about the data directory.
func (n *Node) inspectDirs(conf runtime.Member, size int64, f *agentv1.NodeFacts) error {
	found, err := n.disk().Facts(conf, n.Vault.Dir(), size)
	proto.Merge(f, found)
	if err != nil {
		return err
	}
	size = n.disk().Size(conf)
	f.HasData = size > 0
	if f.GetMember().GetDbSize() == 0 {
		f.Member.DbSize = size
	}
	return nil
}

// needed returns how many bytes staging a snapshot of size bytes takes on the file system of the data
// directory, and on that of the WAL directory where it has one of its own.
func needed(conf runtime.Member, size int64) (data, wal int64, err error) {
	forData, forWAL := datadir.NeededBytes(size)
	shared := true
	if conf.WALDir != "" {
		if shared, err = durable.SameFileSystem(conf.DataDir, conf.WALDir); err != nil {
			return 0, 0, err
		}
	}
	if shared {
		return int64(forData + forWAL), 0, nil
	}
	return int64(forData), int64(forWAL), nil
}

// hashKV computes HashKV on the running member.
func (n *Node) hashKV(ctx context.Context, spec *agentv1.HashKV, p *Progress) (*agentv1.TaskResult, error) {
	m, err := n.Member(ctx)
	if err != nil {
		return nil, err
	}
	stop := p.tickWhile(ctx)
	defer stop()
	h, err := m.HashKV(ctx, spec.GetRevision())
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_HashKv{HashKv: h}}, nil
}

// tickWhile ticks until stop is called, for a wait in which nothing can be counted and the other side
// has a time-out of its own.
func (p *Progress) tickWhile(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(tickEvery)
		defer ticker.Stop()
		for {
			p.Tick()
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}
