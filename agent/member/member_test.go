package member_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/requorum/requorum/agent/member"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/etcdtest"
)

// soon bounds what must not hang: well above the dial timeout, for slow machines.
const soon = 20 * time.Second

func config(c *etcdtest.Cluster, i int) member.Config {
	return member.Config{
		Endpoints: []string{c.Member(i).ClientURL},
		CAFile:    c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		Username: c.Username, PasswordFile: c.PasswordFile,
	}
}

func of(c *etcdtest.Cluster, i int) *member.Member {
	return member.New(config(c, i), hclog.NewNullLogger())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, c *etcdtest.Cluster, key, value string) int64 {
	t.Helper()
	r, err := c.Client(t).Put(t.Context(), key, value)
	must(t, err)
	return r.Header.Revision
}

func TestEveryCallInEveryShape(t *testing.T) {
	for name, o := range map[string]etcdtest.Options{
		"plain":                           {Members: 3},
		"client certificates":             {TLS: true},
		"authentication":                  {Auth: true},
		"certificates and authentication": {TLS: true, Auth: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := etcdtest.Start(t, o)
			rev := put(t, c, "k", "v")
			m := of(c, 0)
			ctx := t.Context()
			eventually(t, func() bool { return m.Status(ctx).GetRevision() == rev }) // a follower lags

			checkStatus(t, c, m.Status(ctx), rev)
			must(t, m.LinearizableRead(ctx))
			must(t, m.ConsensusWrite(ctx))
			hash, err := m.HashKV(ctx, rev)
			must(t, err)
			want, err := c.MemberClient(t, 0).HashKV(ctx, c.Endpoints[0], rev)
			must(t, err)
			if hash.Hash != want.Hash || hash.Revision != rev || hash.CompactRevision != 0 {
				t.Errorf("HashKV %v, expected %v", hash, want)
			}
			checkSnapshot(t, m)
			if state := m.Status(ctx); state.Revision != rev {
				t.Errorf("a check moved the revision from %d to %d", rev, state.Revision)
			}
			leases, err := c.Client(t).Leases(ctx)
			must(t, err)
			if len(leases.Leases) != 0 {
				t.Errorf("left behind: leases %v", leases.Leases)
			}
		})
	}
}

func checkStatus(t *testing.T, c *etcdtest.Cluster, state *requorumv1.Member, rev int64) {
	t.Helper()
	if !state.Serving || state.Error != "" {
		t.Fatalf("not serving: %s", state.Error)
	}
	server := c.Member(0).Server().Server
	if state.Id != server.MemberID().String() || state.ClusterId != server.Cluster().ID().String() ||
		state.Leader == "" || state.Learner || state.RaftTerm == 0 || state.RaftAppliedIndex == 0 {
		t.Errorf("IDs or raft state are wrong: %v", state)
	}
	if state.Revision != rev || state.Version == "" || state.DbSize == 0 || state.DbSizeInUse == 0 || state.QuotaBytes != 2<<30 {
		t.Errorf("revision, version or sizes are wrong: %v", state)
	}
	if state.Name != "m1" || len(state.Members) != c.Len() || state.PeerUrls[0] != c.Member(0).PeerURL || state.ClientUrls[0] != c.Endpoints[0] {
		t.Errorf("names, URLs or members are wrong: %v", state)
	}
}

func checkSnapshot(t *testing.T, m *member.Member) {
	t.Helper()
	stream, version, err := m.Snapshot(t.Context())
	must(t, err)
	data, err := io.ReadAll(stream)
	must(t, errors.Join(err, stream.Close()))
	body := len(data) - sha256.Size
	if version == "" || body <= 0 || sha256.Sum256(data[:body]) != [sha256.Size]byte(data[body:]) {
		t.Errorf("snapshot of %d bytes by etcd %q does not end in its SHA-256", len(data), version)
	}
}

func TestSnapshotClosedEarlyFreesTheMember(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	for range 20 {
		put(t, c, "k", strings.Repeat("v", 1<<20))
	}
	openTxs := func() int64 { // etcd counts when it commits
		put(t, c, "other", "v")
		return c.Member(0).Server().Server.Backend().OpenReadTxN()
	}
	before := openTxs()
	stream, _, err := of(c, 0).Snapshot(t.Context())
	must(t, err)
	eventually(t, func() bool { return openTxs() > before }) // else the test would prove nothing
	must(t, stream.Close())
	eventually(t, func() bool { return openTxs() <= before })
}

func TestSnapshotEndsWithItsContext(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	for range 20 {
		put(t, c, "k", strings.Repeat("v", 1<<20))
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, _, err := of(c, 0).Snapshot(ctx)
	must(t, err)
	cancel()
	if _, err := io.ReadAll(stream); !errors.Is(err, context.Canceled) {
		t.Errorf("read on: %v", err)
	}
	must(t, stream.Close())
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for !ok() {
		select {
		case <-every.C:
		case <-ctx.Done():
			t.Fatal("it never came true")
		}
	}
}

func TestMemberWithoutLeaderStillTells(t *testing.T) {
	for name, o := range map[string]etcdtest.Options{"plain": {Members: 3}, "authentication, logged in before": {Members: 3, Auth: true}} {
		t.Run(name, func(t *testing.T) {
			c := etcdtest.Start(t, o)
			rev := put(t, c, "k", "v")
			m := of(c, 0)
			eventually(t, func() bool { return m.Status(t.Context()).Revision == rev })
			c.Stop(1, 2)
			eventually(t, func() bool { return m.Status(t.Context()).Leader == "" })
			state := m.Status(t.Context())
			if !state.Serving || state.Error != "" || state.Revision != rev || len(state.Members) != 3 || state.Name != "m1" {
				t.Errorf("got %v", state)
			}
			began := time.Now()
			for what, err := range map[string]error{
				"read": m.LinearizableRead(t.Context()), "write": m.ConsensusWrite(t.Context()),
			} {
				if !errors.Is(err, rpctypes.ErrNoLeader) {
					t.Errorf("%s without a leader: %v", what, err)
				}
			}
			if took := time.Since(began); took > soon {
				t.Errorf("it took %v to say that there is no leader", took)
			}
			hash, err := m.HashKV(t.Context(), rev)
			if err != nil || hash.Hash == 0 {
				t.Errorf("HashKV without a leader: %v, %v", hash, err)
			}
		})
	}
}

func TestStoppedMemberIsNotServing(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	c.Stop(0)
	state := of(c, 0).Status(t.Context())
	if state.Serving || !strings.Contains(state.Error, strings.TrimPrefix(c.Endpoints[0], "http://")) || !strings.Contains(state.Error, "check that etcd runs") {
		t.Errorf("got %v", state)
	}
}

func TestMemberThatNeverAnswersIsGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	must(t, err)
	defer l.Close()
	m := member.New(member.Config{Endpoints: []string{"http://" + l.Addr().String()}, DialTimeout: time.Second}, hclog.NewNullLogger())
	began := time.Now()
	if state := m.Status(t.Context()); state.Serving || state.Error == "" {
		t.Errorf("got %v", state)
	}
	if took := time.Since(began); took > soon {
		t.Errorf("it took %v", took)
	}
}

func TestSecondEndpointIsTaken(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	cfg := config(c, 0)
	cfg.Endpoints = []string{"http://127.0.0.1:1", c.Endpoints[0]}
	if state := member.New(cfg, hclog.NewNullLogger()).Status(t.Context()); !state.Serving {
		t.Errorf("got %v", state)
	}
}

func TestHTTPSToHTTPSaysSo(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	cfg := config(c, 0)
	cfg.Endpoints[0] = strings.Replace(cfg.Endpoints[0], "http", "https", 1)
	if state := member.New(cfg, hclog.NewNullLogger()).Status(t.Context()); state.Serving || !strings.Contains(state.Error, "use an http:// endpoint in the agent's etcd section") {
		t.Errorf("%q", state.Error)
	}
}

func TestWrongFilesGiveAClearErrorSoon(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: true})
	other := etcdtest.NewCA(t)
	otherCert, otherKey := other.Issue(t, "stranger")
	for name, tc := range map[string]struct {
		change func(*member.Config)
		says   string
	}{
		"another CA":                  {func(cfg *member.Config) { cfg.CAFile = other.File }, "check ca_file"},
		"a certificate of another CA": {func(cfg *member.Config) { cfg.CertFile, cfg.KeyFile = otherCert, otherKey }, "check cert_file"},
		"no certificate":              {func(cfg *member.Config) { cfg.CertFile, cfg.KeyFile = "", "" }, "check cert_file"},
		"no such CA file":             {func(cfg *member.Config) { cfg.CAFile = "/nowhere" }, "ca_file in the agent's etcd section: open /nowhere"},
		"no PEM in the CA file":       {func(cfg *member.Config) { cfg.CAFile = cfg.KeyFile }, "holds no PEM certificate"},
		"http to https":               {func(cfg *member.Config) { cfg.Endpoints[0] = strings.Replace(cfg.Endpoints[0], "https", "http", 1) }, "https:// endpoint"},
		"another scheme":              {func(cfg *member.Config) { cfg.Endpoints[0] = "ftp://localhost" }, "not one of http"},
		"no endpoint":                 {func(cfg *member.Config) { cfg.Endpoints = nil }, "set endpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(c, 0)
			tc.change(&cfg)
			began := time.Now()
			state := member.New(cfg, hclog.NewNullLogger()).Status(t.Context())
			if state.Serving || !strings.Contains(state.Error, tc.says) {
				t.Errorf("%q is not in %q", tc.says, state.Error)
			}
			if took := time.Since(began); took > soon {
				t.Errorf("it took %v", took)
			}
			t.Log(state.Error)
		})
	}
}

func TestRotatedFilesAreReadAgain(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{TLS: true})
	other := etcdtest.NewCA(t)
	otherCert, otherKey := other.Issue(t, "stranger")
	dir := t.TempDir()
	replace := func(ca, cert, key string) {
		t.Helper()
		for from, to := range map[string]string{ca: "ca", cert: "cert", key: "key"} {
			data, err := os.ReadFile(from)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, to), data, 0o600))
		}
	}
	cfg := config(c, 0)
	cfg.CAFile, cfg.CertFile, cfg.KeyFile = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	m := member.New(cfg, hclog.NewNullLogger())

	replace(other.File, otherCert, otherKey)
	if state := m.Status(t.Context()); state.Serving {
		t.Fatal("serving with another CA's files")
	}
	replace(c.CAFile, c.CertFile, c.KeyFile)
	if state := m.Status(t.Context()); !state.Serving {
		t.Fatalf("the new files are not used: %s", state.Error)
	}
	replace(other.File, otherCert, otherKey)
	if state := m.Status(t.Context()); state.Serving {
		t.Fatal("the old files are still used")
	}
}

func TestAddLearnerTwiceAddsOne(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	peers := []string{"http://127.0.0.1:1"}
	eventually(t, func() bool {
		err := m.AddLearner(t.Context(), peers)
		var notReady *member.NotReadyError
		if err != nil && !errors.As(err, &notReady) {
			t.Fatal(err)
		}
		return err == nil
	})
	must(t, m.AddLearner(t.Context(), peers))
	state := m.Status(t.Context())
	if len(state.Members) != 2 {
		t.Errorf("members %v", state.Members)
	}
	if err := m.AddLearner(t.Context(), []string{c.Member(0).PeerURL}); err == nil {
		t.Error("a voter's URL was taken for a learner's")
	}
}

func TestLearnerTellsWhatItCan(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	learner := etcdtest.Join(t, c)
	state := member.New(member.Config{Endpoints: []string{learner.ClientURL}}, hclog.NewNullLogger()).Status(t.Context())
	if !state.Serving || !state.Learner || state.Id == "" || state.Error != "" {
		t.Errorf("got %v", state)
	}
}
