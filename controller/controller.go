// Package controller runs the controller: it wires the pieces below it and serves them.
package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/controller/api"
	"github.com/requorum/requorum/controller/audit"
	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/reconcile"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

const formatVersion = 1

// Run runs a controller until ctx ends. ready, which may be nil, is called with the address that it
// listens on once it serves.
func Run(ctx context.Context, cfg Config, log hclog.Logger, ready func(address string)) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if err := durable.OwnDir(cfg.DataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	db, err := bolt.Open(filepath.Join(cfg.DataDir, "requorum.db"))
	if err != nil {
		return err
	}
	err = serve(ctx, cfg, db, log, ready)
	return errors.Join(err, db.Close())
}

func serve(ctx context.Context, cfg Config, db store.Store, log hclog.Logger, ready func(string)) error {
	epoch, cameBack, err := nextEpoch(db, cfg.EpochAtLeast)
	if err != nil {
		return err
	}
	authority, err := cfg.authority()
	if err != nil {
		return err
	}
	listener, err := grpcserver.Listen(ctx, cfg.Listen, "listen")
	if err != nil {
		return err
	}
	creds, err := newServerCredentials(authority, cfg.hosts(listener.Addr()))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	c, err := wire(cfg, db, authority, epoch, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := writeAdmin(cfg, authority, c.access, listener.Addr().String(), log); err != nil {
		return errors.Join(err, listener.Close())
	}
	if cameBack {
		if err := abandon(db, c.server.Engine, log); err != nil {
			return errors.Join(err, listener.Close())
		}
	}
	server := c.newServer(creds)
	log.Info("controller serves", "address", listener.Addr(), "epoch", epoch, "ca", authority.Fingerprint())
	if ready != nil {
		ready(listener.Addr().String())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.server.Engine.Run(ctx) })
	group.Go(func() error { return c.server.Schedules.Run(ctx) })
	group.Go(func() error { return c.server.Copies.Run(ctx) })
	group.Go(func() error { return c.server.Audit.Run(ctx) })
	group.Go(func() error { return grpcserver.Serve(server, listener) })
	group.Go(func() error { return keepFresh(ctx, creds, authority, cfg.hosts(listener.Addr())) })
	group.Go(func() error {
		<-ctx.Done()
		server.Stop() // streams live as long as their agents, so a graceful stop would never end
		return nil
	})
	return group.Wait()
}

// abandon gives up the operations that an older copy of the data has as under way.
func abandon(db store.Store, engine *operation.Engine, log hclog.Logger) error {
	log.Warn("the data came back from an older copy: operations that were under way in it are abandoned")
	if err := engine.Abandon(); err != nil {
		return err
	}
	return db.Update(func(tx store.Tx) error {
		rec := new(journalv1.ControllerRecord)
		if err := store.Load(tx, store.Controller, "self", rec); err != nil {
			return err
		}
		rec.CameBack = false
		return store.Save(tx, store.Controller, "self", rec)
	})
}

// controller holds the pieces.
type controller struct {
	access *access.Access
	calls  *audit.Calls
	server *api.Server
}

func wire(cfg Config, db store.Store, authority *pki.Authority, epoch uint64, log hclog.Logger) (*controller, error) {
	records := catalog.New(db)
	dispatcher := dispatch.New(epoch, ulid.Make().String(), records, cfg.dispatchOptions(), log.Named("dispatch"))
	nodes, err := records.EveryNode()
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		dispatcher.Recall(dispatch.Key{Cluster: n.GetCluster(), Node: n.GetName()}, n.GetTransferAddress(), n.GetRemoved())
	}
	remotes, err := remote.New(cfg.Remotes)
	if err != nil {
		return nil, err
	}
	snapshots := &snapshot.Jobs{Catalog: records, Fleet: dispatcher, Remotes: remotes, LocalStorage: cfg.LocalStorage, Log: log.Named("snapshot")}
	restores := &restore.Jobs{Catalog: records, Fleet: dispatcher, Remotes: remotes, LocalStorage: cfg.LocalStorage, Log: log.Named("restore")}
	builders := snapshots.Builders()
	maps.Copy(builders, restores.Builders())
	engine := operation.NewEngine(db, dispatcher, epoch, builders, log.Named("operation"))
	snapshots.Engine, restores.Engine = engine, engine
	schedules := &schedule.Scheduler{
		Store: db, Catalog: records, Engine: engine, Snapshots: snapshots, Fleet: dispatcher, Remotes: remotes, Log: log.Named("schedule"),
	}
	audited, err := audit.Open(db, cfg.auditOptions(), log.Named("audit"))
	if err != nil {
		return nil, err
	}
	engine.Audit = audited
	calls := &audit.Calls{Log: audited, Audited: access.Audited, Cluster: clusterOf(engine)}
	entry := access.New(db, authority, log.Named("access"), access.Options{
		NodeTTL:     cfg.NodeCertificateTTL.Std(),
		Denied:      calls.Denied,
		KeysChanged: func(cluster, node string) { dispatcher.KeysChanged(dispatch.Key{Cluster: cluster, Node: node}) },
	})
	calls.Admit = func(ctx context.Context, method string) error {
		if method != agentv1.EnrollService_Enroll_FullMethodName {
			return nil
		}
		return api.Status(entry.MayTryToEnroll(ctx))
	}
	return &controller{access: entry, calls: calls, server: &api.Server{
		Access: entry, Catalog: records, Dispatcher: dispatcher, Engine: engine,
		Snapshots: snapshots, Restores: restores, Remotes: remotes, Schedules: schedules, Audit: audited, Log: log.Named("api"),
		Copies: &reconcile.Reconciler{Catalog: records, Fleet: dispatcher, Engine: engine, Remotes: remotes, Every: cfg.ReconcileEvery.Std(), Log: log.Named("reconcile")},
	}}, nil
}

// clusterOf tells which cluster an operation is about, for the audit log.
func clusterOf(engine *operation.Engine) func(id string) string {
	return func(id string) string {
		op, err := engine.Get(id)
		if err != nil {
			return "" // the call that names it fails, and says so
		}
		return op.GetCluster()
	}
}

func (c *controller) newServer(creds *pki.Credentials) *grpc.Server {
	options := append(c.access.ServerOptions(creds), // which come first: what nobody may call is not noted as a call
		grpc.ChainUnaryInterceptor(c.calls.Unary), grpc.ChainStreamInterceptor(c.calls.Stream),
		grpc.WaitForHandlers(true)) // they use the store, which is closed next
	server := grpc.NewServer(options...)
	c.server.Register(server)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	return server
}

// nextEpoch counts this start. Agents obey the controller of the highest epoch only. cameBack tells
// whether atLeast raised the epoch above the count: the data is from an older copy.
func nextEpoch(db store.Store, atLeast uint64) (epoch uint64, cameBack bool, err error) {
	rec := new(journalv1.ControllerRecord)
	err = db.Update(func(tx store.Tx) error {
		if err := store.Load(tx, store.Controller, "self", rec); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if rec.GetFormatVersion() > formatVersion {
			return fmt.Errorf("the data directory was written by a newer requorum (format %d, this one knows %d)", rec.GetFormatVersion(), formatVersion)
		}
		rec.CameBack = rec.GetCameBack() || atLeast > rec.GetEpoch()+1
		rec.Epoch, rec.FormatVersion = max(rec.GetEpoch()+1, atLeast), formatVersion
		return store.Save(tx, store.Controller, "self", rec)
	})
	return rec.GetEpoch(), rec.GetCameBack(), err
}

const serverTTL = 90 * 24 * time.Hour

// newServerCredentials makes the controller's own certificate, with a key that is never written.
func newServerCredentials(authority *pki.Authority, hosts []string) (*pki.Credentials, error) {
	cert, key, err := newCertificate(authority, pki.ControllerIdentity(), serverTTL, hosts)
	if err != nil {
		return nil, err
	}
	return pki.NewCredentials(cert, key, authority.CAPEM())
}

func newCertificate(authority *pki.Authority, id pki.Identity, ttl time.Duration, hosts []string) (certPEM, keyPEM []byte, err error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	if keyPEM, err = pki.KeyPEM(key); err != nil {
		return nil, nil, err
	}
	certPEM, err = authority.Issue(key.Public(), id, ttl, hosts)
	return certPEM, keyPEM, err
}

// keepFresh replaces the controller's certificate in good time.
func keepFresh(ctx context.Context, creds *pki.Credentials, authority *pki.Authority, hosts []string) error {
	for {
		timer := time.NewTimer(max(time.Until(creds.RenewAfter()), time.Minute)) // a CA that expires leaves ever less
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		cert, key, err := newCertificate(authority, pki.ControllerIdentity(), serverTTL, hosts)
		if err != nil {
			return err
		}
		if err := creds.Replace(cert, key, authority.CAPEM()); err != nil {
			return err
		}
	}
}

const adminTTL = 365 * 24 * time.Hour

// writeAdmin makes the first admin's certificate, and a client configuration that uses it.
func writeAdmin(cfg Config, authority *pki.Authority, entry *access.Access, address string, log hclog.Logger) error {
	dir := filepath.Join(cfg.DataDir, "admin")
	settings := filepath.Join(dir, "requorum.yaml")
	if _, err := os.Stat(settings); err == nil {
		return nil
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cert, key, err := newCertificate(authority, pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "admin"), adminTTL, nil)
	if err != nil {
		return err
	}
	if err := entry.NoteFirstAdmin(cert); err != nil { // first: what is handed out is known
		return err
	}
	text := fmt.Sprintf("controller: %s\nca: ca.crt\ncert: client.crt\nkey: client.key\n", cfg.reachedAt(address))
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"ca.crt", authority.CAPEM()},
		{"client.crt", cert},
		{"client.key", key},
		{"requorum.yaml", []byte(text)}, // last: its presence says that the others are complete
	} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, 0o600); err != nil {
			return err
		}
	}
	log.Info("the first admin's certificate is written", "config", settings)
	return nil
}
