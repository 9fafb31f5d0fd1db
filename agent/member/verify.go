package member

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Verify looks once whether the member serves as it must after a restore. What the request leaves empty is not
// checked. It fails with a *NotReadyError where a later attempt may succeed, and with a *MismatchError where
// the member is another than expected, CORRUPT, or refuses the user.
func (m *Member) Verify(ctx context.Context, want *agentv1.Verify) (*agentv1.Verified, error) {
	m.forgetOthers(want.ClusterId)
	state, err := m.status(ctx)
	if err != nil {
		return nil, m.unready(err)
	}
	for _, check := range []func(*requorumv1.Member, *agentv1.Verify) error{
		m.checkIdentity, m.checkCorrupt, m.checkLeader, m.checkMembers, m.checkRevision,
	} {
		if err := check(state, want); err != nil {
			return nil, err
		}
	}
	got := &agentv1.Verified{}
	for _, step := range []func(context.Context, *agentv1.Verify, *agentv1.Verified) error{
		m.verifyNoSpace, m.liftGate, m.verifyConsensus, m.verifyHash, m.addLearners,
	} {
		if err := step(ctx, want, got); err != nil {
			return nil, m.unready(err)
		}
	}
	if got.Member, err = m.status(ctx); err != nil {
		return nil, m.unready(err)
	}
	return got, nil
}

func (m *Member) checkIdentity(state *requorumv1.Member, want *agentv1.Verify) error {
	if want.ClusterId != "" && state.ClusterId != want.ClusterId {
		return m.mismatch("its cluster ID is %s, not %s: it runs on other data than was restored", state.ClusterId, want.ClusterId)
	}
	if want.MemberId != "" && state.Id != want.MemberId {
		return m.mismatch("its member ID is %s, not %s: it runs on another member's data", state.Id, want.MemberId)
	}
	return nil
}

func (m *Member) checkCorrupt(state *requorumv1.Member, want *agentv1.Verify) error {
	for _, a := range state.Alarms {
		if a.Type == pb.AlarmType_CORRUPT.String() && (want.Gate == "" || a.MemberId != want.Gate) {
			return m.mismatch("alarm CORRUPT of member %s: members hold different data; use another snapshot", a.MemberId)
		}
	}
	return nil
}

func (m *Member) checkLeader(state *requorumv1.Member, _ *agentv1.Verify) error {
	if state.Leader == "" {
		return m.notReady("it sees no leader")
	}
	return nil
}

// checkMembers compares the list with the one expected, learners to be added aside.
func (m *Member) checkMembers(state *requorumv1.Member, want *agentv1.Verify) error {
	if len(want.Members) == 0 {
		return nil
	}
	missing := maps.Clone(want.Members)
	for _, listed := range state.Members {
		urls, expected := want.Members[listed.Name]
		switch {
		case expected && sameURLs(listed.PeerUrls, strings.Split(urls, ",")):
			delete(missing, listed.Name)
		case listed.Name == "" && !listed.Learner:
			return m.notReady("it does not know the name of member %s yet", listed.Id)
		case isAddedLearner(listed, want):
		default:
			return m.mismatch("it lists member %s (%s) with peer URLs %s, which is not expected",
				listed.Name, listed.Id, strings.Join(listed.PeerUrls, ","))
		}
	}
	if len(missing) > 0 {
		return m.mismatch("it does not list %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return nil
}

func isAddedLearner(listed *requorumv1.ListedMember, want *agentv1.Verify) bool {
	for _, urls := range want.AddLearners {
		if listed.Learner && sameURLs(listed.PeerUrls, strings.Split(urls, ",")) {
			return true
		}
	}
	return false
}

func (m *Member) checkRevision(state *requorumv1.Member, want *agentv1.Verify) error {
	if least := max(want.Revision, want.HashRevision); state.Revision < least {
		return m.notReady("it is at revision %d, below %d", state.Revision, least)
	}
	return nil
}

// verifyNoSpace clears the alarm where asked to. Whatever is left of it is a warning. As long as the gate is to stay
// closed it only looks: up to etcd 3.5 a NOSPACE that is cleared takes the refusals of CORRUPT along with it, since
// applierV3backend.Alarm then makes its appliers anew without the alarms that are left.
func (m *Member) verifyNoSpace(ctx context.Context, want *agentv1.Verify, got *agentv1.Verified) error {
	if want.ClearNoSpace && gated(want) {
		return m.foreseeNoSpace(ctx, got)
	}
	if want.ClearNoSpace {
		cleared, warning, err := m.ClearNoSpace(ctx)
		if err != nil {
			return err
		}
		if warning != "" {
			got.Warnings = append(got.Warnings, warning)
		}
		if cleared {
			m.log.Info("cleared the NOSPACE alarm that came with the snapshot")
		}
		return nil
	}
	state, err := m.status(ctx)
	if err != nil {
		return err
	}
	for _, a := range state.Alarms {
		if isNoSpace(a) {
			got.Warnings = append(got.Warnings, fmt.Sprintf("alarm NOSPACE of member %s: etcd refuses writes; once there is space, etcdctl alarm disarm", a.MemberId))
		}
	}
	return nil
}

// foreseeNoSpace warns of an alarm that cannot be cleared once the gate is open.
func (m *Member) foreseeNoSpace(ctx context.Context, got *agentv1.Verified) error {
	state, err := m.status(ctx)
	if err != nil || !slices.ContainsFunc(state.Alarms, isNoSpace) {
		return err
	}
	if warning := m.noRoom(state); warning != "" {
		got.Warnings = append(got.Warnings, warning)
	}
	return nil
}

// gated tells whether the gate is to keep writes out.
func gated(want *agentv1.Verify) bool { return want.Gate != "" && !want.LiftGate }

// liftGate lets clients write again, where asked to.
func (m *Member) liftGate(ctx context.Context, want *agentv1.Verify, _ *agentv1.Verified) error {
	if !want.LiftGate || want.Gate == "" {
		return nil
	}
	return m.Disarm(ctx, pb.AlarmType_CORRUPT, want.Gate)
}

// verifyConsensus takes a refusal for lack of space as the quorum's answer, which it is: it comes out of the
// raft log. As long as the gate refuses writes, what goes through the log is a request that changes nothing.
func (m *Member) verifyConsensus(ctx context.Context, want *agentv1.Verify, got *agentv1.Verified) error {
	if err := m.LinearizableRead(ctx); err != nil {
		return err
	}
	if gated(want) {
		return m.Disarm(ctx, pb.AlarmType_NOSPACE, nobody)
	}
	err := m.ConsensusWrite(ctx)
	if isAny(err, rpctypes.ErrNoSpace) {
		if len(got.Warnings) == 0 {
			got.Warnings = append(got.Warnings, "a member's database exceeds its quota: etcd refuses writes; raise quota-backend-bytes or defragment, then etcdctl alarm disarm")
		}
		return nil
	}
	return err
}

func (m *Member) verifyHash(ctx context.Context, want *agentv1.Verify, got *agentv1.Verified) (err error) {
	if want.HashRevision == 0 {
		return nil
	}
	got.HashKv, err = m.HashKV(ctx, want.HashRevision)
	if !isAny(err, rpctypes.ErrCompacted) {
		return err
	}
	// Up to etcd 3.4 the revision that was compacted at counts as compacted, too (HashByRev in mvcc/kvstore.go), and a restore
	// compacts at the last one. Without a revision etcd hashes at the latest, and answers which that was.
	if got.HashKv, err = m.HashKV(ctx, 0); err == nil && got.HashKv.Revision != want.HashRevision {
		return m.mismatch("revision %d is compacted, its HashKV cannot be compared", want.HashRevision)
	}
	return err
}

// addLearners adds what the restore left out. A learner that does not fit in is a warning: it does not vote.
func (m *Member) addLearners(ctx context.Context, want *agentv1.Verify, got *agentv1.Verified) error {
	for _, name := range slices.Sorted(maps.Keys(want.AddLearners)) {
		err := m.AddLearner(ctx, strings.Split(want.AddLearners[name], ","))
		if isAny(err, rpctypes.ErrTooManyLearners, rpctypes.ErrPeerURLExist) {
			got.Warnings = append(got.Warnings, fmt.Sprintf("learner %s is not in the cluster: %v", name, err))
			continue
		}
		if err != nil {
			return fmt.Errorf("learner %s: %w", name, err)
		}
	}
	return nil
}

func (m *Member) endpoints() string { return strings.Join(m.cfg.Endpoints, ",") }

func (m *Member) notReady(format string, args ...any) error {
	return &NotReadyError{Endpoint: m.endpoints(), Reason: fmt.Sprintf(format, args...)}
}

func (m *Member) mismatch(format string, args ...any) error {
	return &MismatchError{Endpoint: m.endpoints(), Reason: fmt.Sprintf(format, args...)}
}
