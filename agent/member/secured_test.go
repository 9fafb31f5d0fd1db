package member_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/requorum/requorum/agent/member"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/loopback"
)

// everyCall makes each call that requorum makes of a member.
func everyCall(ctx context.Context, m *member.Member) error {
	state := m.Status(ctx)
	if !state.GetServing() {
		return errors.New(state.GetError())
	}
	if _, err := m.HashKV(ctx, 0); err != nil {
		return err
	}
	s, _, err := m.Snapshot(ctx)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if _, _, err := m.ClearNoSpace(ctx); err != nil {
		return err
	}
	if _, err := m.Verify(ctx, &agentv1.Verify{ClusterId: state.GetClusterId(), MemberId: state.GetId()}); err != nil {
		return err
	}
	var notReady *member.NotReadyError
	if err := m.AddLearner(ctx, []string{"http://127.0.0.1:1"}); err != nil && !errors.As(err, &notReady) {
		return err
	}
	return errors.Join(m.LinearizableRead(ctx), m.ConsensusWrite(ctx))
}

// listenOn makes the member's only client URL another one than etcdtest's.
func listenOn(t *testing.T, raw string, secure *transport.TLSInfo) func(int, *embed.Config) {
	t.Helper()
	u, err := url.Parse(raw)
	must(t, err)
	return func(_ int, cfg *embed.Config) {
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*u}, []url.URL{*u}
		if secure != nil {
			cfg.ClientTLSInfo = *secure
		}
	}
}

// Every call works wherever the member listens, if it listens nowhere else.
func TestEveryCallWhereverTheMemberListens(t *testing.T) {
	ports, err := loopback.Ports(3)
	must(t, err)
	ca := etcdtest.NewCA(t)
	serve := func(hosts ...string) *transport.TLSInfo {
		cert, key := ca.IssueFor(t, "etcd", hosts...)
		return &transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca.File, ClientCertAuth: true}
	}
	clientCert, clientKey := ca.Issue(t, "requorum")
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	for what, c := range map[string]struct {
		url    string
		secure *transport.TLSInfo
	}{
		"the node's own address":       {fmt.Sprintf("http://127.0.0.7:%d", ports[0]), nil},
		"its own address, with TLS":    {fmt.Sprintf("https://127.0.0.7:%d", ports[0]), serve("127.0.0.7")},
		"IPv6":                         {fmt.Sprintf("http://[::1]:%d", ports[1]), nil},
		"IPv6 with TLS":                {fmt.Sprintf("https://[::1]:%d", ports[1]), serve("::1")},
		"a name, in a TLS certificate": {fmt.Sprintf("https://localhost:%d", ports[2]), serve("localhost")},
		"a unix socket":                {"unix://" + socket, nil},
		"a unix socket with TLS":       {"unixs://" + socket, serve("localhost", socket)},
	} {
		t.Run(what, func(t *testing.T) {
			etcdtest.Start(t, etcdtest.Options{Configure: listenOn(t, c.url, c.secure)})
			cfg := member.Config{Endpoints: []string{c.url}}
			if c.secure != nil {
				cfg.CAFile, cfg.CertFile, cfg.KeyFile = ca.File, clientCert, clientKey
			}
			must(t, everyCall(t.Context(), member.New(cfg, hclog.NewNullLogger())))
		})
	}
}

// A certificate that names a host is not good for its address.
func TestCertificateOfANameIsNotGoodForTheAddress(t *testing.T) {
	ca := etcdtest.NewCA(t)
	cert, key := ca.IssueFor(t, "etcd", "localhost")
	ports, err := loopback.Ports(1)
	must(t, err)
	byAddress := fmt.Sprintf("https://127.0.0.1:%d", ports[0])
	etcdtest.Start(t, etcdtest.Options{Configure: listenOn(t, byAddress, &transport.TLSInfo{CertFile: cert, KeyFile: key})})
	if err := everyCall(t.Context(), member.New(member.Config{Endpoints: []string{byAddress}, CAFile: ca.File}, hclog.NewNullLogger())); err == nil {
		t.Error("the address is taken for the name")
	}
	byName := fmt.Sprintf("https://localhost:%d", ports[0])
	must(t, everyCall(t.Context(), member.New(member.Config{Endpoints: []string{byName}, CAFile: ca.File}, hclog.NewNullLogger())))
}

// The member's CA is replaced while the agent runs, with a time in which both are trusted.
func TestCertificatesRotateWithoutARestart(t *testing.T) {
	old, fresh := etcdtest.NewCA(t), etcdtest.NewCA(t)
	dir := t.TempDir()
	bundle, cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	trusted, servesWith, servesKey := filepath.Join(dir, "trusted.crt"), filepath.Join(dir, "etcd.crt"), filepath.Join(dir, "etcd.key")
	trust := func(to string, cas ...*etcdtest.CA) {
		t.Helper()
		var all []byte
		for _, ca := range cas {
			all = append(all, read(t, ca.File)...)
		}
		must(t, os.WriteFile(to, all, 0o600))
	}
	show := func(toCert, toKey string, ca *etcdtest.CA, cn string) {
		t.Helper()
		c, k := ca.Issue(t, cn)
		must(t, os.WriteFile(toCert, read(t, c), 0o600))
		must(t, os.WriteFile(toKey, read(t, k), 0o600))
	}
	trust(bundle, old)
	trust(trusted, old)
	show(cert, key, old, "")
	show(servesWith, servesKey, old, "etcd")
	ports, err := loopback.Ports(1)
	must(t, err)
	endpoint := fmt.Sprintf("https://127.0.0.1:%d", ports[0])
	c := etcdtest.Start(t, etcdtest.Options{Configure: listenOn(t, endpoint, &transport.TLSInfo{
		CertFile: servesWith, KeyFile: servesKey, TrustedCAFile: trusted, ClientCertAuth: true,
	})})
	m := member.New(member.Config{Endpoints: []string{endpoint}, CAFile: bundle, CertFile: cert, KeyFile: key}, hclog.NewNullLogger())
	again := func() { c.Stop(0); c.Restart(0) } // etcd reads its CA only when it starts
	works := func(when string) {
		t.Helper()
		if err := everyCall(t.Context(), m); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	works("before")
	trust(bundle, old, fresh)
	trust(trusted, old, fresh)
	again()
	works("when both are trusted")
	show(servesWith, servesKey, fresh, "etcd") // which etcd reads for every connection
	works("when etcd shows the new one's certificate")
	show(cert, key, fresh, "")
	works("when the agent shows the new one's certificate")
	trust(bundle, fresh)
	trust(trusted, fresh)
	again()
	works("when the old one is not trusted any more")
	trust(bundle, old)
	if err := everyCall(t.Context(), m); err == nil {
		t.Error("a bundle that does not trust etcd's CA is not read")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}
