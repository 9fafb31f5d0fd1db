package member_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/requorum/requorum/agent/member"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdtest"
)

// expected is a Verify that the cluster's first member passes.
func expected(c *etcdtest.Cluster, revision int64) *agentv1.Verify {
	server := c.Member(0).Server().Server
	want := &agentv1.Verify{
		ClusterId: server.Cluster().ID().String(), MemberId: server.MemberID().String(),
		Revision: revision, HashRevision: revision, Members: map[string]string{},
	}
	for i := range c.Len() {
		want.Members[c.Member(i).Name] = c.Member(i).PeerURL
	}
	return want
}

func TestVerify(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	rev := put(t, c, "k", "v")
	m := of(c, 0)
	eventually(t, func() bool { return m.Status(t.Context()).Revision == rev })

	got, err := m.Verify(t.Context(), expected(c, rev))
	must(t, err)
	hash, err := m.HashKV(t.Context(), rev)
	must(t, err)
	if got.HashKv.GetHash() != hash.Hash || !got.Member.GetServing() || len(got.Warnings) != 0 {
		t.Errorf("got %v", got)
	}

	for name, tc := range map[string]struct {
		change func(*agentv1.Verify)
		retry  bool
		says   string
	}{
		"another cluster":   {func(v *agentv1.Verify) { v.ClusterId = "1" }, false, "cluster ID"},
		"another member":    {func(v *agentv1.Verify) { v.MemberId = "1" }, false, "member ID"},
		"a member too many": {func(v *agentv1.Verify) { delete(v.Members, "m3") }, false, "member m3"},
		"a member too few":  {func(v *agentv1.Verify) { v.Members["m4"] = "http://127.0.0.1:1" }, false, "does not list m4"},
		"another peer URL":  {func(v *agentv1.Verify) { v.Members["m2"] = "http://127.0.0.1:1" }, false, "member m2"},
		"a later revision":  {func(v *agentv1.Verify) { v.Revision++ }, true, "below"},
		"a later hash":      {func(v *agentv1.Verify) { v.HashRevision++ }, true, "below"},
	} {
		t.Run(name, func(t *testing.T) {
			want := expected(c, rev)
			tc.change(want)
			_, err := m.Verify(t.Context(), want)
			checkKind(t, err, tc.retry, tc.says)
		})
	}

	t.Run("a stopped member", func(t *testing.T) {
		want := expected(c, rev)
		c.Stop(0)
		_, err := m.Verify(t.Context(), want)
		checkKind(t, err, true, "check that etcd runs")
		c.Restart(0)
	})
	t.Run("no leader", func(t *testing.T) {
		c.Stop(1, 2)
		eventually(t, func() bool { return m.Status(t.Context()).Leader == "" })
		_, err := m.Verify(t.Context(), expected(c, rev))
		checkKind(t, err, true, "no leader")
	})
}

func checkKind(t *testing.T, err error, retry bool, says string) {
	t.Helper()
	var notReady *member.NotReadyError
	var mismatch *member.MismatchError
	if errors.As(err, &notReady) != retry || errors.As(err, &mismatch) == retry {
		t.Errorf("of the wrong kind: %T %v", err, err)
	}
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%q is not in %v", says, err)
	}
}

func TestVerifyOfARefusedUserIsAMismatch(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	cfg := config(c, 0)
	cfg.Username, cfg.PasswordFile = "", ""
	_, err := member.New(cfg, hclog.NewNullLogger()).Verify(t.Context(), expected(c, 1))
	checkKind(t, err, false, "set username and password_file")
}

func raise(t *testing.T, c *etcdtest.Cluster, memberID uint64, kind pb.AlarmType) {
	t.Helper()
	_, err := c.Member(0).Server().Server.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: memberID, Alarm: kind})
	must(t, err)
}

func TestCorruptIsNeverCleared(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	raise(t, c, 0xabc, pb.AlarmType_CORRUPT)
	want := expected(c, 1)
	want.ClearNoSpace = true
	_, err := m.Verify(t.Context(), want)
	checkKind(t, err, false, "CORRUPT of member abc")
	if cleared, _, err := m.ClearNoSpace(t.Context()); cleared || err != nil {
		t.Errorf("cleared %v, %v", cleared, err)
	}
	if alarms := m.Status(t.Context()).Alarms; len(alarms) != 1 || alarms[0].Type != "CORRUPT" || alarms[0].MemberId != "abc" {
		t.Errorf("alarms %v", alarms)
	}
}

// A restore's own alarm keeps writes out until it is lifted. That of anybody else stays what it is.
func TestTheGateIsKnownAndLifted(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	raise(t, c, 0xabc, pb.AlarmType_CORRUPT)
	want := expected(c, 1)
	want.Gate = "abc"
	_, err := m.Verify(t.Context(), want)
	must(t, err)
	if alarms := m.Status(t.Context()).Alarms; len(alarms) != 1 {
		t.Fatalf("looking has changed the alarms: %v", alarms)
	}
	if err := m.ConsensusWrite(t.Context()); !errors.Is(err, rpctypes.ErrCorrupt) {
		t.Errorf("a write while the gate is closed: %v", err)
	}
	want.LiftGate = true
	for range 2 { // the second time there is nothing left to lift
		_, err = m.Verify(t.Context(), want)
		must(t, err)
	}
	must(t, m.ConsensusWrite(t.Context()))
	raise(t, c, 0xdef, pb.AlarmType_CORRUPT)
	_, err = m.Verify(t.Context(), want)
	checkKind(t, err, false, "CORRUPT of member def")
}

// Up to etcd 3.5, clearing NOSPACE would open the gate.
func TestNoSpaceIsClearedWithTheGateAndNotBefore(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	raise(t, c, 0xabc, pb.AlarmType_CORRUPT)
	raise(t, c, 0xdef, pb.AlarmType_NOSPACE)
	want := expected(c, 1)
	want.Gate, want.ClearNoSpace = "abc", true
	got, err := m.Verify(t.Context(), want)
	must(t, err)
	if len(got.Warnings) != 0 || len(got.Member.Alarms) != 2 {
		t.Errorf("while the gate is closed: %v", got)
	}
	want.LiftGate = true
	got, err = m.Verify(t.Context(), want)
	must(t, err)
	if len(got.Warnings) != 0 || len(got.Member.Alarms) != 0 {
		t.Errorf("once it is lifted: %v", got)
	}
	put(t, c, "k", "v")
}

// An alarm comes back with a snapshot, raised by a member of the old cluster.
func TestNoSpaceOfAMemberThatIsGone(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	raise(t, c, 0xabc, pb.AlarmType_NOSPACE)

	got, err := m.Verify(t.Context(), expected(c, 1))
	must(t, err)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "NOSPACE of member abc") {
		t.Errorf("warnings %v", got.Warnings)
	}
	want := expected(c, 1)
	want.ClearNoSpace = true
	got, err = m.Verify(t.Context(), want)
	must(t, err)
	if len(got.Warnings) != 0 || len(got.Member.Alarms) != 0 {
		t.Errorf("not cleared: %v", got)
	}
	put(t, c, "k", "v")
}

func TestNoSpaceIsClearedOnceTheDatabaseFits(t *testing.T) {
	const quota = 4 << 20
	var cfg *embed.Config
	c := etcdtest.Start(t, etcdtest.Options{Configure: func(_ int, started *embed.Config) { cfg = started }})
	const spares = 100
	for i := range spares {
		put(t, c, fmt.Sprint("spare", i), "v")
	}
	for range 12 {
		put(t, c, "k", strings.Repeat("v", 512<<10))
	}
	c.Stop(0)
	cfg.QuotaBackendBytes = quota
	c.Restart(0)
	m, client := of(c, 0), c.Client(t)
	if _, err := client.Put(t.Context(), "k", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("there is space: %v", err)
	}
	state := m.Status(t.Context())
	if state.QuotaBytes != quota || len(state.Alarms) != 1 || state.Alarms[0].MemberId != state.Id {
		t.Fatalf("no alarm is raised: %v", state)
	}
	rev := state.Revision

	left := func(says string) {
		t.Helper()
		cleared, warning, err := m.ClearNoSpace(t.Context())
		if cleared || err != nil || !strings.Contains(warning, says) {
			t.Errorf("cleared %v, %q, %v", cleared, warning, err)
		}
	}
	left("quota-backend-bytes")
	want := expected(c, rev)
	want.ClearNoSpace = true
	got, err := m.Verify(t.Context(), want)
	must(t, err)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "NOSPACE stays on m1") {
		t.Errorf("warnings %v", got.Warnings)
	}

	_, err = client.Compact(t.Context(), rev, clientv3.WithCompactPhysical())
	must(t, err)
	deleted := 0
	eventually(t, func() bool {
		// etcd counts freed pages with the next commit that writes something, which a deletion may also without space.
		_, err := client.Delete(t.Context(), fmt.Sprint("spare", deleted%spares))
		must(t, err)
		deleted++
		return m.Status(t.Context()).DbSizeInUse < quota
	})
	left("defrag") // the file is as large as before, and that is what etcd compares
	_, err = client.Defragment(t.Context(), c.Endpoints[0])
	must(t, err)
	cleared, warning, err := m.ClearNoSpace(t.Context())
	if !cleared || warning != "" || err != nil {
		t.Fatalf("cleared %v, %q, %v", cleared, warning, err)
	}
	put(t, c, "k", "v")
	must(t, m.ConsensusWrite(t.Context()))
}

func TestVerifyAddsLearners(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	want := expected(c, 1)
	want.AddLearners = map[string]string{"l1": "http://127.0.0.1:1", "l2": "http://127.0.0.1:2"} // etcd takes one by default
	for range 2 {
		var got *agentv1.Verified
		eventually(t, func() (done bool) {
			var err error
			got, err = m.Verify(t.Context(), want)
			var notReady *member.NotReadyError
			if err != nil && !errors.As(err, &notReady) {
				t.Fatal(err)
			}
			return err == nil
		})
		if len(got.Member.Members) != 2 || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "learner l2") {
			t.Errorf("got %v", got)
		}
	}
}
