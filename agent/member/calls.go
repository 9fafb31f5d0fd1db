package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/dustin/go-humanize"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// HashKV hashes the member's keys at a revision, 0 for the latest. The member takes no writes meanwhile, about
// 0.3 s per GiB. A member that was never compacted gives the compact revision 0.
func (m *Member) HashKV(ctx context.Context, rev int64) (*agentv1.HashKVResult, error) {
	var r *pb.HashKVResponse
	err := m.call(ctx, "HashKV", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		r, err = pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.HashKVResult{Hash: r.Hash, Revision: hashedAt(r, rev), CompactRevision: max(r.CompactRevision, 0)}, nil
}

// hashedAt is the revision hashed at; etcd before 3.6 does not tell.
func hashedAt(r *pb.HashKVResponse, asked int64) int64 {
	switch {
	case r.HashRevision != 0:
		return r.HashRevision
	case asked != 0:
		return asked
	}
	return r.GetHeader().GetRevision()
}

// LinearizableRead reads a key through a quorum.
func (m *Member) LinearizableRead(ctx context.Context) error {
	return m.call(ctx, "linearizable read", func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(requireLeader(ctx), consensusTimeout)
		defer cancel()
		_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("health"), CountOnly: true})
		return err
	})
}

// ConsensusWrite grants a lease and revokes it: a write through a quorum that changes no key and no revision. Once
// begun it goes on although ctx ends, so that no lease is left behind; one that could not be revoked ends by itself
// after a minute.
func (m *Member) ConsensusWrite(ctx context.Context) error {
	return m.call(ctx, "consensus write", func(ctx context.Context, conn *grpc.ClientConn) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(requireLeader(ctx)), consensusTimeout)
		defer cancel()
		leases := pb.NewLeaseClient(conn)
		granted, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
		if err != nil {
			return err
		}
		_, err = leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: granted.ID})
		return err
	})
}

// ClearNoSpace clears the NOSPACE alarms of all members, those of members that are gone included, provided
// that this member's database fits its quota: its bytes in use, and its file, which is what etcd compares. A
// member that does not fit raises its alarm again at its next write. warning says why an alarm was left.
func (m *Member) ClearNoSpace(ctx context.Context) (cleared bool, warning string, err error) {
	state, err := m.status(ctx)
	if err != nil {
		return false, "", err
	}
	raised := slices.ContainsFunc(state.Alarms, isNoSpace)
	if !raised {
		return false, "", nil
	}
	if warning := m.noRoom(state); warning != "" {
		return false, warning, nil
	}
	err = m.call(ctx, "clear NOSPACE", func(ctx context.Context, conn *grpc.ClientConn) error {
		return disarm(ctx, conn)
	})
	return err == nil, "", err
}

func isNoSpace(a *requorumv1.Alarm) bool { return a.Type == pb.AlarmType_NOSPACE.String() }

// noRoom says why the database does not fit the quota, empty if it does. A negative quota is none.
func (m *Member) noRoom(state *requorumv1.Member) string {
	quota := state.QuotaBytes
	if quota == 0 {
		quota = m.cfg.QuotaBytes
	}
	if quota == 0 {
		quota = defaultQuotaBytes
	}
	size := func(n int64) string { return humanize.IBytes(uint64(n)) }
	switch {
	case quota < 0:
		return ""
	case state.DbSizeInUse >= quota:
		return fmt.Sprintf("NOSPACE stays on %s: %s in use, quota %s; raise quota-backend-bytes, or compact and defragment, then etcdctl alarm disarm",
			state.Name, size(state.DbSizeInUse), size(quota))
	case state.DbSize >= quota:
		return fmt.Sprintf("NOSPACE stays on %s: %s in use, but the file has %s, quota %s; run etcdctl defrag on it, then etcdctl alarm disarm",
			state.Name, size(state.DbSizeInUse), size(state.DbSize), size(quota))
	}
	return ""
}

// disarm clears every NOSPACE alarm that the member lists.
func disarm(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(requireLeader(ctx), consensusTimeout)
	defer cancel()
	maintenance := pb.NewMaintenanceClient(conn)
	r, err := maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		return err
	}
	for _, a := range r.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := maintenance.Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm,
		}); err != nil {
			return err
		}
	}
	return nil
}

// nobody is the ID of no member, in hexadecimal.
const nobody = "0"

// Disarm clears the alarm of one kind that the member of this ID, in hexadecimal, has raised. An alarm that is not
// there is no error; the request goes through a quorum all the same.
func (m *Member) Disarm(ctx context.Context, kind pb.AlarmType, memberID string) error {
	id, err := strconv.ParseUint(memberID, 16, 64)
	if err != nil {
		return fmt.Errorf("member ID %q: %w", memberID, err)
	}
	return m.call(ctx, "disarm "+kind.String(), func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(requireLeader(ctx), consensusTimeout)
		defer cancel()
		_, err := pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: id, Alarm: kind})
		return err
	})
}

// AddLearner adds a learner with these peer URLs; one that is there already is left alone. etcd refuses for
// the first seconds after a start: a *NotReadyError.
func (m *Member) AddLearner(ctx context.Context, peerURLs []string) error {
	err := m.call(ctx, "add learner", func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(requireLeader(ctx), consensusTimeout)
		defer cancel()
		return addLearner(ctx, conn, peerURLs)
	})
	if isAny(err, rpctypes.ErrUnhealthy) {
		return &NotReadyError{Endpoint: m.endpoints(), Err: err}
	}
	return err
}

func addLearner(ctx context.Context, conn *grpc.ClientConn, peerURLs []string) error {
	_, err := pb.NewClusterClient(conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: peerURLs, IsLearner: true})
	if !isAny(etcdError(err), rpctypes.ErrPeerURLExist, rpctypes.ErrMemberExist) {
		return err
	}
	list, listErr := listMembers(ctx, conn)
	if listErr != nil {
		return errors.Join(etcdError(err), listErr)
	}
	for _, listed := range list {
		if listed.IsLearner && sameURLs(listed.PeerURLs, peerURLs) {
			return nil
		}
	}
	return fmt.Errorf("another member has one of the peer URLs %v: %w", peerURLs, etcdError(err))
}

func sameURLs(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
