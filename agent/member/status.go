package member

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Status asks the member how it is. It takes no leader. Where the member does not answer, or only part of it,
// Serving is false and Error says why. A learner does not list members: name, URLs and members stay empty.
func (m *Member) Status(ctx context.Context) *requorumv1.Member {
	state, err := m.status(ctx)
	if err != nil {
		m.log.Debug("member does not answer", "error", err)
		state.Serving, state.Error = false, err.Error()
	}
	return state
}

// status returns what the member told, also together with an error.
func (m *Member) status(ctx context.Context) (*requorumv1.Member, error) {
	state := &requorumv1.Member{}
	err := m.call(ctx, "status", func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, m.cfg.DialTimeout)
		defer cancel()
		s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		state = stateOf(s)
		list, err := listMembers(ctx, conn)
		if isAny(etcdError(err), errNotForLearners) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list members: %w", etcdError(err))
		}
		addMembers(state, list)
		return nil
	})
	return state, err
}

// listMembers asks for the member's own list, which takes no leader.
func listMembers(ctx context.Context, conn *grpc.ClientConn) ([]*pb.Member, error) {
	r, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: false})
	return r.GetMembers(), err
}

func stateOf(s *pb.StatusResponse) *requorumv1.Member {
	state := &requorumv1.Member{
		Id:               id(s.GetHeader().GetMemberId()),
		ClusterId:        id(s.GetHeader().GetClusterId()),
		Serving:          true,
		Leader:           id(s.GetLeader()),
		Learner:          s.GetIsLearner(),
		Revision:         s.GetHeader().GetRevision(),
		RaftAppliedIndex: s.GetRaftAppliedIndex(),
		RaftTerm:         s.GetRaftTerm(),
		Version:          s.GetVersion(),
		DbSize:           s.GetDbSize(),
		DbSizeInUse:      s.GetDbSizeInUse(),
		QuotaBytes:       s.GetDbSizeQuota(),
	}
	for _, text := range s.GetErrors() {
		if alarm := parseAlarm(text); alarm != nil {
			state.Alarms = append(state.Alarms, alarm)
		}
	}
	return state
}

var errNotForLearners = rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)

var (
	alarmType   = regexp.MustCompile(`\balarm:\s*([A-Z]+)`)
	alarmMember = regexp.MustCompile(`\bmemberID:\s*([0-9]+)`)
)

// parseAlarm takes an alarm out of a status's errors, where etcd puts it as protobuf text. The RPC that lists
// alarms would need a leader and write to the raft log. nil is another error, such as the lack of a leader.
func parseAlarm(text string) *requorumv1.Alarm {
	kind := alarmType.FindStringSubmatch(text)
	if kind == nil {
		return nil
	}
	alarm := &requorumv1.Alarm{Type: kind[1]}
	if raisedBy := alarmMember.FindStringSubmatch(text); raisedBy != nil {
		if n, err := strconv.ParseUint(raisedBy[1], 10, 64); err == nil {
			alarm.MemberId = id(n)
		}
	}
	return alarm
}

func addMembers(state *requorumv1.Member, list []*pb.Member) {
	for _, listed := range list {
		if id(listed.ID) == state.Id {
			state.Name, state.PeerUrls, state.ClientUrls = listed.Name, listed.PeerURLs, listed.ClientURLs
		}
		state.Members = append(state.Members, &requorumv1.ListedMember{
			Id: id(listed.ID), Name: listed.Name, PeerUrls: listed.PeerURLs, ClientUrls: listed.ClientURLs, Learner: listed.IsLearner,
		})
	}
}

// id prints an ID as etcdctl does; empty for none.
func id(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 16)
}
