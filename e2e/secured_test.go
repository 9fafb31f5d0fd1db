package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/pki"
)

// Where etcd wants client certificates of clients and peers, agents show theirs: the one in their configuration or,
// where that says nothing, etcd's own.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca := etcdtest.NewCA(t)
	clientCert, clientKey := ca.Issue(t, "requorum")
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	must(t, err)
	c := harness.Start(t, harness.Options{
		HTTPS:     true,
		ClientTLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}},
		Configure: func(node string, a *agent.Config) {
			talkTLS(t, a.Runtime.Process, ca)
			if node != "etcd-3" {
				a.Etcd.CA, a.Etcd.Cert, a.Etcd.Key = ca.File, clientCert, clientKey
			}
		},
	})
	c.Write(200)
	c.Do("snapshot", "check", save(t, c, "before").GetName())
	saved := c.Now()
	c.Write(100)
	restore(t, c, "before")
	holds(t, c, saved)
	overTLS(t, c)
	nothingLeft(t, c)

	was := stands(t, c)
	stranger, strangerKey := etcdtest.NewCA(t).Issue(t, "stranger")
	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Etcd.Cert, a.Etcd.Key = stranger, strangerKey })
	refused(t, c, 3, []string{"snapshot", "save", "--name", "refused"}, "etcd-2", "refuses the client certificate", "cert_file and key_file")
	was.same(t, c)
	nothingLeft(t, c)
}

// talkTLS makes etcd want client certificates of its CA on both ports.
func talkTLS(t *testing.T, p *agent.Process, ca *etcdtest.CA) {
	t.Helper()
	for i, arg := range p.Command {
		p.Command[i] = strings.ReplaceAll(arg, "http://", "https://")
	}
	cert, key := ca.Issue(t, "etcd")
	p.Command = append(p.Command, "--cert-file="+cert, "--key-file="+key, "--trusted-ca-file="+ca.File, "--client-cert-auth",
		"--peer-cert-file="+cert, "--peer-key-file="+key, "--peer-trusted-ca-file="+ca.File, "--peer-client-cert-auth")
}

// overTLS makes sure that the members reach each other by TLS and that nobody gets in without a certificate.
func overTLS(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	list, err := c.Client("etcd-1").MemberList(ctx)
	must(t, err)
	for _, m := range list.Members {
		if len(m.PeerURLs) != 1 || !strings.HasPrefix(m.PeerURLs[0], "https://") {
			t.Errorf("member %s has the peer URLs %v", m.Name, m.PeerURLs)
		}
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: c.Options.ClientTLS.RootCAs}}).DialContext(ctx, "tcp", strings.TrimPrefix(c.Endpoint("etcd-1"), "https://"))
	if err == nil { // in TLS 1.3 the refusal comes with the first byte
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate etcd says %v", err)
	}
}

// Where etcd's authentication is on, it is on after a restore too, with the users of the snapshot's day.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	c := harness.Start(t, harness.Options{Configure: func(_ string, a *agent.Config) {
		a.Etcd.Username, a.Etcd.PasswordFile = "root", password
	}})
	c.Write(200)
	enableAuth(t, c)
	snapshot := save(t, c, "before")
	if !snapshot.GetManifest().GetAuthEnabled() {
		t.Errorf("the snapshot does not know that authentication is on: %v", snapshot.GetManifest())
	}
	c.Do("snapshot", "check", "before")
	saved := c.Now()
	c.Write(100)
	says(t, c.Do("restore", "--snapshot", "before", "--plan"), "the users and passwords of that day come back")
	restore(t, c, "before")
	c.DropClients() // their tokens are of the old cluster
	holds(t, c, saved)
	authIsOn(t, c)
	nothingLeft(t, c)

	was := stands(t, c)
	wrong := filepath.Join(t.TempDir(), "wrong")
	must(t, os.WriteFile(wrong, []byte("guess\n"), 0o600))
	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Etcd.PasswordFile = wrong })
	refused(t, c, 3, []string{"snapshot", "save", "--name", "after"}, "etcd-2", "check username and password_file in the agent's etcd section")
	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Etcd.PasswordFile = filepath.Join(filepath.Dir(wrong), "none") })
	refused(t, c, 3, []string{"snapshot", "save", "--name", "after"}, "etcd-2", "password_file in the agent's etcd section", "no such file")
	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Etcd.Username, a.Etcd.PasswordFile = "", "" })
	refused(t, c, 3, []string{"snapshot", "save", "--name", "after"}, "etcd-2", "authentication is on: set username and password_file")
	was.same(t, c)
	nothingLeft(t, c)
	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Etcd.Username, a.Etcd.PasswordFile = "root", password })
	save(t, c, "after")
}

// enableAuth makes the user root, and the user app who may read what the harness writes, and turns authentication on.
func enableAuth(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	etcd := c.Client("etcd-1")
	for _, do := range []func() error{
		func() error { _, err := etcd.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := etcd.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := etcd.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := etcd.RoleGrantPermission(ctx, "reader", "/e2e/", "/e2e0", clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := etcd.UserAdd(ctx, "app", "of-old"); return err },
		func() error { _, err := etcd.UserGrantRole(ctx, "app", "reader"); return err },
		func() error { _, err := etcd.AuthEnable(ctx); return err },
	} {
		must(t, do())
	}
	c.Options.Username, c.Options.Password = "root", "secret"
	c.DropClients()
}

// authIsOn makes sure that everybody may do what they might before, and nobody more.
func authIsOn(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for _, n := range c.Nodes {
		anybody, err := clientv3.New(clientv3.Config{Endpoints: []string{n.ClientURL}, Logger: zap.NewNop()})
		must(t, err)
		if _, err := anybody.Get(ctx, "/e2e/000001"); !errors.Is(err, rpctypes.ErrUserEmpty) {
			t.Errorf("%s answers a client without a name with %v", n.Name, err)
		}
		must(t, anybody.Close())
		app, err := clientv3.New(clientv3.Config{Endpoints: []string{n.ClientURL}, Username: "app", Password: "of-old", Logger: zap.NewNop()})
		must(t, err)
		if got, err := app.Get(ctx, "/e2e/000001"); err != nil || len(got.Kvs) != 1 {
			t.Errorf("%s answers the user app with %v, %v", n.Name, got, err)
		}
		if _, err := app.Put(ctx, "/e2e/000001", "changed"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("%s answers a user who may not write with %v", n.Name, err)
		}
		must(t, app.Close())
	}
}

const shortLife = 20 * time.Second // of a node's certificate; renewed at two thirds of it

// Agents renew their certificates while the cluster is used, and each role may do what it is for and no more.
func TestCertificatesAndRoles(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Control: func(cc *controller.Config) { cc.NodeCertificateTTL = config.Duration(shortLife) }})
	first := certificates(t, c)
	c.Write(100)
	save(t, c, "first")
	roles(t, c)
	saved := c.Now()

	last := first["etcd-1"].NotAfter()
	for _, creds := range first {
		if creds.NotAfter().After(last) {
			last = creds.NotAfter()
		}
	}
	uses := 0
	for ; time.Now().Before(last); uses++ {
		c.Do("snapshot", "check", "first")
	}
	if uses < 2 {
		t.Errorf("the cluster was used %d times in the life of a certificate", uses)
	}
	for node, n := range nodes(t, c) {
		if !n.GetConnected() {
			t.Errorf("%s is not connected any more", node)
		}
	}
	for node, now := range certificates(t, c) {
		if now.Certificate().SerialNumber.Cmp(first[node].Certificate().SerialNumber) == 0 || !now.NotAfter().After(last) {
			t.Errorf("%s has the certificate of the beginning, good until %s", node, now.NotAfter())
		}
		if code := callAsNode(t, c, now); code == codes.Unauthenticated || code == codes.Unavailable {
			t.Errorf("the new certificate of %s is refused with %s", node, code)
		}
	}
	save(t, c, "later") // goes over the links between the agents, too
	restore(t, c, "first")
	holds(t, c, saved)
	nothingLeft(t, c)
}

// certificates reads the agents' credentials.
func certificates(t *testing.T, c *harness.Cluster) map[string]*pki.Credentials {
	t.Helper()
	all := make(map[string]*pki.Credentials)
	for _, n := range c.Nodes {
		creds, err := pki.LoadBundle(filepath.Join(n.AgentDir, "credentials"))
		must(t, err)
		all[n.Name] = creds
	}
	return all
}

func roles(t *testing.T, c *harness.Cluster) {
	t.Helper()
	dir := t.TempDir()
	as := func(role string, command ...string) []string {
		return append([]string{"--config", filepath.Join(dir, role, "requorum.yaml")}, command...)
	}
	for _, role := range []string{"viewer", "operator", "admin"} {
		c.Do("access", "create", "--name", "the-"+role, "--role", role, "--out", filepath.Join(dir, role))
		c.Do(as(role, "snapshot", "ls")...)
		c.Do(as(role, "cluster", "status")...)
		c.Do(as(role, "restore", "--snapshot", "first", "--plan")...)
	}
	was := stands(t, c)
	for _, command := range [][]string{
		{"snapshot", "save", "--name", "second"}, {"snapshot", "check", "first"}, {"restore", "--snapshot", "first", "--yes"}, {"snapshot", "rm", "first", "--yes"},
	} {
		refused(t, c, 3, as("viewer", command...), "the-viewer", "it is for operators of role")
	}
	was.same(t, c)
	c.Do(as("operator", "snapshot", "save", "--name", "second")...)
	if by := newest(t, c).GetRequestedBy(); !strings.Contains(by, "the-operator") {
		t.Errorf("the save was asked for by %q", by)
	}
	was = stands(t, c)
	for _, command := range [][]string{
		{"snapshot", "rm", "second", "--yes"},
		{"token", "create", "--cluster", harness.Name},
		{"cluster", "remove-node", harness.Name, "etcd-3"},
		{"access", "create", "--name", "mallory", "--role", "admin", "--out", filepath.Join(dir, "mallory")},
	} {
		refused(t, c, 3, as("operator", command...), "the-operator", "it is for operators of role admin")
	}
	if _, err := os.Stat(filepath.Join(dir, "mallory")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written for a certificate that was refused: %v", err)
	}
	was.same(t, c)
	c.Do(as("admin", "snapshot", "rm", "second", "--yes")...)
	refused(t, c, 3, []string{"snapshot", "show", "second"}, "second")
}

// newest returns the operation that was started last.
func newest(t *testing.T, c *harness.Cluster) *requorumv1.Operation {
	t.Helper()
	all := c.Operations()
	if len(all) == 0 {
		t.Fatal(fmt.Errorf("there is no operation"))
	}
	return all[0]
}

// Without a quorum a member lets nobody log in, so nothing can be asked of it; the restore goes on all the same.
func TestAuthenticationWithoutQuorum(t *testing.T) {
	t.Parallel()
	password := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	c := harness.Start(t, harness.Options{Configure: func(_ string, a *agent.Config) {
		a.Etcd.Username, a.Etcd.PasswordFile = "root", password
	}})
	c.Write(200)
	enableAuth(t, c)
	save(t, c, "before")
	saved := c.Now()
	for _, node := range []string{"etcd-1", "etcd-2"} {
		must(t, c.Process(node).Kill()) // so that it does not start etcd again before the disk is lost
		c.KillEtcd(node)
		c.Wipe(node)
		must(t, c.Process(node).Start())
	}
	must(t, c.Process("etcd-3").Kill()) // the login that it had is gone
	must(t, c.Process("etcd-3").Start())
	eventually(t, "the agents are connected", func(ctx context.Context) error {
		r := c.CLI("restore", "--snapshot", "before", "--plan")
		if r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return ctx.Err()
	})
	op := restore(t, c, "before")
	if op.GetSafetySnapshot() == "" { // nobody can log in: it is taken of the old data
		t.Errorf("there is no safety snapshot: %v", op)
	}
	c.DropClients()
	holds(t, c, saved)
	authIsOn(t, c)
	nothingLeft(t, c)
}
