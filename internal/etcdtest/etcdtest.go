// Package etcdtest starts real etcd inside a test: one member or several, on 127.0.0.1, in the test's
// temporary directory, stopped when the test ends. It is for tests only.
package etcdtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// readyTimeout is how long members may take to elect a leader; generous, for slow machines under -race.
const readyTimeout = 60 * time.Second

// Options say what to start. The zero value is one member without TLS and without authentication.
type Options struct {
	Members int  // number of members; 0 for 1
	TLS     bool // clients talk TLS and must show a certificate of the cluster's CA
	Auth    bool // authentication is on, with the user root

	QuotaBytes              int64         // quota-backend-bytes; 0 for etcd's default
	CompactionBatchLimit    int           // revisions that a compaction visits between two pauses; 0 for etcd's default
	CompactionSleepInterval time.Duration // the pause; long with a small limit keeps a compaction unfinished

	// Configure changes the configuration of member i before its first start, nil for nothing.
	Configure func(i int, cfg *embed.Config)
}

// Cluster is a running etcd cluster.
type Cluster struct {
	Endpoints []string // client URLs of the members, in their order
	Token     string   // initial-cluster-token

	CAFile, CertFile, KeyFile string // what a client needs, with Options.TLS
	CA                        *CA    // issues more certificates, with Options.TLS
	Username, PasswordFile    string // of a user with the role root, with Options.Auth
	Password                  string // content of PasswordFile

	t       testing.TB
	members []*Member
}

// Member is one member of a Cluster.
type Member struct {
	Name      string
	DataDir   string
	ClientURL string
	PeerURL   string

	cfg    *embed.Config
	server *embed.Etcd // nil while stopped
}

// Server is the embedded server, nil while the member is stopped.
func (m *Member) Server() *embed.Etcd { return m.server }

// Start starts a cluster, waits until every member is ready, and stops it when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Members == 0 {
		o.Members = 1
	}
	c := &Cluster{t: t}
	t.Cleanup(c.stopAll)
	if o.TLS {
		c.issueCertificates()
	}
	c.startOnFreePorts(o)
	if o.Auth {
		c.enableAuth()
	}
	return c
}

// startOnFreePorts tries again with other ports where another process took one between its choice and the
// start.
func (c *Cluster) startOnFreePorts(o Options) {
	c.t.Helper()
	for attempt := 1; ; attempt++ {
		c.configure(o)
		err := c.start(c.members...)
		if err == nil {
			return
		}
		if attempt == 5 || !errors.Is(err, syscall.EADDRINUSE) {
			c.t.Fatalf("start etcd: %v", err)
		}
		c.stopAll()
	}
}

// Member returns the i-th member, from 0.
func (c *Cluster) Member(i int) *Member { return c.members[i] }

// Len is the number of members.
func (c *Cluster) Len() int { return len(c.members) }

// InitialCluster is the members as etcd's --initial-cluster wants them.
func (c *Cluster) InitialCluster() string {
	pairs := make([]string, len(c.members))
	for i, m := range c.members {
		pairs[i] = m.Name + "=" + m.PeerURL
	}
	return strings.Join(pairs, ",")
}

// Stop stops the members, without handing leadership over, and returns once nothing holds their data.
func (c *Cluster) Stop(indexes ...int) {
	var all sync.WaitGroup
	for _, i := range indexes {
		all.Go(c.members[i].stop)
	}
	all.Wait()
}

// Restart starts stopped members on the data that is in their data directories now, and waits until they
// are ready. Members that need each other for a quorum must be started in one call.
func (c *Cluster) Restart(indexes ...int) {
	c.t.Helper()
	members := make([]*Member, len(indexes))
	for n, i := range indexes {
		members[n] = c.members[i]
	}
	if err := c.start(members...); err != nil {
		c.t.Fatalf("restart etcd: %v", err)
	}
}

// Client returns a client of all members, closed when the test ends.
func (c *Cluster) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	return c.client(t, c.Endpoints)
}

// MemberClient returns a client that talks to the i-th member only, closed when the test ends.
func (c *Cluster) MemberClient(t testing.TB, i int) *clientv3.Client {
	t.Helper()
	return c.client(t, []string{c.members[i].ClientURL})
}

func (c *Cluster) client(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{
		Endpoints: endpoints, DialTimeout: readyTimeout, Logger: zap.NewNop(),
		Username: c.Username, Password: c.Password,
	}
	if c.CA != nil {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			t.Fatalf("client certificate: %v", err)
		}
		cfg.TLS = &tls.Config{RootCAs: c.CA.Pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		t.Fatalf("connect to etcd: %v", err)
	}
	t.Cleanup(func() { _ = client.Close() }) // an error here says only that the test's context ended
	return client
}

// Leader is the index of the leading member. It fails the test if no running member sees a leader.
func (c *Cluster) Leader() int {
	c.t.Helper()
	for _, m := range c.members {
		if m.server == nil {
			continue
		}
		for i, other := range c.members {
			if other.server != nil && m.server.Server.Lead() == uint64(other.server.Server.MemberID()) {
				return i
			}
		}
	}
	c.t.Fatal("no member sees a leader")
	return -1
}

// SaveSnapshot streams a snapshot of the i-th member into a file in the test's temporary directory and
// returns its path.
func (c *Cluster) SaveSnapshot(t testing.TB, i int) string {
	t.Helper()
	client := c.MemberClient(t, i)
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	stream, err := client.Snapshot(ctx)
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "snapshot.db"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadFrom(stream)
	if err = errors.Join(err, stream.Close(), f.Close()); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return f.Name()
}

func (c *Cluster) configure(o Options) {
	c.t.Helper()
	c.members, c.Endpoints = nil, nil
	c.Token = fmt.Sprintf("%s-%d", c.t.Name(), time.Now().UnixNano())
	scheme := "http"
	if o.TLS {
		scheme = "https"
	}
	ports := freePorts(c.t, 2*o.Members)
	for i := range o.Members {
		m := &Member{
			Name:      fmt.Sprintf("m%d", i+1),
			DataDir:   filepath.Join(c.t.TempDir(), "etcd"),
			ClientURL: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[2*i]),
			PeerURL:   fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1]),
		}
		c.members = append(c.members, m)
		c.Endpoints = append(c.Endpoints, m.ClientURL)
	}
	for i, m := range c.members {
		m.cfg = c.config(m, o)
		if o.Configure != nil {
			o.Configure(i, m.cfg)
		}
	}
}

func (c *Cluster) config(m *Member, o Options) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.Name, m.DataDir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls(c.t, m.ClientURL), urls(c.t, m.ClientURL)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls(c.t, m.PeerURL), urls(c.t, m.PeerURL)
	cfg.InitialCluster, cfg.InitialClusterToken = c.InitialCluster(), c.Token
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.UnsafeNoFsync = true
	cfg.BcryptCost = 4
	cfg.QuotaBackendBytes = o.QuotaBytes
	cfg.CompactionBatchLimit = o.CompactionBatchLimit
	cfg.CompactionSleepInterval = o.CompactionSleepInterval
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	if o.TLS {
		cfg.ClientTLSInfo = c.CA.serverTLS(c.t)
	}
	return cfg
}

func (c *Cluster) start(members ...*Member) error {
	for _, m := range members {
		if err := m.start(); err != nil {
			return err
		}
	}
	ready, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	var all errgroup.Group
	for _, m := range members {
		all.Go(func() error { return m.waitReady(ready) })
	}
	return all.Wait()
}

func (m *Member) start() error {
	if m.server != nil {
		return fmt.Errorf("%s is running", m.Name)
	}
	cfg := *m.cfg
	server, err := embed.StartEtcd(&cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	m.server = server
	return nil
}

func (m *Member) waitReady(ctx context.Context) error {
	select {
	case <-m.server.Server.ReadyNotify():
		return nil
	case err := <-m.server.Err():
		return fmt.Errorf("%s: %w", m.Name, err)
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w", m.Name, ctx.Err())
	}
}

func (m *Member) stop() {
	if m.server == nil {
		return
	}
	m.server.Server.HardStop()
	m.server.Close()
	m.server = nil
}

func (c *Cluster) stopAll() {
	var all sync.WaitGroup
	for _, m := range c.members {
		all.Go(m.stop)
	}
	all.Wait()
}

// enableAuth makes the user root and turns authentication on.
func (c *Cluster) enableAuth() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	const user, password = "root", "not-a-secret"
	client := c.Client(c.t)
	_, err := client.UserAdd(ctx, user, password)
	if err == nil {
		_, err = client.UserGrantRole(ctx, user, "root")
	}
	if err == nil {
		_, err = client.AuthEnable(ctx)
	}
	if err != nil {
		c.t.Fatalf("turn authentication on: %v", err)
	}
	c.Username, c.Password = user, password
	c.PasswordFile = filepath.Join(c.t.TempDir(), "password")
	if err := os.WriteFile(c.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func urls(t testing.TB, s string) []url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return []url.URL{*u}
}
